package usernet

import (
	"encoding/binary"
	"net/netip"

	"vhostnet/worker"
)

// handle looks at one packet of a guest's that is no TCP. It is called on the
// Network's goroutine.
func (n *Network) handle(p *packet) {
	if len(p.frame) < ethernetLen {
		n.counters.malformed.Add(1)
		return
	}
	if n.handleNeighbour(p) {
		return
	}
	switch etherType := binary.BigEndian.Uint16(p.frame[12:]); etherType {
	case etherIPv4, etherIPv6:
		h, ok := parseIP(etherType, p.frame[ethernetLen:])
		switch {
		case !ok:
			n.counters.malformed.Add(1)
		case h.fragment:
			n.handleFragment(p, h)
		default:
			h.dontFrag = h.dontFrag && !p.toCut // as if it had come in pieces
			n.handleIP(p, h)
		}
	default:
		n.counters.unknown.Add(1)
	}
}

// mac is who sent the frame.
func (p *packet) mac() uint64 {
	return uint64(binary.BigEndian.Uint16(p.frame[6:]))<<32 | uint64(binary.BigEndian.Uint32(p.frame[8:]))
}

// handleIP looks at an IP packet that is whole.
func (n *Network) handleIP(p *packet, h ip) {
	if h.src.IsUnspecified() {
		if h.proto != protoUDP || !n.handleUDP(p, h) {
			n.counters.unknown.Add(1)
		}
		return
	}
	if !n.learn(h.src, p.mac(), p.guest, worker.Now()) {
		return
	}
	switch {
	case h.proto == protoICMP && h.src.Is4():
		n.handleICMP(p, h)
	case h.proto == protoICMPv6 && h.src.Is6():
		n.handleICMPv6(p, h)
	case h.proto == protoUDP:
		n.handleUDP(p, h)
	default:
		n.counters.unknown.Add(1)
	}
}

// Numbers of ICMP (RFC 792, RFC 4443).
const (
	icmpEchoReply   = 0
	icmpUnreachable = 3
	icmpEcho        = 8

	icmp6Unreachable = 1
	icmp6TooBig      = 2
	icmp6Echo        = 128
	icmp6EchoReply   = 129
)

// handleICMP answers an echo request, or sends it on.
func (n *Network) handleICMP(p *packet, h ip) {
	b := h.payload
	switch {
	case len(b) < icmpLen || sum(b) != 0:
		n.counters.malformed.Add(1)
	case b[0] != icmpEcho || b[1] != 0:
		n.counters.unknown.Add(1)
	case n.isGateway(h.dst):
		n.echo(p, h, icmpEchoReply)
	default:
		n.flows.ping(p, h)
	}
}

// handleICMPv6 does the same.
func (n *Network) handleICMPv6(p *packet, h ip) {
	b := h.payload
	switch {
	case len(b) < icmpLen || transportSum(h.src, h.dst, protoICMPv6, b) != 0:
		n.counters.malformed.Add(1)
	case b[0] != icmp6Echo || b[1] != 0:
		n.counters.unknown.Add(1)
	case n.isGateway(h.dst):
		n.echo(p, h, icmp6EchoReply)
	case h.dst.IsMulticast():
		n.counters.unknown.Add(1)
	default:
		n.flows.ping(p, h)
	}
}

// echo answers an echo request to the gateway.
func (n *Network) echo(p *packet, h ip, reply uint8) {
	n.counters.pings.Add(1)
	n.sendIP(p.mac(), p.guest, h.dst, h.src, h.proto, len(h.payload), func(b []byte) {
		copy(b, h.payload)
		b[0] = reply
		putICMPSum(b, h.dst, h.src)
	})
}

// putICMPSum completes an ICMP message from src to dst.
func putICMPSum(b []byte, src, dst netip.Addr) {
	b[2], b[3] = 0, 0
	s := sum(b)
	if dst.Is6() {
		s = transportSum(src, dst, protoICMPv6, b)
	}
	binary.BigEndian.PutUint16(b[2:], s)
}

// handleUDP gives a datagram to a service, or sends it on. It answers false for
// one of a station without an address that is for no service.
func (n *Network) handleUDP(p *packet, h ip) bool {
	b := h.payload
	if len(b) < udpLen {
		n.counters.malformed.Add(1)
		return true
	}
	length := int(binary.BigEndian.Uint16(b[4:]))
	src, dst := portsOf(b)
	if length < udpLen || length > len(b) || dst == 0 {
		n.counters.malformed.Add(1)
		return true
	}
	from, to, data := netip.AddrPortFrom(h.src, src), netip.AddrPortFrom(h.dst, dst), b[udpLen:length]
	switch {
	case n.serveUDP(p, h, from, to, data):
	case h.src.IsUnspecified():
		return false
	case h.dst.IsMulticast() || n.isBroadcast(h.dst):
		n.counters.unknown.Add(1)
	default:
		n.flows.send(p, h, flowKey{protoUDP, from, to}, data)
	}
	return true
}

// isBroadcast reports whether a is the address of all in the guests' network.
func (n *Network) isBroadcast(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	bits := n.o.IPv4.Bits()
	host := ^uint32(0) >> bits
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])&host == host && n.o.IPv4.Contains(a) || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
