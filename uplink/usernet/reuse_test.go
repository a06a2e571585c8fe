package usernet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"vhostnet/nbl"
)

// A guest takes a port again as soon as it is free on its side, which it is at once
// when the host closed first.
func TestGuestTakesPortAgain(t *testing.T) {
	noLeak(t)
	const times = 20
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	for _, gateway := range gateways {
		at := server(t, loopbackOf(gateway), func(net.Conn) {})
		for i := range times {
			c, err := g.dialFrom(l, 40000, netip.AddrPortFrom(gateway, at.Port()))
			if err != nil {
				t.Fatalf("connection %d to %v from the same port: %v; %+v", i+1, gateway, err, l.n.Snapshot())
			}
			l.must(c.SetDeadline(time.Now().Add(20 * time.Second)))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Fatalf("connection %d to %v: %v, want its end", i+1, gateway, err)
			}
			l.must(c.Close())
		}
	}
	l.wait("no connection to be left", func() bool { return l.n.stack.Stats().TCP.CurrentConnected.Value() == 0 })
}

// A SYN that comes while the stack is not done with the connection before is neither
// lost nor refused.
func TestPortTakenAgainTooEarly(t *testing.T) {
	noLeak(t)
	const times = 20
	l := newLab(t, Options{Host: true})
	late := tcpip.TCPTimeWaitTimeoutOption(3 * time.Millisecond)
	l.mustStack(l.n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &late))
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	at := server(t, "127.0.0.1:0", func(net.Conn) {})
	for i := range times {
		c, err := g.dialFrom(l, 40000, netip.AddrPortFrom(gateways[0], at.Port()))
		if err != nil {
			t.Fatalf("connection %d: %v; %+v", i+1, err, l.n.Snapshot())
		}
		l.must(c.SetDeadline(time.Now().Add(20 * time.Second)))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("connection %d: %v, want its end", i+1, err)
		}
		l.must(c.Close())
	}
	// Each sends a SYN, two acknowledgements and its end; more when the machine is busy.
	if n := g.stack.Stats().TCP.SegmentsSent.Value(); n > 4*times+times/2 {
		t.Errorf("the guest sent %d packets for %d connections: SYNs are lost", n, times)
	}
	l.wait("no SYN to wait", func() bool {
		l.n.dials.mu.Lock()
		defer l.n.dials.mu.Unlock()
		return len(l.n.dials.waiting) == 0
	})
}

// A guest that answers and closes at once is heard.
func TestForwardToAGuestThatClosesAtOnce(t *testing.T) {
	noLeak(t)
	const times, banner = 4000 / raceSlow, "220 hello"
	l := newLab(t, Options{})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	l.must(l.n.AddForward(Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.AddrPortFrom(g.v4, 80)}))
	ln, err := gonet.ListenTCP(g.stack, tcpip.FullAddress{NIC: nicID, Addr: stackAddress(g.v4), Port: 80}, protocolOf(g.v4))
	l.must(err)
	var guest sync.WaitGroup
	guest.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, banner)
			_ = c.Close()
		}
	})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for i := range times / 8 {
				c, err := net.DialTimeout("tcp", l.n.Forwards()[0].Address, 20*time.Second)
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				if b, err := io.ReadAll(c); string(b) != banner || err != nil {
					t.Errorf("connection %d: %q, %v", i+1, b, err)
				}
				c.Close()
			}
		})
	}
	callers.Wait()
	ln.Close()
	guest.Wait()
}

// dialFrom connects from one of the guest's ports, once it is free.
func (g *testGuest) dialFrom(l *lab, port uint16, to netip.AddrPort) (c *gonet.TCPConn, err error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Second, errTimeout)
	defer cancel()
	local := tcpip.FullAddress{Addr: stackAddress(g.v4), Port: port}
	if to.Addr().Is6() {
		local.Addr = stackAddress(g.v6)
	}
	remote := tcpip.FullAddress{NIC: nicID, Addr: stackAddress(to.Addr()), Port: to.Port()}
	inUse := (&tcpip.ErrPortInUse{}).String()
	l.wait("the guest's port to be free", func() bool {
		c, err = gonet.DialTCPWithBind(ctx, g.stack, local, remote, protocolOf(to.Addr()))
		return err == nil || !strings.Contains(err.Error(), inUse)
	})
	return c, err
}
