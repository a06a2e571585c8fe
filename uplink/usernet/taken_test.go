package usernet

import (
	"encoding/binary"
	"net/netip"
	"testing"

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
