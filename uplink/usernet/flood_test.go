package usernet

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/nbl"
)

// A thousand connections at once, each of which carries bytes both ways, and
// nothing is left of them.
func TestManyConnections(t *testing.T) {
	noLeak(t)
	const conns, size = 1000 / raceSlow, 20000
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	var all sync.WaitGroup // every one is open before the first one ends
	all.Add(conns)
	at := server(t, "127.0.0.1:0", func(c net.Conn) {
		n, err := receive(c)
		if err == nil {
			err = transfer(c, 5, n)
		}
		if err != nil {
			t.Errorf("the host's side: %v", err)
		}
	})
	var wg sync.WaitGroup
	for range conns {
		wg.Go(func() {
			c, err := g.dial(netip.AddrPortFrom(gateways[0], at.Port()))
			all.Done()
			if err != nil {
				t.Errorf("connect: %v", err)
				return
			}
			defer c.Close()
			all.Wait()
			_ = c.SetDeadline(time.Now().Add(60 * time.Second))
			if err := transfer(c, 6, size); err != nil {
				t.Errorf("send: %v", err)
			}
			if n, err := receive(c); err != nil || n != size {
				t.Errorf("%d bytes came back: %v", n, err)
			}
		})
	}
	all.Wait()
	if s := l.n.Snapshot(); s.Connections != conns || s.ConnectLimit+s.ConnectingLimit != 0 {
		t.Errorf("%d connections are open, %d and %d were beyond limits; want %d, 0, 0", s.Connections, s.ConnectLimit, s.ConnectingLimit, conns)
	}
	wg.Wait()
	l.wait("the connections to end", func() bool { return l.n.Snapshot().Connections == 0 })
	l.wait("their SYNs to be forgotten", func() bool {
		l.n.dials.mu.Lock()
		defer l.n.dials.mu.Unlock()
		return len(l.n.dials.m) == 0
	})
}

// forge is a frame of the guest's to the gateway with an IP packet from src to
// dst.
func (g *testGuest) forge(l *lab, src, dst netip.Addr, proto uint8, payload []byte) []byte {
	p, b := l.n.newIP(l.n.mac, src, dst, proto, len(payload))
	copy(b, payload)
	copy(p.frame[6:], g.mac[:])
	out := append(make([]byte, headerLen), p.frame...)
	p.free()
	return out
}

// syn is a TCP header that asks for a connection.
func syn(src, dst netip.AddrPort) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	b[12], b[13] = 0x50, 2
	binary.BigEndian.PutUint16(b[14:], 65535)
	binary.BigEndian.PutUint16(b[16:], transportSum(src.Addr(), dst.Addr(), protoTCP, b))
	return b
}

// A guest that floods SYNs gets as many answers as it may have and no more; its
// neighbour connects as before.
func TestSYNFlood(t *testing.T) {
	noLeak(t)
	const flood, limit = 20000 / raceSlow, 32
	l := newLab(t, Options{Host: true, Limits: Limits{GuestConnecting: limit}})
	bad, good := newTestGuest(l, 1, nbl.UplinkFeatures), newTestGuest(l, 2, nbl.UplinkFeatures)
	at := server(t, "127.0.0.1:0", func(c net.Conn) {
		if n, err := receive(c); err == nil {
			_ = transfer(c, 5, n)
		}
	})
	to := netip.AddrPortFrom(gateways[0], at.Port())
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range flood {
			// To a station that is there and does not answer the handshake's last
			// step: these SYNs stay in the air.
			from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, byte(150 + i%8)}), uint16(1024+i/8))
			bad.send(bad.forge(l, from.Addr(), to.Addr(), protoTCP, syn(from, to)))
		}
	}()
	for range 20 {
		c, err := good.dial(to)
		if err != nil {
			t.Fatalf("the neighbour's connection: %v; %+v", err, l.n.Snapshot())
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		l.must(transfer(c, 1, 1000))
		_, err = receive(c)
		l.must(err)
		c.Close()
	}
	<-sent
	l.wait("the flood to be looked at", func() bool { return l.n.Snapshot().ConnectingLimit > flood/2 })
	if n := l.n.guests.of(l.s, bad.id, 0).connecting.Load(); n > limit {
		t.Errorf("the flood has %d SYNs in the air, want at most %d", n, limit)
	}
	if n := l.n.guests.of(l.s, good.id, 0).connecting.Load(); n != 0 {
		t.Errorf("the neighbour has %d SYNs in the air, want none", n)
	}
}

// A guest that begins flow after flow gets as many as it may have; its neighbour's
// datagrams go on.
func TestUDPFlood(t *testing.T) {
	noLeak(t)
	const flood, limit = 20000 / raceSlow, 50
	l := newLab(t, Options{Host: true, Limits: Limits{GuestFlows: limit}})
	bad, good := newTestGuest(l, 1, nbl.UplinkFeatures), newTestGuest(l, 2, nbl.UplinkFeatures)
	at := echoUDP(t, "127.0.0.1:0")
	to := netip.AddrPortFrom(gateways[0], at.Port())
	conn := good.dialUDP(to)
	exchange(t, conn, []byte("before"))
	go func() {
		for i := range flood {
			b := make([]byte, udpLen)
			binary.BigEndian.PutUint16(b, uint16(i))
			binary.BigEndian.PutUint16(b[2:], to.Port())
			binary.BigEndian.PutUint16(b[4:], udpLen)
			bad.send(bad.forge(l, bad.v4, to.Addr(), protoUDP, b))
		}
	}()
	for i := range 50 {
		exchange(t, conn, []byte{byte(i)})
	}
	l.wait("the flood to be looked at", func() bool {
		s := l.n.Snapshot()
		return s.FlowLimit+s.InboxFull > flood-2*limit
	})
	if n := l.n.guests.of(l.s, bad.id, 0).flows.Load(); n != limit {
		t.Errorf("the flood has %d flows, want %d", n, limit)
	}
	if n := l.n.guests.of(l.s, good.id, 0).flows.Load(); n != 1 {
		t.Errorf("the neighbour has %d flows, want 1", n)
	}
}

// A guest has the addresses that it used first, and not another's.
func TestAddresses(t *testing.T) {
	const limit = 4
	l := newLab(t, Options{Host: true, Limits: Limits{GuestAddresses: limit}})
	bad, good := newTestGuest(l, 1, nbl.UplinkFeatures), newTestGuest(l, 2, nbl.UplinkFeatures)
	at := echoUDP(t, "127.0.0.1:0")
	conn := good.dialUDP(netip.AddrPortFrom(gateways[0], at.Port()))
	exchange(t, conn, []byte("before"))
	udp := []byte{0, 1, 0, 9, 0, 8, 0, 0}
	bad.send(bad.forge(l, good.v4, gateways[0], protoUDP, udp))
	l.wait("the forged packet to be refused", func() bool { return l.n.Snapshot().AddressConflict == 1 })
	if st := l.n.stations.find(good.v4); st == nil || st.guest != l.n.guests.of(l.s, good.id, 0) {
		t.Error("a guest took its neighbour's address")
	}
	exchange(t, conn, []byte("after"))
	for i := range 10 {
		bad.send(bad.forge(l, netip.AddrFrom4([4]byte{10, 0, 2, byte(200 + i)}), gateways[0], protoUDP, udp))
	}
	for _, a := range []string{"192.0.2.1", "10.0.3.1", "10.0.2.2"} {
		bad.send(bad.forge(l, netip.MustParseAddr(a), gateways[0], protoUDP, udp))
	}
	l.wait("them to be counted", func() bool {
		s := l.n.Snapshot()
		return s.AddressLimit == 10-limit && s.AddressForeign == 3
	})
}

// Packets to one guest take half of the queue at most, however many there are.
func TestShareOfQueue(t *testing.T) {
	noLeak(t)
	l := newSwitch(t)
	n, err := New(Options{Name: "user", Switch: l.s, Group: l.group, Log: hclog.NewNullLogger(), Limits: Limits{Queue: 16}})
	l.must(err)
	one, other := &guest{name: "one"}, &guest{name: "other"}
	put := func(g *guest, count int) {
		for range count {
			p := newPacket(100)
			p.guest = g
			n.out.putOwn(p)
		}
	}
	put(one, 50)
	if got := one.coming.Load(); got != 8 || n.counters.outFull.Value() != 42 {
		t.Errorf("one guest has %d places of 16, %d packets were dropped; want 8 and 42", got, n.counters.outFull.Value())
	}
	put(other, 50)
	if got := other.coming.Load(); got != 8 {
		t.Errorf("the other guest has %d places of 16, want 8", got)
	}
	if got := n.out.get(3); got != 3 || one.coming.Load() != 5 {
		t.Errorf("%d packets taken, %d left to the first guest; want 3 and 5", got, one.coming.Load())
	}
	for _, it := range n.out.items[:3] {
		it.free()
	}
	l.must(n.Close(context.Background()))
}

// A guest's many connections have small buffers, and carry all the same.
func TestManyConnectionsHaveSmallBuffers(t *testing.T) {
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	at := server(t, "127.0.0.1:0", func(c net.Conn) {
		if n, err := receive(c); err == nil {
			_ = transfer(c, 7, n)
		}
	})
	for range fullBuffers + 2 {
		c, err := g.dial(netip.AddrPortFrom(gateways[0], at.Port()))
		l.must(err)
		defer c.Close()
	}
	c, err := g.dial(netip.AddrPortFrom(gateways[0], at.Port()))
	l.must(err)
	defer c.Close()
	l.wait("a connection with small buffers", func() bool {
		l.n.conns.mu.Lock()
		defer l.n.conns.mu.Unlock()
		small := 0
		for r := range l.n.conns.m {
			if r.small && r.ep.SocketOptions().GetSendBufferSize() <= 2*smallBuffer {
				small++
			}
		}
		return small > 0 && len(l.n.conns.m)-small <= fullBuffers
	})
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	done := make(chan error, 1)
	go func() { done <- transfer(c, 8, 2<<20) }()
	l.must(<-done)
	if n, err := receive(c); err != nil || n != 2<<20 {
		t.Errorf("%d bytes came back: %v", n, err)
	}
}
