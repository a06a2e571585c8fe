package usernet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"

	"vhostnet/internal/sys"
	"vhostnet/nbl"
)

// dialUDP is a socket of the guest.
func (g *testGuest) dialUDP(to netip.AddrPort) *gonet.UDPConn {
	g.t.Helper()
	c, err := gonet.DialUDP(g.stack, nil, &tcpip.FullAddress{NIC: nicID, Addr: stackAddress(to.Addr()), Port: to.Port()}, protocolOf(to.Addr()))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	return c
}

// echoUDP answers datagrams on the host's loopback until the test ends.
func echoUDP(t testing.TB, address string) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteTo(b[:n], from)
			}
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

// exchange sends b until its echo comes.
func exchange(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	got := make([]byte, maxDatagram)
	for try := 0; ; try++ {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := c.Read(got)
		if err == nil && bytes.Equal(got[:n], b) {
			return
		}
		if try == 5 {
			t.Fatalf("no echo of %d bytes: %d, %v", len(b), n, err)
		}
	}
}

// Datagrams come back, also those that are longer than the MTU on the way to the
// guest; a flow that is not used ends, and its socket with it.
func TestUDPEcho(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true, Limits: Limits{FlowIdle: 1500 * time.Millisecond}})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	for _, a := range gateways {
		at := echoUDP(t, loopbackOf(a))
		c := g.dialUDP(netip.AddrPortFrom(a, at.Port()))
		for _, n := range []int{0, 1, 100, 1400} {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(rand.Uint32())
			}
			exchange(t, c, b)
		}
	}
	if s := l.n.Snapshot(); s.Flows != 2 || s.FlowsMade != 2 {
		t.Errorf("%d flows of %d made, want 2 of 2", s.Flows, s.FlowsMade)
	}
	l.wait("the flows to end", func() bool { return l.n.Snapshot().Flows == 0 })
}

// A long answer comes in fragments, which the guest's stack puts together.
func TestUDPFragments(t *testing.T) {
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	for _, a := range gateways {
		long := make([]byte, 20000)
		for i := range long {
			long[i] = byte(i * 31 >> 3)
		}
		c, err := net.ListenPacket("udp", loopbackOf(a))
		l.must(err)
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = c.WriteTo(long, from)
			}
		}()
		conn := g.dialUDP(netip.AddrPortFrom(a, netip.MustParseAddrPort(c.LocalAddr().String()).Port()))
		got := make([]byte, maxDatagram)
		n := 0
		for try := 0; n != len(long) && try < 5; try++ {
			_, err = conn.Write([]byte("long"))
			l.must(err)
			_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
			n, _ = conn.Read(got)
		}
		if !bytes.Equal(got[:n], long) {
			t.Errorf("%v: %d bytes came, want %d, the same", a, n, len(long))
		}
		c.Close()
	}
}

// What nobody listens to is told by ICMP, as the guest's stack says it to its
// program.
func TestUDPRefused(t *testing.T) {
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	for _, a := range gateways {
		closed, err := net.ListenPacket("udp", loopbackOf(a))
		l.must(err)
		port := netip.MustParseAddrPort(closed.LocalAddr().String()).Port()
		closed.Close()
		c := g.dialUDP(netip.AddrPortFrom(a, port))
		var unreachable atomic.Uint32
		show := func(f []byte) {
			h, ok := parseIP(binary.BigEndian.Uint16(f[12:]), f[ethernetLen:])
			if !ok || h.src != a {
				return
			}
			if h.proto == protoICMP && h.payload[0] == icmpUnreachable && h.payload[1] == 3 && sum(h.payload) == 0 ||
				h.proto == protoICMPv6 && h.payload[0] == icmp6Unreachable && h.payload[1] == 4 && transportSum(h.src, h.dst, protoICMPv6, h.payload) == 0 {
				unreachable.Add(1)
			}
		}
		g.raw.Store(&show)
		_, _ = c.Write([]byte("anybody?"))
		l.wait("a port to be unreachable", func() bool { return unreachable.Load() > 0 })
	}
}

// A datagram that is longer than the way takes comes back as packet too big, with
// the MTU, when its sender wants to know.
func TestPacketTooBig(t *testing.T) {
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	var mtus [2]atomic.Uint32
	show := func(f []byte) {
		h, ok := parseIP(binary.BigEndian.Uint16(f[12:]), f[ethernetLen:])
		switch {
		case !ok:
		case h.proto == protoICMP && h.payload[0] == icmpUnreachable && h.payload[1] == 4:
			mtus[0].Store(uint32(binary.BigEndian.Uint16(h.payload[6:])))
		case h.proto == protoICMPv6 && h.payload[0] == icmp6TooBig:
			mtus[1].Store(binary.BigEndian.Uint32(h.payload[4:]))
		}
	}
	g.raw.Store(&show)
	g.dialUDP(netip.AddrPortFrom(gateways[0], 9)).Write([]byte{1}) //nolint:errcheck // teaches the addresses
	g.dialUDP(netip.AddrPortFrom(gateways[1], 9)).Write([]byte{1}) //nolint:errcheck // likewise
	l.wait("both addresses to be known", func() bool { return l.n.stations.find(g.v4) != nil && l.n.stations.find(g.v6) != nil })
	p, b := l.n.newIP(l.n.mac, g.v4, gateways[0], protoUDP, udpLen)
	clear(b)
	l.n.sendError(sys.TooBig, p.frame[ethernetLen:], 1400)
	p, b = l.n.newIP(l.n.mac, g.v6, gateways[1], protoUDP, udpLen)
	clear(b)
	l.n.sendError(sys.TooBig, p.frame[ethernetLen:], 1300)
	l.wait("packet too big", func() bool { return mtus[0].Load() == 1400 && mtus[1].Load() == 1300 })
}

// ping sends an echo request from the guest and waits for the reply.
func (g *testGuest) ping(to netip.Addr, wait time.Duration) error {
	var wq waiter.Queue
	we, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	wq.EventRegister(&we)
	proto, b := icmp.ProtocolNumber4, []byte{icmpEcho, 0, 0, 0, 0, 0, 0, 1, 'p', 'i', 'n', 'g'}
	if to.Is6() {
		proto = icmp.ProtocolNumber6
		b[0] = icmp6Echo
	}
	ep, terr := g.stack.NewEndpoint(proto, protocolOf(to), &wq)
	if terr != nil {
		return errors.New(terr.String())
	}
	defer ep.Close()
	if terr := ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: stackAddress(to)}); terr != nil {
		return errors.New(terr.String())
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), wait, errTimeout)
	defer cancel()
	for {
		if _, terr := ep.Write(bytes.NewReader(b), tcpip.WriteOptions{}); terr != nil {
			return errors.New(terr.String())
		}
		select {
		case <-ready:
		case <-time.After(500 * time.Millisecond):
			if ctx.Err() == nil {
				continue
			}
		}
		got := make([]byte, 100)
		w := tcpip.SliceWriter(got)
		res, terr := ep.Read(&w, tcpip.ReadOptions{})
		switch {
		case terr != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case terr != nil:
			continue
		case !bytes.Equal(got[8:res.Count], b[8:]):
			return errHash
		}
		return nil
	}
}

// The gateway answers echo requests; beyond it the host sends them, or says in
// the log, once, that it does not.
func TestPing(t *testing.T) {
	noLeak(t)
	var log lines
	l := newLab(t, Options{Host: true, Log: hclog.New(&hclog.LoggerOptions{Output: &log})})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	for _, a := range gateways {
		l.must(g.ping(a, 10*time.Second))
	}
	beyond := hostAddress4(t)
	if !beyond.IsValid() {
		return // TestBeyondTheGateway pings beyond the gateway on any host
	}
	s, why, _ := sys.DialPing(beyond)
	if s != nil {
		l.must(s.Close())
		l.must(g.ping(beyond, 10*time.Second))
		if got := l.n.Snapshot(); got.PingForbidden != 0 || got.Flows != 1 {
			t.Errorf("%d forbidden, %d flows; want 0 and 1", got.PingForbidden, got.Flows)
		}
		return
	}
	if why != sys.Forbidden {
		t.Fatalf("no ping socket: %v", why)
	}
	for range 3 {
		_ = g.ping(beyond, time.Second)
	}
	if n := log.count("ping_group_range"); n != 1 {
		t.Errorf("%d lines of the log say how to allow ping, want 1:\n%s", n, &log)
	}
}

// hostAddress4 is an address of the host that is not the loopback's; invalid if it
// has none.
func hostAddress4(t testing.TB) netip.Addr {
	t.Helper()
	list, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range list {
		if p, err := netip.ParsePrefix(each.String()); err == nil && p.Addr().Is4() && usable(p.Addr()) && !DefaultIPv4.Contains(p.Addr()) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// A guest that is not let to the host reaches none of its addresses.
func TestHostIsClosed(t *testing.T) {
	l := newLab(t, Options{})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	at := server(t, "127.0.0.1:0", func(net.Conn) { t.Error("a guest reached the host") })
	if c, err := g.dial(netip.AddrPortFrom(gateways[0], at.Port())); err == nil {
		c.Close()
		t.Error("the gateway took a connection")
	}
	if _, ok := l.n.target(netip.MustParseAddr("192.0.2.1")); !ok {
		t.Error("an address outside is not reached")
	}
	for _, a := range []string{"10.0.2.2", "127.0.0.1", "127.1.2.3", "0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1", "255.255.255.255", "10.0.2.77", "::1", "fe80::1", "ff02::1", "::", "::ffff:127.0.0.1", "::ffff:192.0.2.1", "fd76:686f:7374::2"} {
		if to, ok := l.n.target(netip.MustParseAddr(a)); ok {
			t.Errorf("%s reaches %v", a, to)
		}
	}
	if own := hostAddress4(t); own.IsValid() {
		if _, ok := l.n.target(own); ok {
			t.Errorf("the host's own address %v is reached", own)
		}
	}
	if s := l.n.Snapshot(); s.ConnectRefused != 1 {
		t.Errorf("%d connections were refused, want 1", s.ConnectRefused)
	}
}
