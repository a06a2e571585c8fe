package nbl

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"vhostnet/metrics"
	"vhostnet/virtio"
)

// allOffloads are the features by which a driver leaves the most to do.
const allOffloads = virtio.NetCsum | virtio.NetHostTSO4 | virtio.NetHostTSO6 |
	virtio.NetHostECN | virtio.NetHostUFO | virtio.NetHostUSO

// V63: whatever virtio_net_hdr and frame a guest makes, what is passed on says
// nothing that the frame does not hold.
func TestV63_OffloadsAreConsistent(t *testing.T) {
	const seed = 20261126
	r := rand.New(rand.NewPCG(seed, 63))
	frames := [][]byte{
		tcp4(t, 54), tcp4(t, 3000), tcp6(t, 1500), tcp6(t, 74), ethernet(14), ethernet(600),
		udp(tcp4(t, 3000), 4), udp(tcp6(t, 1500), 6), udp(tcp4(t, 54), 4)[:45],
	}
	edges := []uint16{0, 1, 13, 14, 34, 54, 16, 0xffff}
	number := func() uint16 {
		if r.IntN(3) == 0 {
			return uint16(r.Uint32())
		}
		return edges[r.IntN(len(edges))]
	}
	accepted := 0
	for range 200_000 {
		frame := frames[r.IntN(len(frames))]
		h := virtio.NetHeader{
			Flags: uint8(r.IntN(4)), GSOType: uint8([]int{0, 1, 3, 4, 5, 6, 0x81, 0x83, 0x84, 0xff}[r.IntN(10)]),
			HdrLen: number(), GSOSize: number(), CsumStart: number(), CsumOffset: number(),
		}
		if r.IntN(4) > 0 { // most of it right, or nearly nothing is taken
			h.Flags, h.CsumStart, h.CsumOffset, h.GSOSize = 1, 34, 16, 1+h.GSOSize%3000
			proto := frame[min(23, len(frame)-1)]
			if frame[12] == 0x86 {
				h.CsumStart = 54
				proto = frame[min(20, len(frame)-1)]
			}
			if proto == protoUDP {
				h.CsumOffset = udpCsumOffset
			}
		}
		var l List
		if wrap(newSender(allOffloads), &l, pieces(withHeader(h, frame), r.IntN(100))) != metrics.ReasonNone {
			continue
		}
		if l.Offload != (virtio.NetHeader{}) {
			accepted++
		}
		if text := inconsistent(&l, frame); text != "" {
			t.Fatalf("seed %d: %+v with a frame of %d bytes is passed on as %+v: %s", seed, h, len(frame), l.Offload, text)
		}
	}
	if accepted < 1000 {
		t.Errorf("only %d offloads were accepted", accepted)
	}
}

// inconsistent says what of l.Offload the frame does not hold.
func inconsistent(l *List, frame []byte) string {
	o, n := l.Offload, uint32(len(frame))
	switch {
	case o.Flags == 0 && o != (virtio.NetHeader{}):
		return "without a checksum to complete nothing is left to do"
	case o.Flags != 0 && uint32(o.CsumStart)+uint32(o.CsumOffset)+2 > n:
		return "the checksum lies behind the frame"
	case o.Flags != 0 && o.CsumStart < 14:
		return "the checksum begins in the Ethernet header"
	case o.GSOType == virtio.GSONone && (o.GSOSize != 0 || o.HdrLen != 0):
		return "sizes without segmentation"
	case o.GSOType == virtio.GSONone:
		return ""
	}
	kind, payload := o.GSOType&^virtio.GSOECN, n-uint32(o.HdrLen)
	udp := kind == virtio.GSOUDP || kind == virtio.GSOUDPL4
	headers := o.CsumStart + tcpMinLen
	if udp {
		headers = o.CsumStart + udpLen
	}
	switch {
	case uint32(o.HdrLen) >= n || o.HdrLen < headers || o.GSOSize == 0:
		return "segments without payload"
	case o.GSOSize < minGSOSize && (kind != virtio.GSOUDPL4 || payload > shortPieces*uint32(o.GSOSize)):
		return "too many segments"
	case !udp && (kind == virtio.GSOTCPv4) != (l.EtherType == etherTypeIPv4), udp && o.GSOType != kind:
		return "another protocol than the frame's"
	case udp != (o.CsumOffset == udpCsumOffset):
		return "another checksum than the protocol's"
	}
	return ""
}

// V68: frames that end anywhere, fragments and chains of extension headers are
// read as far as they go. A flow is still one flow, and nothing is cut that has
// no whole header.
func TestV68_TruncatedHeaders(t *testing.T) {
	extensions := tcp6(t, 400)
	copy(extensions[54:], []byte{60, 0, 0, 0, 0, 0, 0, 0, 43, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 255})
	extensions[20] = protoHopByHop
	fragment := tcp4(t, 400)
	fragment[20] = 0x20
	options := tcp4(t, 400)
	options[14] = 0x4f
	arp := append(ethernet(14), 0, 1, 8, 0, 6, 4, 0, 1, 2, 3, 4, 5, 6, 7, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2)
	binary.BigEndian.PutUint16(arp[12:], 0x0806)
	tagged := append(append(ethernet(12), 0x81, 0x00, 0x00, 0x64), tcp4(t, 400)[12:]...)
	for name, whole := range map[string][]byte{
		"IPv4": tcp4(t, 400), "IPv6": tcp6(t, 400), "extension headers": extensions, "fragment": fragment,
		"IPv4 options": options, "ARP": arp, "tagged": tagged,
		"UDPv4": udp(tcp4(t, 400), 4), "UDPv6": udp(tcp6(t, 400), 6),
	} {
		for n := EthernetHeaderLen; n <= len(whole); n++ {
			for _, h := range []virtio.NetHeader{
				{},
				{Flags: virtio.NetFlagNeedsCsum, CsumStart: 34, CsumOffset: 16},
				{Flags: virtio.NetFlagNeedsCsum, GSOType: virtio.GSOTCPv4, GSOSize: 100, CsumStart: 34, CsumOffset: 16},
				{Flags: virtio.NetFlagNeedsCsum, GSOType: virtio.GSOTCPv6, GSOSize: 100, CsumStart: 54, CsumOffset: 16},
				{Flags: virtio.NetFlagNeedsCsum, GSOType: virtio.GSOUDP, GSOSize: 100, CsumStart: 34, CsumOffset: 6},
				{Flags: virtio.NetFlagNeedsCsum, GSOType: virtio.GSOUDPL4, GSOSize: 100, CsumStart: 54, CsumOffset: 6},
			} {
				truncated(t, fmt.Sprintf("%s, %d bytes", name, n), h, whole[:n])
			}
		}
	}
}

func truncated(t *testing.T, name string, h virtio.NetHeader, frame []byte) {
	t.Helper()
	var a, b List
	reason := wrap(newSender(allOffloads), &a, pieces(withHeader(h, frame)))
	if again := wrap(newSender(allOffloads), &b, pieces(withHeader(h, frame), 13, 1, 20)); again != reason {
		t.Fatalf("%s: %v in one piece, %v in several", name, reason, again)
	}
	if reason != metrics.ReasonNone {
		return
	}
	if a.FlowHash() != b.FlowHash() || a.L3 != b.L3 || a.EtherType != b.EtherType || a.Offload != b.Offload {
		t.Errorf("%s: in several pieces it is another packet", name)
	}
	if text := inconsistent(&a, frame); text != "" {
		t.Errorf("%s: passed on as %+v: %s", name, a.Offload, text)
	}
}
