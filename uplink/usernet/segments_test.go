package usernet

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"vhostnet/nbl"
	"vhostnet/virtio"
)

// offloaded is a frame of the guest's that leaves the checksum, and the cutting
// into pieces, to others.
func (g *testGuest) offloaded(l *lab, from, to netip.AddrPort, kind uint8, size int, data []byte) []byte {
	f := g.forge(l, from.Addr(), to.Addr(), protoUDP, datagram(from, to, data))
	ipLen := ipv4Len
	if to.Addr().Is6() {
		ipLen = ipv6Len
	}
	h := virtio.NetHeader{
		Flags: virtio.NetFlagNeedsCsum, GSOType: kind, GSOSize: uint16(size), HdrLen: uint16(ethernetLen + ipLen + udpLen),
		CsumStart: uint16(ethernetLen + ipLen), CsumOffset: 6,
	}
	h.Encode(f[:headerLen])
	// The field holds the sum of the pseudo header until then.
	b := f[headerLen+ethernetLen+ipLen:]
	pseudo := append(make([]byte, 0, 40), from.Addr().AsSlice()...)
	pseudo = append(append(pseudo, to.Addr().AsSlice()...), 0, protoUDP, 0, 0)
	binary.BigEndian.PutUint16(pseudo[len(pseudo)-2:], uint16(len(b)))
	binary.BigEndian.PutUint16(b[6:], ^sum(pseudo))
	return f
}

// A guest that hands over many datagrams as one packet (USO) has as many sent, and
// one that hands over a datagram to be cut into fragments (UFO) has that one sent.
func TestDatagramsAsOnePacket(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures|virtio.NetHostUSO|virtio.NetHostUFO)
	data := long(9050)
	for _, a := range gateways {
		src := g.v4
		if a.Is6() {
			src = g.v6
		}
		port, got := sink(t, loopbackOf(a))
		from, to := netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(a, port.Port())
		g.send(g.offloaded(l, from, to, virtio.GSOUDPL4, 1000, data))
		for at := 0; at < len(data); at += 1000 {
			awaitDatagram(t, got, data[at:min(at+1000, len(data))])
		}
		g.send(g.offloaded(l, from, to, virtio.GSOUDP, 1480, data))
		awaitDatagram(t, got, data)
	}
	if s := l.n.Snapshot(); s.Malformed != 0 || s.Port.SoftOffload != 2 {
		t.Errorf("%d malformed, %d cut; want 0 and 2", s.Malformed, s.Port.SoftOffload)
	}
}
