package usernet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"vhostnet/nbl"
)

// What a Network cannot be made from is refused by a sentence that says what it
// can; nothing of it is left.
func TestNewRefuses(t *testing.T) {
	noLeak(t)
	l := newSwitch(t)
	for _, c := range []struct {
		change func(*Options)
		want   string
	}{
		{func(o *Options) { o.Switch = nil }, "needed"},
		{func(o *Options) { o.MAC = [6]byte{1} }, "group"},
		{func(o *Options) { o.IPv4 = netip.MustParsePrefix("10.0.2.2/31") }, "8 to 30"},
		{func(o *Options) { o.IPv4 = netip.MustParsePrefix("127.0.0.1/8") }, "no station's address"},
		{func(o *Options) { o.IPv6 = netip.MustParsePrefix("fd00::1/48") }, "64"},
		{func(o *Options) { o.IPv6 = netip.MustParsePrefix("fe80::1/64") }, "no station's address"},
		{func(o *Options) { o.IPv4 = netip.MustParsePrefix("10.0.2.0/24") }, "such as 10.0.2.2/24"},
		{func(o *Options) { o.IPv4 = netip.MustParsePrefix("fd00::1/64") }, "one of IPv4"},
		{func(o *Options) {
			o.Services.Reservations = []Reservation{{Port: "a", IPv4: netip.MustParseAddr("10.0.2.2")}}
		}, "gateway's own"},
		{func(o *Options) { o.MTU = 1000 }, "1280 to 65535"},
		{func(o *Options) { o.Limits.Flows = -1 }, "limit Flows"},
		{func(o *Options) { o.Limits.FlowIdle = -1 }, "FlowIdle"},
		{func(o *Options) {
			o.Forwards = []Forward{{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.MustParseAddrPort("10.0.2.15:22")}, {Network: "tcp", Listen: "x", Guest: netip.AddrPort{}}}
		}, "forward"},
	} {
		o := Options{Name: "user", Switch: l.s, Group: l.group, Log: hclog.NewNullLogger()}
		c.change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v; want %q in it", err, c.want)
		}
	}
}

// A Network that never ran gives everything back, and one runs once.
func TestLife(t *testing.T) {
	noLeak(t)
	l := newSwitch(t)
	n, err := New(Options{
		Name: "user", Switch: l.s, Group: l.group, Log: hclog.NewNullLogger(),
		Forwards: []Forward{{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.MustParseAddrPort("10.0.2.15:22")}, {Network: "udp", Listen: "127.0.0.1:0", Guest: netip.MustParseAddrPort("10.0.2.15:53")}},
	})
	l.must(err)
	l.must(n.Close(context.Background()))
	if err := n.Run(context.Background()); err == nil {
		t.Error("a Network runs that was closed")
	}
	if err := n.AddForward(Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.MustParseAddrPort("10.0.2.15:22")}); err == nil {
		t.Error("a Network that was closed takes a forward")
	}

	on := newLab(t, Options{Host: true})
	g := newTestGuest(on, 1, nbl.UplinkFeatures)
	at := echoUDP(t, "127.0.0.1:0")
	c := g.dialUDP(netip.AddrPortFrom(gateways[0], at.Port()))
	exchange(t, c, []byte("before"))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	on.must(on.n.Drain(ctx))
	before := on.n.Snapshot().Port.TxFrames
	_, err = c.Write([]byte("after"))
	on.must(err)
	on.wait("the answer to be kept back", func() bool { return !on.n.out.empty() })
	if n := on.n.Snapshot().Port.TxFrames; n != before {
		t.Errorf("%d packets went to guests after Drain", n-before)
	}
	on.end()
	on.must(on.n.Close(ctx))
	if err := on.n.Run(ctx); err == nil {
		t.Error("a Network runs twice")
	}
}

// A Network that ends while connections and flows are open breaks them off, on
// both sides, and leaves nothing.
func TestEndWithOpenConnections(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	broken := make(chan error, 8)
	at := server(t, "127.0.0.1:0", func(c net.Conn) {
		_, err := io.Copy(io.Discard, c)
		broken <- err
	})
	for range cap(broken) {
		c, err := g.dial(netip.AddrPortFrom(gateways[0], at.Port()))
		l.must(err)
		_, err = c.Write([]byte("and nothing more"))
		l.must(err)
		t.Cleanup(func() { c.Close() })
	}
	udp := echoUDP(t, "127.0.0.1:0")
	exchange(t, g.dialUDP(netip.AddrPortFrom(gateways[0], udp.Port())), []byte("flow"))
	l.wait("the connections", func() bool { return l.n.Snapshot().Connections == uint64(cap(broken)) })
	l.end()
	for range cap(broken) {
		select {
		case err := <-broken:
			if err == nil {
				t.Error("the host saw the end of a stream that was broken off")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the host's side of a connection is open though the network has ended")
		}
	}
	if s := l.n.Snapshot(); s.Connections != 0 || s.Flows != 0 {
		t.Errorf("%d connections and %d flows are left", s.Connections, s.Flows)
	}
}

// What one side breaks off is broken off on the other, and what it only ends is
// ended: the other may go on.
func TestEndsOfConnections(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	hosts := make(chan *net.TCPConn, 1)
	release := make(chan struct{})
	at := server(t, "127.0.0.1:0", func(c net.Conn) {
		hosts <- c.(*net.TCPConn)
		<-release
	})
	defer close(release)
	open := func() (*gonet.TCPConn, *net.TCPConn) {
		c, err := g.dial(netip.AddrPortFrom(gateways[0], at.Port()))
		l.must(err)
		h := <-hosts
		for _, each := range []net.Conn{c, h} {
			l.must(each.SetDeadline(time.Now().Add(20 * time.Second)))
		}
		return c, h
	}
	b := make([]byte, 10)

	guest, host := open() // the guest says its last byte, and hears more
	l.must(guest.CloseWrite())
	if _, err := host.Read(b); !errors.Is(err, io.EOF) {
		t.Errorf("the guest ended its side, the host reads %v", err)
	}
	_, err := host.Write([]byte("more"))
	l.must(err)
	if n, err := io.ReadFull(guest, b[:4]); err != nil || string(b[:n]) != "more" {
		t.Errorf("behind its own end the guest reads %q, %v", b[:n], err)
	}
	l.must(host.Close())
	if _, err := guest.Read(b); !errors.Is(err, io.EOF) {
		t.Errorf("the host closed, the guest reads %v", err)
	}
	guest.Close()

	guest, host = open() // the host breaks off
	l.must(host.SetLinger(0))
	l.must(host.Close())
	if _, err := guest.Read(b); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the host broke off, the guest reads %v", err)
	}
	guest.Close()
	l.wait("the connections to end", func() bool { return l.n.Snapshot().Connections == 0 })
}
