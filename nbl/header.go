package nbl

import (
	"encoding/binary"

	"vhostnet/metrics"
	"vhostnet/virtio"
)

// Numbers of the protocols that an offload can be about.
const (
	etherTypeIPv4 = 0x0800
	etherTypeIPv6 = 0x86dd
	etherTypeVLAN = 0x8100
	vlanTagLen    = 4

	protoTCP      = 6
	protoUDP      = 17
	protoHopByHop = 0
	protoRouting  = 43
	protoDstOpts  = 60

	ipv4MinLen    = 20
	ipv6Len       = 40
	tcpMinLen     = 20
	tcpCsumOffset = 16
	udpLen        = 8
	udpCsumOffset = 6
)

// checkOffload checks what the driver leaves to do against the private header
// and what the driver accepted, and stores it in l.Offload in consistent form
// (virtio 1.3, section 5.1.6.2.1).
func (l *List) checkOffload(h virtio.NetHeader, accepted virtio.Features) metrics.Reason {
	if h.Flags&virtio.NetFlagNeedsCsum == 0 {
		return metrics.ReasonGSO // a segment without its checksum to complete
	}
	if !accepted.Has(virtio.NetCsum) {
		return metrics.ReasonCsum
	}
	if uint32(h.CsumStart) < uint32(l.L3) || uint32(h.CsumStart)+uint32(h.CsumOffset)+2 > l.Length {
		return metrics.ReasonCsum
	}
	l.Offload = virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, CsumStart: h.CsumStart, CsumOffset: h.CsumOffset}
	if h.GSOType == virtio.GSONone {
		return metrics.ReasonNone
	}
	reason := l.checkGSO(h, accepted)
	if reason == metrics.ReasonNone && l.segmenting().pieces == 1 { // only the checksum is left to do
		l.Offload.GSOType, l.Offload.GSOSize, l.Offload.HdrLen = virtio.GSONone, 0, 0
	}
	return reason
}

// transport finds the transport header in the private header: its offset and
// protocol. It answers false for a fragment, for anything that is not IP, and
// when the fixed part of a TCP header, or that of UDP, is not there.
func (l *List) transport() (offset int, proto uint8, ok bool) {
	h := l.header[:l.headerLen]
	offset = int(l.L3)
	switch l.EtherType {
	case etherTypeIPv4:
		offset, proto, ok = skipIPv4(h, offset)
	case etherTypeIPv6:
		offset, proto, ok = skipIPv6(h, offset)
	}
	need := tcpMinLen
	if proto == protoUDP {
		need = udpLen
	}
	return offset, proto, ok && offset+need <= len(h)
}

func skipIPv4(h []byte, off int) (next int, proto uint8, ok bool) {
	if off+ipv4MinLen > len(h) || h[off]>>4 != 4 {
		return off, 0, false
	}
	headerLen := int(h[off]&0x0f) * 4
	fragment := binary.BigEndian.Uint16(h[off+6:]) & 0x3fff // more-fragments and the offset
	if headerLen < ipv4MinLen || fragment != 0 {
		return off, 0, false
	}
	return off + headerLen, h[off+9], true
}

// skipIPv6 walks the extension headers that may stand before TCP or UDP. Each
// step moves at least 8 bytes forward in a header of at most MaxHeader.
func skipIPv6(h []byte, off int) (next int, proto uint8, ok bool) {
	if off+ipv6Len > len(h) || h[off]>>4 != 6 {
		return off, 0, false
	}
	proto = h[off+6]
	off += ipv6Len
	for proto == protoHopByHop || proto == protoRouting || proto == protoDstOpts {
		if off+8 > len(h) {
			return off, 0, false
		}
		proto = h[off]
		off += 8 + int(h[off+1])*8
	}
	return off, proto, true
}

// FlowHash is a number that is the same for all packets of one flow, in both
// directions, so that what a guest sends on one queue pair finds the pair that
// its answers should come by. A frame without IP hashes its addresses.
func (l *List) FlowHash() uint32 {
	h := l.header[:l.headerLen]
	off := int(l.L3)
	sum := l.Src + l.Dst
	switch {
	case l.EtherType == etherTypeIPv4 && off+ipv4MinLen <= len(h):
		sum = uint64(binary.BigEndian.Uint32(h[off+12:])) + uint64(binary.BigEndian.Uint32(h[off+16:]))
	case l.EtherType == etherTypeIPv6 && off+ipv6Len <= len(h):
		sum = binary.BigEndian.Uint64(h[off+8:]) + binary.BigEndian.Uint64(h[off+16:]) +
			binary.BigEndian.Uint64(h[off+24:]) + binary.BigEndian.Uint64(h[off+32:])
	}
	if l4, proto, ok := l.ports(); ok && (proto == protoTCP || proto == protoUDP) {
		sum += uint64(binary.BigEndian.Uint16(h[l4:])) + uint64(binary.BigEndian.Uint16(h[l4+2:]))
	}
	return uint32((sum * 0x9e3779b97f4a7c15) >> 32)
}

// ports is like transport, but asks for the first four bytes of the transport
// header only.
func (l *List) ports() (offset int, proto uint8, ok bool) {
	h := l.header[:l.headerLen]
	switch l.EtherType {
	case etherTypeIPv4:
		offset, proto, ok = skipIPv4(h, int(l.L3))
	case etherTypeIPv6:
		offset, proto, ok = skipIPv6(h, int(l.L3))
	}
	return offset, proto, ok && offset+4 <= len(h)
}
