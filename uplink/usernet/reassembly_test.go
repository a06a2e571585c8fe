package usernet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"vhostnet/nbl"
)

// long is bytes of which each piece is another.
func long(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(b)
	return b
}

// Datagrams and echo requests that a guest's stack cuts are put together, sent on
// whole, and answered.
func TestFragmentsFromGuests(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	for _, a := range gateways {
		at := echoUDP(t, loopbackOf(a))
		c := g.dialUDP(netip.AddrPortFrom(a, at.Port()))
		for _, n := range []int{1473, 5000, 60000} {
			exchange(t, c, long(n))
		}
	}
	s := l.n.Snapshot()
	if s.Reassembled < 6 || s.Fragments < s.Reassembled || s.FragmentOverlap+s.FragmentLimit+s.Malformed != 0 {
		t.Errorf("%+v", s)
	}
	if r := &l.n.reassembly; len(r.m) != 0 || r.bytes != 0 {
		t.Errorf("%d packets and %d bytes are left", len(r.m), r.bytes)
	}
}

// cut is a transport packet in IP fragments of the guest's, as frames with
// virtio_net_hdr, of which each has room bytes.
func (g *testGuest) cut(l *lab, src, dst netip.Addr, proto uint8, id uint32, b []byte, room int) (frames [][]byte) {
	for off := 0; off < len(b); off += room {
		frames = append(frames, g.cutAt(l, src, dst, proto, id, off, off+room < len(b), b[off:min(off+room, len(b))]))
	}
	return frames
}

func (g *testGuest) cutAt(l *lab, src, dst netip.Addr, proto uint8, id uint32, off int, more bool, data []byte) []byte {
	f := l.n.fragment4
	if dst.Is6() {
		f = l.n.fragment6
	}
	p := f(l.n.mac, src, dst, proto, id, off, more, data)
	defer p.free()
	copy(p.frame[6:], g.mac[:])
	return append(make([]byte, headerLen), p.frame...)
}

// datagram is a UDP packet.
func datagram(from, to netip.AddrPort, data []byte) []byte {
	b := make([]byte, udpLen+len(data))
	putUDP(b, from, to, data)
	return b
}

// sink is a socket of the host's loopback that tells what it gets.
func sink(t testing.TB, address string) (at netip.AddrPort, got chan []byte) {
	t.Helper()
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	got = make(chan []byte, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, maxDatagram)
		for {
			n, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			got <- bytes.Clone(b[:n])
		}
	}()
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return netip.MustParseAddrPort(c.LocalAddr().String()), got
}

func awaitDatagram(t testing.TB, got chan []byte, want []byte) {
	t.Helper()
	select {
	case b := <-got:
		if !bytes.Equal(b, want) {
			t.Fatalf("%d bytes came, want %d, the same", len(b), len(want))
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the datagram does not come")
	}
}

// Fragments are put together in whatever order they come, also when some come
// twice; those of which some contradict others, or the packet's checksum, are
// not.
func TestFragmentsInAnyOrder(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	for _, a := range gateways {
		src := g.v4
		if a.Is6() {
			src = g.v6
		}
		port, got := sink(t, loopbackOf(a))
		from, to := netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(a, port.Port())
		data := long(9000)
		frames := g.cut(l, src, a, protoUDP, 1, datagram(from, to, data), 1200)
		for _, i := range rand.Perm(len(frames)) {
			g.send(frames[i])
		}
		awaitDatagram(t, got, data)
		frames = g.cut(l, src, a, protoUDP, 2, datagram(from, to, data), 1200)
		for _, f := range frames[:len(frames)-1] {
			g.send(f)
			g.send(f)
		}
		g.send(frames[len(frames)-1])
		awaitDatagram(t, got, data)

		before := l.n.Snapshot()
		frames = g.cut(l, src, a, protoUDP, 3, datagram(from, to, data), 1200)
		for i, f := range frames {
			g.send(f)
			if i == 1 { // eight bytes over the border of the first two
				g.send(g.cutAt(l, src, a, protoUDP, 3, 1200-8, true, make([]byte, 16)))
			}
		}
		broken := datagram(from, to, data)
		broken[2000]++
		for _, f := range g.cut(l, src, a, protoUDP, 4, broken, 1200) {
			g.send(f)
		}
		g.send(g.cutAt(l, src, a, protoUDP, 5, 0, true, make([]byte, 13))) // not a multiple of eight
		g.send(g.cutAt(l, src, a, protoUDP, 5, 65528, false, make([]byte, 100)))
		l.wait("them to be counted", func() bool {
			s := l.n.Snapshot()
			return s.FragmentOverlap == before.FragmentOverlap+1 && s.Malformed == before.Malformed+3
		})
		if len(got) != 0 {
			t.Errorf("%v: a datagram came that nobody sent", a)
		}
	}
}

// A TCP packet in fragments asks for a connection like any other.
func TestTCPInFragments(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	reached := make(chan struct{}, 100)
	at := server(t, "127.0.0.1:0", func(net.Conn) { reached <- struct{}{} })
	from, to := netip.AddrPortFrom(g.v4, 4000), netip.AddrPortFrom(gateways[0], at.Port())
	for _, f := range g.cut(l, g.v4, gateways[0], protoTCP, 7, syn(from, to), 8) {
		g.send(f)
	}
	l.wait("the host's side of it", func() bool { return len(reached) > 0 })
}

// Pieces of packets that never become whole take what their guest may have, and
// no more: its oldest go, its neighbour's are put together, and all go with time.
func TestFragmentFlood(t *testing.T) {
	noLeak(t)
	const flood = 4000 / raceSlow
	l := newLab(t, Options{Host: true, Limits: Limits{GuestPieces: 8, GuestPieceBytes: 100000, GuestQueue: flood}})
	bad, good := newTestGuest(l, 1, nbl.UplinkFeatures), newTestGuest(l, 2, nbl.UplinkFeatures)
	at := echoUDP(t, "127.0.0.1:0")
	conn := good.dialUDP(netip.AddrPortFrom(gateways[0], at.Port()))
	for i := range flood {
		bad.send(bad.cutAt(l, bad.v4, gateways[0], protoUDP, uint32(i), 8*(i%7), true, make([]byte, 800)))
	}
	exchange(t, conn, long(5000))
	l.wait("the flood to be looked at", func() bool {
		s := l.n.Snapshot()
		return s.FragmentLost+s.InboxFull == flood-8
	})
	r := &l.n.reassembly
	r.mu.Lock()
	if len(r.m) != 8 || r.bytes != 8*(800+pieceCost) {
		t.Errorf("%d packets wait, %d bytes; want 8 and %d", len(r.m), r.bytes, 8*(800+pieceCost))
	}
	r.mu.Unlock()
	r.sweep(1 << 62)
	if len(r.m) != 0 || r.bytes != 0 || l.n.Snapshot().FragmentLost+l.n.Snapshot().InboxFull != flood {
		t.Errorf("%d packets wait, %d bytes after their time: %+v", len(r.m), r.bytes, l.n.Snapshot())
	}
}

// The bounds, one by one.
func TestReassemblyBounds(t *testing.T) {
	limits := Limits{Pieces: 5, GuestPieces: 3, PieceBytes: 5000, GuestPieceBytes: 3000}
	var c counters
	r := &reassembly{o: &limits, counters: &c, m: map[piecesKey]*pieces{}}
	one, two := &guest{name: "one"}, &guest{name: "two"}
	put := func(g *guest, id, off, n int, last bool) *pieces {
		return r.add(piece{key: piecesKey{guest: g, id: uint32(id)}, off: off, last: last, data: make([]byte, n)}, 0)
	}
	has := func(what string, packets, bytes int, lost, limit uint64) {
		t.Helper()
		cost := 0
		for _, w := range r.m {
			cost += w.cost
		}
		if len(r.m) != packets || r.bytes != bytes || cost != bytes || c.fragmentLost.Value() != lost || c.fragmentLimit.Value() != limit {
			t.Fatalf("%s: %d packets of %d (%d) bytes, %d lost, %d beyond; want %d, %d, %d, %d", what, len(r.m), r.bytes, cost, c.fragmentLost.Value(), c.fragmentLimit.Value(), packets, bytes, lost, limit)
		}
	}
	for id := range 5 {
		put(one, id, 0, 8, false)
	}
	has("three packets of a guest", 3, 3*(8+pieceCost), 2, 0)
	put(one, 9, 8, 2000, false)
	put(one, 9, 2008, 800, false)
	has("3000 bytes of a guest", 2, 2800+2*pieceCost+8+pieceCost, 4, 0)
	put(one, 9, 2808, 400, false)
	has("one packet alone is too long", 1, 2800+2*pieceCost, 5, 1)
	put(two, 9, 0, 2000, false)
	has("5000 bytes of all: the guest's own goes first", 2, 2800+2000+3*pieceCost, 5, 1)
	put(two, 9, 2000, 8, false)
	has("5000 bytes of all", 2, 2800+2000+3*pieceCost, 5, 2)
	r.sweep(1)
	has("none", 0, 0, 7, 2)
	for id := range 3 {
		put(one, id, 0, 8, false)
		put(two, id, 0, 8, false)
	}
	has("five packets of all", 5, 5*(8+pieceCost), 7, 3)
	r.sweep(1)
	limits.PieceBytes, limits.GuestPieceBytes = 1<<20, 1<<20
	for i := range maxPieces + 1 {
		put(one, 1, 8*i, 8, false)
	}
	if c.fragmentOverlap.Value() != 1 || r.bytes != 0 || len(one.pieces) != 1 || one.pieceBytes != 0 {
		t.Errorf("a packet of too many pieces is kept: %d bytes", r.bytes)
	}
	if put(one, 1, 0, 8, false); r.bytes != 0 {
		t.Error("a packet that was refused is begun again")
	}
}

// Any bytes behind a fragment's header end in a packet or in a count, and the
// accounts are right afterwards.
func FuzzReassembly(f *testing.F) {
	f.Add([]byte{0, 0, 1, 8, 1, 8, 0, 8})
	f.Add([]byte{3, 0, 1, 8, 3, 0, 1, 8, 3, 1, 0, 8})
	f.Fuzz(func(t *testing.T, program []byte) {
		limits := Limits{Pieces: 6, GuestPieces: 4, PieceBytes: 3000, GuestPieceBytes: 2000}
		var c counters
		r := &reassembly{o: &limits, counters: &c, m: map[piecesKey]*pieces{}}
		both := []*guest{{name: "one"}, {name: "two"}}
		for now := int64(0); len(program) >= 4; program, now = program[4:], now+1 {
			p := piece{key: piecesKey{guest: both[program[0]&1], id: uint32(program[0] >> 1 & 3)}, off: 8 * int(program[1]&31), last: program[2]&1 == 0}
			p.data = bytes.Repeat([]byte{program[0]}, 8*int(program[3]&31)+8)
			if w := r.add(p, now); w != nil {
				end := 0
				for _, f := range w.list {
					if f.off != end {
						t.Fatalf("a packet with a hole or an overlap at %d", end)
					}
					end = f.end()
				}
				if end != w.total {
					t.Fatalf("a packet of %d bytes has %d", w.total, end)
				}
			}
			r.sweep(now - 20)
			cost, packets := 0, 0
			for _, g := range both {
				own := 0
				for _, w := range g.pieces {
					own += w.cost
				}
				if own != g.pieceBytes || own > limits.GuestPieceBytes || len(g.pieces) > limits.GuestPieces {
					t.Fatalf("%s has %d packets, %d bytes by the account, %d by its packets", g.name, len(g.pieces), g.pieceBytes, own)
				}
				cost, packets = cost+own, packets+len(g.pieces)
			}
			if cost != r.bytes || packets != len(r.m) {
				t.Fatalf("%d packets of %d bytes; guests have %d of %d", len(r.m), r.bytes, packets, cost)
			}
		}
	})
}

// A piece is what its header says, or nothing.
func TestPieceOf(t *testing.T) {
	a, b := netip.MustParseAddr("fd76:686f:7374::9"), DefaultIPv6.Addr()
	for name, n := range map[string]int{"no header": 7, "nothing behind it": 8} {
		h := ip{src: a, dst: b, proto: protoFragment, fragment: true, payload: make([]byte, n)}
		if f, ok := pieceOf(&guest{}, h); ok {
			t.Errorf("%s: %+v", name, f)
		}
	}
	p := make([]byte, 16)
	p[0] = protoUDP
	binary.BigEndian.PutUint16(p[2:], 24|1)
	binary.BigEndian.PutUint32(p[4:], 77)
	f, ok := pieceOf(&guest{}, ip{src: a, dst: b, proto: protoFragment, payload: p})
	if !ok || f.off != 24 || f.last || f.proto != protoUDP || f.key.id != 77 || len(f.data) != 8 {
		t.Errorf("%+v, %v", f, ok)
	}
}
