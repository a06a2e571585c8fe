package usernet

import (
	"encoding/binary"
	"net/netip"

	"vhostnet/internal/sys"
)

// sendUDP sends a datagram to a guest, in fragments when it is longer than the
// MTU.
func (n *Network) sendUDP(from, to netip.AddrPort, data []byte) {
	n.sendTransport(from.Addr(), to.Addr(), protoUDP, udpLen+len(data), func(b []byte) { putUDP(b, from, to, data) })
}

// sendUDPTo is sendUDP to a station that may have no address yet.
func (n *Network) sendUDPTo(mac uint64, g *guest, from, to netip.AddrPort, data []byte) {
	n.sendIP(mac, g, from.Addr(), to.Addr(), protoUDP, udpLen+len(data), func(b []byte) { putUDP(b, from, to, data) })
}

// putUDP writes a datagram into b, which has its length.
func putUDP(b []byte, from, to netip.AddrPort, data []byte) {
	binary.BigEndian.PutUint16(b, from.Port())
	binary.BigEndian.PutUint16(b[2:], to.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	b[6], b[7] = 0, 0
	copy(b[udpLen:], data)
	s := transportSum(from.Addr(), to.Addr(), protoUDP, b)
	if s == 0 {
		s = 0xffff // 0 says that there is no checksum
	}
	binary.BigEndian.PutUint16(b[6:], s)
}

// sendTransport sends length bytes that write writes to the station that has dst.
func (n *Network) sendTransport(src, dst netip.Addr, proto uint8, length int, write func([]byte)) {
	st := n.stations.find(dst)
	if st == nil {
		n.counters.noStation.Add(1)
		n.ask(dst)
		return
	}
	n.sendIP(st.mac, st.guest, src, dst, proto, length, write)
}

// sendIP sends length bytes that write writes.
func (n *Network) sendIP(mac uint64, g *guest, src, dst netip.Addr, proto uint8, length int, write func([]byte)) {
	header := ipv6Len
	if dst.Is4() {
		header = ipv4Len
	}
	if header+length <= n.o.MTU {
		p, b := n.newIP(mac, src, dst, proto, length)
		write(b)
		p.guest = g
		n.out.putOwn(p)
		return
	}
	b := make([]byte, length)
	write(b)
	n.sendFragments(mac, g, src, dst, proto, b)
}

const fragmentLen = 8 // of IPv6's fragment header

// sendFragments sends what does not fit (RFC 791; RFC 8200, section 4.5).
func (n *Network) sendFragments(to uint64, g *guest, src, dst netip.Addr, proto uint8, b []byte) {
	id := n.ipID.Add(1)
	room := (n.o.MTU - ipv4Len) &^ 7
	if dst.Is6() {
		room = (n.o.MTU - ipv6Len - fragmentLen) &^ 7
	}
	for off := 0; off < len(b); off += room {
		piece := b[off:min(off+room, len(b))]
		more := off+room < len(b)
		var p *packet
		if dst.Is6() {
			p = n.fragment6(to, src, dst, proto, id, off, more, piece)
		} else {
			p = n.fragment4(to, src, dst, proto, id, off, more, piece)
		}
		p.guest = g
		n.out.putOwn(p)
	}
}

func (n *Network) fragment4(to uint64, src, dst netip.Addr, proto uint8, id uint32, off int, more bool, piece []byte) *packet {
	p, b := n.newIP(to, src, dst, proto, len(piece))
	copy(b, piece)
	h := p.frame[ethernetLen:][:ipv4Len]
	binary.BigEndian.PutUint16(h[4:], uint16(id))
	flags := uint16(off / 8)
	if more {
		flags |= 0x2000
	}
	binary.BigEndian.PutUint16(h[6:], flags)
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], sum(h))
	return p
}

func (n *Network) fragment6(to uint64, src, dst netip.Addr, proto uint8, id uint32, off int, more bool, piece []byte) *packet {
	p, b := n.newIP(to, src, dst, 44, fragmentLen+len(piece))
	b[0], b[1] = proto, 0
	flags := uint16(off)
	if more {
		flags |= 1
	}
	binary.BigEndian.PutUint16(b[2:], flags)
	binary.BigEndian.PutUint32(b[4:], id)
	copy(b[fragmentLen:], piece)
	return p
}

// originLen is how much of a packet is kept to be quoted in an error: its IP
// header and eight bytes, at least.
const originLen = 128

// sendError tells a guest why its packet, of which origin is the beginning, did
// not reach its destination (RFC 792, RFC 1191, RFC 4443).
func (n *Network) sendError(why sys.Outcome, origin []byte, mtu int) {
	if len(origin) < ipv4Len {
		return
	}
	if origin[0]>>4 == 6 {
		n.sendError6(why, origin, mtu)
		return
	}
	b := [4]byte{}
	code, src := uint8(0), n.o.IPv4.Addr() // net unreachable
	switch why {
	case sys.Refused:
		code, src = 3, netip.AddrFrom4([4]byte(origin[16:20]))
	case sys.Unreachable:
		code = 1
	case sys.TooBig:
		code = 4
		binary.BigEndian.PutUint16(b[2:], uint16(mtu))
	case sys.Forbidden:
		code = 13
	default:
	}
	n.sendICMPError(src, netip.AddrFrom4([4]byte(origin[12:16])), protoICMP, icmpUnreachable, code, b, origin)
}

func (n *Network) sendError6(why sys.Outcome, origin []byte, mtu int) {
	if len(origin) < ipv6Len {
		return
	}
	b := [4]byte{}
	kind, code, src := uint8(icmp6Unreachable), uint8(0), n.o.IPv6.Addr() // no route
	switch why {
	case sys.Refused:
		code, src = 4, netip.AddrFrom16([16]byte(origin[24:40]))
	case sys.Unreachable:
		code = 3
	case sys.TooBig:
		kind = icmp6TooBig
		binary.BigEndian.PutUint32(b[:], uint32(mtu))
	case sys.Forbidden:
		code = 1
	default:
	}
	n.sendICMPError(src, netip.AddrFrom16([16]byte(origin[8:24])), protoICMPv6, kind, code, b, origin)
}

func (n *Network) sendICMPError(src, dst netip.Addr, proto, kind, code uint8, rest [4]byte, origin []byte) {
	n.sendTransport(src, dst, proto, icmpLen+len(origin), func(b []byte) {
		b[0], b[1] = kind, code
		copy(b[4:], rest[:])
		copy(b[icmpLen:], origin)
		putICMPSum(b, src, dst)
	})
}
