package usernet

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/hashicorp/go-hclog"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"vhostnet/nbl"
)

// What a guest sends waits in places of its own; those of its neighbour are free,
// and its turn comes after one packet.
func TestShareOfInbox(t *testing.T) {
	b := newInbox(4)
	one, other := &guest{name: "one"}, &guest{name: "other"}
	put := func(g *guest, count int) (accepted int) {
		for range count {
			p := newPacket(60)
			p.guest = g
			if b.put(p) {
				accepted++
			} else {
				p.free()
			}
		}
		return accepted
	}
	if first, second := put(one, 10), put(other, 1); first != 4 || second != 1 {
		t.Errorf("%d and %d packets wait, want 4 and 1", first, second)
	}
	for i, want := range []*guest{one, other, one, one, one} {
		p := b.get()
		if p == nil || p.guest != want {
			t.Fatalf("packet %d is not %s's", i, want.name)
		}
		p.free()
	}
	b.end()
	if put(one, 1) != 0 {
		t.Error("a packet is taken after the end")
	}
}

// Datagrams that contradict themselves are counted, and nothing else comes of
// them.
func TestMalformedDatagrams(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	sent := uint64(0)
	for _, a := range gateways {
		src := g.v4
		if a.Is6() {
			src = g.v6
		}
		good := datagram(netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(a, 9), []byte("data"))
		for _, length := range []uint16{0, udpLen - 1, uint16(len(good)) + 1, 65535} {
			b := append([]byte(nil), good...)
			binary.BigEndian.PutUint16(b[4:], length)
			g.send(g.forge(l, src, a, protoUDP, b))
			sent++
		}
		for n := range udpLen {
			g.send(g.forge(l, src, a, protoUDP, good[:n]))
			sent++
		}
		portless := append([]byte(nil), good...)
		portless[2], portless[3] = 0, 0
		g.send(g.forge(l, src, a, protoUDP, portless))
		sent++
	}
	l.wait("them to be counted", func() bool { return l.n.Snapshot().Malformed == sent })
	if s := l.n.Snapshot(); s.FlowsMade != 0 {
		t.Errorf("%d flows were made of them", s.FlowsMade)
	}
	at := echoUDP(t, "127.0.0.1:0")
	exchange(t, g.dialUDP(netip.AddrPortFrom(gateways[0], at.Port())), []byte("after"))
}

// Those who send to a way in take the places of the guest's flows, and no more.
func TestForwardFlood(t *testing.T) {
	noLeak(t)
	const limit = 3
	l := newLab(t, Options{Limits: Limits{GuestFlows: limit}})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	server, err := gonet.DialUDP(g.stack, &tcpip.FullAddress{NIC: nicID, Addr: stackAddress(g.v4), Port: 53}, nil, protocolOf(g.v4))
	l.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 100)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(b[:n], from)
		}
	}()
	l.must(l.n.AddForward(Forward{Network: "udp", Listen: "127.0.0.1:0", Guest: netip.AddrPortFrom(g.v4, 53)}))
	at := l.n.Forwards()[0].Address
	for i := range 2 * limit {
		c, err := net.Dial("udp", at)
		l.must(err)
		defer c.Close()
		if i < limit {
			exchange(t, c, []byte{byte(i)})
			continue
		}
		_, err = c.Write([]byte("one too many"))
		l.must(err)
	}
	l.wait("the others to be refused", func() bool { return l.n.Snapshot().ForwardFailed == limit })
	l.n.forwards.mu.Lock()
	u := l.n.forwards.list[0].packet
	l.n.forwards.mu.Unlock()
	u.mu.Lock()
	if len(u.clients) != limit || l.n.Snapshot().Flows != limit {
		t.Errorf("%d clients and %d flows, want %d", len(u.clients), l.n.Snapshot().Flows, limit)
	}
	u.mu.Unlock()
	server.Close()
	<-done
}

// A Network that never runs gives back the packets that wait in it.
func TestCloseWithWaitingPackets(t *testing.T) {
	noLeak(t)
	l := newSwitch(t)
	n, err := New(Options{Name: "user", Switch: l.s, Group: l.group, Log: hclog.NewNullLogger()})
	l.must(err)
	p := newPacket(60)
	p.guest = &guest{name: "one"}
	if !n.inbox.put(p) {
		t.Fatal("no place for one packet")
	}
	l.must(n.Close(context.Background()))
	if n.inbox.get() != nil {
		t.Error("a packet is left")
	}
}
