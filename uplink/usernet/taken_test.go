package usernet

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/nbl"
	"vhostnet/worker"
)

// An address that a guest set itself is not offered to another.
func TestAddressesInUse(t *testing.T) {
	noLeak(t)
	offered := func(inUse netip.Addr) netip.Addr {
		l := newLab(t, Options{})
		defer l.end()
		if inUse.IsValid() && !l.n.learn(inUse, 7, &guest{name: "other"}, worker.Now()) {
			t.Fatalf("%v cannot be used", inUse)
		}
		g := newTestGuest(l, 1, nbl.UplinkFeatures)
		got := make(chan netip.Addr, 4)
		show := func(f []byte) {
			h, ok := parseIP(binary.BigEndian.Uint16(f[12:]), f[ethernetLen:])
			if ok && h.proto == protoUDP && binary.BigEndian.Uint16(h.payload) == portDHCP {
				got <- netip.AddrFrom4([4]byte(h.payload[udpLen+16:]))
			}
		}
		g.raw.Store(&show)
		g.send(g.discover(l))
		l.wait("an offer", func() bool { return len(got) > 0 })
		return <-got
	}
	first := offered(netip.Addr{})
	if again := offered(netip.Addr{}); again != first {
		t.Fatalf("%v, then %v: not the same each time, so the rest says nothing", first, again)
	}
	if other := offered(first); other == first || !DefaultIPv4.Contains(other) {
		t.Errorf("%v is offered, %v is in use", other, first)
	}
}

// A guest that sets its reserved address by hand, and never asks for a lease, works
// at once, whoever has tried the address before; another guest cannot have it, but
// the VM after it has moved.
func TestReservedAddressByHand(t *testing.T) {
	noLeak(t)
	const name, mac, other = "guest", 0x020000000101, 0x020000000102
	var gone atomic.Bool
	v4, v6 := netip.MustParseAddr("10.0.2.101"), netip.MustParseAddr("fd76:686f:7374::65")
	l := newLab(t, Options{Services: Services{
		Reservations: []Reservation{{Port: name, IPv4: v4, IPv6: v6}, {MAC: [6]byte{2, 0, 0, 0, 1, 2}, IPv4: v4.Next()}},
		Moved:        func(_ [6]byte, from, _ string) bool { return gone.Load() && from == name },
	}})
	thief := l.n.guests.of(l.s, portOf(l, "thief"), worker.Now())
	for _, a := range []netip.Addr{v4, v6} {
		if l.n.learn(a, other, thief, worker.Now()) {
			t.Errorf("%v, which is reserved for another port, can be used", a)
		}
	}
	if l.n.learn(v4.Next(), mac, thief, worker.Now()) {
		t.Error("an address that is reserved for another MAC can be used")
	}
	if !l.n.learn(v4.Next(), other, thief, worker.Now()) {
		t.Error("an address cannot be used from the MAC that it is reserved for")
	}
	if s := l.n.Snapshot(); s.AddressConflict != 3 {
		t.Errorf("%d conflicts are counted, want 3", s.AddressConflict)
	}

	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	if g.v4 != v4 || g.v6 != v6 {
		t.Fatalf("the guest has %v and %v", g.v4, g.v6)
	}
	for _, a := range []netip.Addr{v4, v6} {
		g.listen(a, 80)
		l.must(l.n.AddForward(Forward{Network: "tcp", Listen: "127.0.0.1:0", Guest: netip.AddrPortFrom(a, 80)}))
	}
	for _, f := range l.n.Forwards() {
		c, err := net.Dial("tcp", f.Address)
		l.must(err)
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		l.must(transfer(c, 4, 1000))
		if n, err := receive(c); err != nil || n != 1000 {
			t.Errorf("%v: %d bytes came back: %v", f, n, err)
		}
		c.Close()
		if _, held := l.n.services.dhcp.Holder(time.Now(), f.Guest.Addr()); held {
			t.Errorf("there is a lease of %v, so the rest says nothing", f.Guest)
		}
	}
	gone.Store(true)
	if st := l.n.stations.find(v4); st == nil || !l.n.learn(v4, st.mac, thief, worker.Now()) {
		t.Errorf("a reserved address does not follow its VM: %+v", st)
	}
}
