package nbl

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// Pieces of one packet share its payload in the Softener's arena; each has a
// private header of its own.

// cut makes a List of each TCP segment, or of each UDP datagram that the packet
// holds.
func cut(out []List, l *List, frame []byte) {
	c := l.segmenting()
	for i := range out {
		start := c.from + i*c.size
		end := min(start+c.size, len(frame))
		segment := &out[i]
		segment.segmentOf(l, frame[start-c.from:end], c.from)
		fixIP(segment, l, i)
		if l.Offload.CsumOffset == tcpCsumOffset {
			fixTCP(segment, l, i, i == len(out)-1, frame[start:end])
		} else {
			fixUDP(segment, l, frame[start:end])
		}
	}
}

// segmentOf makes out a packet of the length of window whose private header
// is l's, as far as it is part of headers; the bytes of window behind those are
// its payload.
func (out *List) segmentOf(l *List, window []byte, headers int) {
	out.FromBytes(window, l.serial)
	out.QueueID = l.QueueID
	out.headerLen = uint16(headers)
	copy(out.header[:headers], l.header[:headers])
	out.parseEthernet()
}

// fixIP gives a segment its length and, of IPv4, an identification of its own.
func fixIP(segment, l *List, index int) {
	ip := segment.header[l.L3:l.Offload.CsumStart]
	payload := segment.Length - uint32(l.L3)
	if l.EtherType == etherTypeIPv6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(payload-ipv6Len))
		return
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(payload))
	binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(index))
	sumIPv4(ip)
}

// sumIPv4 writes the checksum of an IPv4 header.
func sumIPv4(ip []byte) {
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Checksum(ip, 0))
}

const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80
)

// fixTCP gives a segment its sequence number, flags and checksum. Only the last
// keeps FIN and PSH, only the first CWR (virtio 1.3, section 5.1.6.2; RFC 3168,
// section 6.1.2).
func fixTCP(segment, l *List, index int, last bool, payload []byte) {
	tcp := segment.header[l.Offload.CsumStart:segment.headerLen]
	seq := binary.BigEndian.Uint32(tcp[4:]) + uint32(index)*uint32(l.Offload.GSOSize)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	if !last {
		tcp[13] &^= tcpFIN | tcpPSH
	}
	if index > 0 {
		tcp[13] &^= tcpCWR
	}
	binary.BigEndian.PutUint16(tcp[tcpCsumOffset:], ^sumOf(segment, l, protoTCP, tcp, tcpCsumOffset, payload))
}

// fixUDP gives a datagram its length and its checksum, which is there (RFC 768:
// a sum of zero is sent as 0xffff).
func fixUDP(segment, l *List, payload []byte) {
	udp := segment.header[l.Offload.CsumStart:segment.headerLen]
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)+len(payload)))
	sum := sumOf(segment, l, protoUDP, udp, udpCsumOffset, payload)
	binary.BigEndian.PutUint16(udp[udpCsumOffset:], transmitted(sum))
}

// sumOf is the sum over pseudo-header, transport header and payload (RFC 9293,
// section 3.1; RFC 8200, section 8.1); what stands in the header's field is
// cleared. With a routing header the final destination would be needed; the
// guest's own partial sum could tell it, but such frames are not left to be cut
// by any driver seen, and get the address in place.
func sumOf(segment, l *List, proto uint16, header []byte, field int, payload []byte) uint16 {
	addresses := segment.header[l.L3+12 : l.L3+20]
	if l.EtherType == etherTypeIPv6 {
		addresses = segment.header[l.L3+8 : l.L3+40]
	}
	binary.BigEndian.PutUint16(header[field:], 0)
	sum := checksum.Combine(checksum.Checksum(addresses, proto), uint16(len(header)+len(payload)))
	sum = checksum.Checksum(header, sum)
	return checksum.Combine(sum, checksum.Checksum(payload, 0))
}
