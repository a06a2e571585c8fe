package nbl

import (
	"vhostnet/metrics"
	"vhostnet/virtio"
)

// minGSOSize is the smallest piece into which a packet is cut in software,
// bytes: what Linux uses as its own floor. Without a floor one 64 KiB frame
// could be made into 65,000. Datagrams may be as short as somebody wants them;
// of those that are shorter there are at most shortPieces, as many as Linux
// sends at once.
const (
	minGSOSize  = 48
	shortPieces = 128
	maxSegments = MaxFrame/minGSOSize + 1
)

// maxIPv4 is the longest packet that an IPv4 header can tell the length of, bytes
// with the header. IPv6 has no such rule here: it tells what is behind its header,
// and of MaxFrame that is short enough with a fragment header, too.
const maxIPv4 = 1<<16 - 1

// gso is what a gso_type asks for.
type gso struct {
	host  virtio.Features // what a driver has accepted that sends it
	guest virtio.Features // and one that receives it uncut
	proto uint8
	field uint16 // of the checksum in the transport header
}

// gsoOf says what gsoType asks for of a frame with this EtherType. It answers
// false for a type that there is not, and for one of another protocol (virtio
// 1.3, section 5.1.6.2: ECN goes with TCP).
func gsoOf(gsoType uint8, etherType uint16) (g gso, ok bool) {
	v4, v6 := etherType == etherTypeIPv4, etherType == etherTypeIPv6
	switch gsoType &^ virtio.GSOECN {
	case virtio.GSOTCPv4:
		g, ok = gso{virtio.NetHostTSO4, virtio.NetGuestTSO4, protoTCP, tcpCsumOffset}, v4
	case virtio.GSOTCPv6:
		g, ok = gso{virtio.NetHostTSO6, virtio.NetGuestTSO6, protoTCP, tcpCsumOffset}, v6
	case virtio.GSOUDP:
		g, ok = gso{virtio.NetHostUFO, virtio.NetGuestUFO, protoUDP, udpCsumOffset}, v4 || v6
	case virtio.GSOUDPL4:
		g, ok = gso{virtio.NetHostUSO, virtio.NetGuestUSO4, protoUDP, udpCsumOffset}, v4 || v6
		if v6 {
			g.guest = virtio.NetGuestUSO6
		}
	}
	if gsoType&virtio.GSOECN != 0 {
		g.host |= virtio.NetHostECN
		g.guest |= virtio.NetGuestECN
		ok = ok && g.proto == protoTCP
	}
	return g, ok
}

// Needed reports whether a receiver that accepted f can not take l as it is
// (virtio 1.3, section 5.1.6.4).
func Needed(l *List, f virtio.Features) bool {
	switch {
	case l.Offload.Flags&virtio.NetFlagNeedsCsum == 0:
		return false
	case !f.Has(virtio.NetGuestCsum):
		return true
	case l.Offload.GSOType == virtio.GSONone:
		return false
	}
	g, ok := gsoOf(l.Offload.GSOType, l.EtherType)
	return !ok || !f.Has(g.guest)
}

// segmenting is how a packet is cut.
type segmenting struct {
	from   int // first byte of what is cut; TCP and UDP headers are repeated, but not in fragments
	size   int // of a piece, bytes
	pieces int
}

// segmenting says how l is cut, which is a packet to be cut: its size is not 0.
func (l *List) segmenting() segmenting {
	c := segmenting{from: int(l.Offload.HdrLen), size: int(l.Offload.GSOSize)}
	if l.Offload.GSOType == virtio.GSOUDP {
		c.from, c.size = int(l.Offload.CsumStart), c.size&^7 // fragments begin at multiples of 8 bytes
	}
	c.pieces = (int(l.Length) - c.from + c.size - 1) / c.size
	return c
}

// checkGSO checks a request to cut the frame, and adds it to l.Offload. hdr_len
// of the driver is a hint and not looked at: the headers are parsed. Whoever is
// answered another reason than ReasonNone has to see to l.Offload.
func (l *List) checkGSO(h virtio.NetHeader, accepted virtio.Features) metrics.Reason {
	g, ok := gsoOf(h.GSOType, l.EtherType)
	if !ok || !accepted.Has(g.host) || h.GSOSize < minGSOSize && (h.GSOSize == 0 || h.GSOType != virtio.GSOUDPL4) {
		return metrics.ReasonGSO
	}
	l4, proto, ok := l.transport()
	if !ok || proto != g.proto || int(h.CsumStart) != l4 || h.CsumOffset != g.field {
		return metrics.ReasonGSO
	}
	headers := l4 + udpLen
	if proto == protoTCP {
		headers = l4 + int(l.header[l4+12]>>4)*4
		if headers < l4+tcpMinLen {
			return metrics.ReasonGSO
		}
	}
	if headers > int(l.headerLen) || uint32(headers) >= l.Length || l.EtherType == etherTypeIPv4 && l.Length-uint32(l.L3) > maxIPv4 {
		return metrics.ReasonGSO
	}
	l.Offload.GSOType, l.Offload.GSOSize, l.Offload.HdrLen = h.GSOType, h.GSOSize, uint16(headers)
	if c := l.segmenting(); c.size < minGSOSize && c.pieces > shortPieces {
		return metrics.ReasonGSO
	}
	return metrics.ReasonNone
}
