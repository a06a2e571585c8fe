package usernet

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"vhostnet/nbl"
)

// Lengths of headers, bytes.
const (
	ethernetLen = nbl.EthernetHeaderLen
	ipv4Len     = 20
	ipv6Len     = 40
	udpLen      = 8
	icmpLen     = 8
	arpLen      = 28
)

// Numbers of protocols.
const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58
)

// packet is a frame that is handled outside of the stack, either way: whole,
// from the Ethernet header on.
type packet struct {
	frame []byte
	guest *guest // that it came from, or goes to
	whole []byte // what frame is a part of
	toCut bool   // a datagram that its sender left to be cut into fragments (UFO)
}

// packetSize holds every frame of an ordinary MTU.
const packetSize = 2048

var packets = sync.Pool{New: func() any { return &packet{whole: make([]byte, packetSize)} }}

// newPacket is a packet with a frame of n bytes, which hold anything.
func newPacket(n int) *packet {
	p, ok := packets.Get().(*packet)
	if !ok || n > len(p.whole) {
		p = &packet{whole: make([]byte, n)}
	}
	p.frame = p.whole[:n]
	return p
}

// free gives p back. Longer ones than usual are left to the collector.
func (p *packet) free() {
	p.guest, p.toCut = nil, false
	if len(p.whole) == packetSize {
		packets.Put(p)
	}
}

// putMAC writes a MAC address, a number as in nbl.List.
func putMAC(b []byte, mac uint64) {
	binary.BigEndian.PutUint16(b, uint16(mac>>32))
	binary.BigEndian.PutUint32(b[2:], uint32(mac))
}

func macNumber(m [6]byte) uint64 {
	return uint64(binary.BigEndian.Uint16(m[:]))<<32 | uint64(binary.BigEndian.Uint32(m[2:]))
}

// putEthernet writes the header of a frame from the gateway.
func (n *Network) putEthernet(b []byte, to uint64, etherType uint16) {
	putMAC(b, to)
	putMAC(b[6:], n.mac)
	binary.BigEndian.PutUint16(b[12:], etherType)
}

// newIP is a frame to a station with an IP header from src to dst and room for
// payload bytes, which are returned too.
func (n *Network) newIP(to uint64, src, dst netip.Addr, proto uint8, payload int) (*packet, []byte) {
	if dst.Is4() {
		p := newPacket(ethernetLen + ipv4Len + payload)
		n.putEthernet(p.frame, to, etherIPv4)
		n.putIPv4(p.frame[ethernetLen:][:ipv4Len], src, dst, proto, payload)
		return p, p.frame[ethernetLen+ipv4Len:]
	}
	p := newPacket(ethernetLen + ipv6Len + payload)
	n.putEthernet(p.frame, to, etherIPv6)
	putIPv6(p.frame[ethernetLen:][:ipv6Len], src, dst, proto, payload)
	return p, p.frame[ethernetLen+ipv6Len:]
}

const hopLimit = 64

func (n *Network) putIPv4(h []byte, src, dst netip.Addr, proto uint8, payload int) {
	clear(h)
	h[0], h[8], h[9] = 0x45, hopLimit, proto
	binary.BigEndian.PutUint16(h[2:], uint16(ipv4Len+payload))
	binary.BigEndian.PutUint16(h[4:], uint16(n.ipID.Add(1)))
	s, d := src.As4(), dst.As4()
	copy(h[12:], s[:])
	copy(h[16:], d[:])
	binary.BigEndian.PutUint16(h[10:], ^checksum.Checksum(h, 0))
}

func putIPv6(h []byte, src, dst netip.Addr, proto uint8, payload int) {
	clear(h)
	h[0], h[6], h[7] = 0x60, proto, hopLimit
	binary.BigEndian.PutUint16(h[4:], uint16(payload))
	s, d := src.As16(), dst.As16()
	copy(h[8:], s[:])
	copy(h[24:], d[:])
}

// transportSum is the checksum of a transport packet, pseudo-header included
// (RFC 768; RFC 8200, section 8.1). The checksum's own field is zero.
func transportSum(src, dst netip.Addr, proto uint8, b []byte) uint16 {
	sum := checksum.Checksum(b, uint16(proto))
	sum = checksum.Combine(sum, uint16(len(b)))
	s, d := src.As16(), dst.As16()
	from, to := s[:], d[:]
	if dst.Is4() {
		from, to = s[12:], d[12:]
	}
	return ^checksum.Checksum(to, checksum.Checksum(from, sum))
}

// ip is what the code outside of the stack knows of an IP packet.
type ip struct {
	src, dst netip.Addr
	proto    uint8
	fragment bool
	dontFrag bool   // IPv4, or any IPv6
	payload  []byte // behind the IP header
	packet   []byte // all of it
}

// parseIP reads an IP packet, without extension headers. It answers false for
// one that contradicts itself.
func parseIP(etherType uint16, b []byte) (p ip, ok bool) {
	if etherType == etherIPv4 {
		return parseIPv4(b)
	}
	if len(b) < ipv6Len || b[0]>>4 != 6 {
		return p, false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n > len(b)-ipv6Len {
		return p, false
	}
	p.src, p.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	p.proto, p.dontFrag = b[6], true
	p.fragment = p.proto == 44
	p.packet, p.payload = b[:ipv6Len+n], b[ipv6Len:ipv6Len+n]
	return p, !p.src.Is4In6() && !p.dst.Is4In6()
}

func parseIPv4(b []byte) (p ip, ok bool) {
	if len(b) < ipv4Len || b[0]>>4 != 4 {
		return p, false
	}
	header, n := int(b[0]&0x0f)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < ipv4Len || n < header || n > len(b) || checksum.Checksum(b[:header], 0) != 0xffff {
		return p, false
	}
	p.src, p.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	flags := binary.BigEndian.Uint16(b[6:])
	p.proto, p.dontFrag, p.fragment = b[9], flags&0x4000 != 0, flags&0x3fff != 0
	p.packet, p.payload = b[:n], b[header:n]
	return p, true
}
