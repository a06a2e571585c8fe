package ndp

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const icmpOffset = header.EthernetMinimumSize + header.IPv6MinimumSize

var allNodes = netip.MustParseAddr("ff02::1")

// message is a neighbour discovery message that keeps the rules of RFC 4861,
// 6.1 and 7.1, as far as they are common to all.
type message struct {
	mac      [6]byte
	src, dst netip.Addr
	kind     header.ICMPv6Type
	body     []byte // from the ICMPv6 header on
}

// answerICMP answers neighbour and router solicitations.
func (g *Gateway) answerICMP(guest string, frame, dst []byte) (reply []byte, mine bool) {
	switch header.ICMPv6(frame[icmpOffset:]).Type() {
	case header.ICMPv6RouterSolicit, header.ICMPv6NeighborSolicit, header.ICMPv6NeighborAdvert:
	case header.ICMPv6RouterAdvert, header.ICMPv6RedirectMsg, header.ICMPv6MulticastListenerQuery,
		header.ICMPv6MulticastListenerReport, header.ICMPv6MulticastListenerDone, header.ICMPv6MulticastListenerV2Report:
		return dst, true // nothing that a gateway of its own link would believe
	default:
		return dst, false
	}
	m, ok := parse(frame)
	if !ok {
		g.Counters.Malformed.Add(1)
		return dst, true
	}
	if !g.linkLocal.IsValid() {
		return dst, true
	}
	switch m.kind {
	case header.ICMPv6RouterSolicit:
		return g.routerSolicit(guest, m, dst), true
	case header.ICMPv6NeighborSolicit:
		return g.neighbourSolicit(guest, m, dst), true
	default:
		g.neighbourAdvert(guest, m)
		return dst, true
	}
}

// parse checks what a message must be, whatever it says. Frames may be longer
// than their packets: short ones are padded.
func parse(frame []byte) (m message, ok bool) {
	ip := header.IPv6(frame[header.EthernetMinimumSize:])
	if !ip.IsValid(len(ip)) || ip.HopLimit() != header.NDPHopLimit || !unicast(frame[6:12]) {
		return m, false
	}
	body := ip[header.IPv6MinimumSize:][:ip.PayloadLength()]
	if len(body) < header.ICMPv6MinimumSize || header.ICMPv6(body).Code() != 0 {
		return m, false
	}
	m = message{
		mac:  [6]byte(frame[6:12]),
		src:  netip.AddrFrom16(ip.SourceAddress().As16()),
		dst:  netip.AddrFrom16(ip.DestinationAddress().As16()),
		kind: header.ICMPv6(body).Type(),
		body: body,
	}
	if m.src.IsMulticast() || sum(m.src, m.dst, body) != 0xffff {
		return m, false
	}
	least := header.ICMPv6MinimumSize
	if m.kind != header.ICMPv6RouterSolicit {
		least = header.ICMPv6NeighborSolicitMinimumSize
	}
	if len(body) < least {
		return m, false
	}
	_, ok = linkOption(body[least:], 0)
	return m, ok
}

// sum is the checksum of an ICMPv6 packet with its pseudo header, all ones for
// one that carries its own.
func sum(src, dst netip.Addr, body []byte) uint16 {
	s, d := src.As16(), dst.As16()
	x := checksum.Checksum(s[:], 0)
	x = checksum.Checksum(d[:], x)
	x = checksum.Combine(x, uint16(len(body)))
	x = checksum.Combine(x, uint16(header.ICMPv6ProtocolNumber))
	return checksum.Checksum(body, x)
}

// Types of options (RFC 4861, 4.6).
const (
	sourceLink = 1
	targetLink = 2
)

// linkOption is the MAC in the option of one type, all zeros without one. ok
// says that the options are well formed (RFC 4861, 6.1: none of length 0).
func linkOption(options []byte, kind byte) (mac [6]byte, ok bool) {
	for len(options) > 0 {
		if len(options) < 8 {
			return mac, false
		}
		n := 8 * int(options[1])
		if n == 0 || n > len(options) {
			return mac, false
		}
		if options[0] == kind && n == 8 {
			mac = [6]byte(options[2:8])
		}
		options = options[n:]
	}
	return mac, true
}

func (g *Gateway) routerSolicit(guest string, m message, dst []byte) []byte {
	if source, _ := linkOption(m.body[header.ICMPv6MinimumSize:], sourceLink); source != [6]byte{} {
		if m.src.IsUnspecified() || source != m.mac {
			g.Counters.Malformed.Add(1)
			return dst
		}
		g.learn(guest, m.src, m.mac)
	}
	if g.advert == nil {
		return dst
	}
	g.Counters.Routers.Add(1)
	dst, b := grow(dst, len(g.advert))
	copy(b, g.advert)
	copy(b[:6], m.mac[:]) // to whoever asked, whatever address it has by now
	return dst
}

func (g *Gateway) neighbourSolicit(guest string, m message, dst []byte) []byte {
	options := m.body[header.ICMPv6NeighborSolicitMinimumSize:]
	target := netip.AddrFrom16([16]byte(m.body[8:24]))
	source, _ := linkOption(options, sourceLink)
	// Who looks whether its own address is taken must ask the solicited-node
	// group, and has no address yet (RFC 4861, 7.1.1).
	probe := m.src.IsUnspecified()
	if target.IsMulticast() || probe && (source != [6]byte{} || !m.dst.IsMulticast()) || source != [6]byte{} && source != m.mac {
		g.Counters.Malformed.Add(1)
		return dst
	}
	if !probe {
		g.learn(guest, m.src, m.mac)
	}
	if !g.owns(target) {
		return dst
	}
	g.Counters.Solicited.Add(1)
	to := m.src
	if probe {
		to = allNodes
	}
	return g.neighbour(dst, header.ICMPv6NeighborAdvert, m.mac, target, to, target)
}

func (g *Gateway) neighbourAdvert(guest string, m message) {
	target := netip.AddrFrom16([16]byte(m.body[8:24]))
	link, _ := linkOption(m.body[header.ICMPv6NeighborAdvertMinimumSize:], targetLink)
	if link == [6]byte{} {
		link = m.mac
	}
	if target.IsMulticast() || link != m.mac {
		g.Counters.Malformed.Add(1)
		return
	}
	g.learn(guest, target, m.mac)
}

// neighbour appends a neighbour solicitation or advertisement with the
// gateway's MAC in it.
func (g *Gateway) neighbour(dst []byte, kind header.ICMPv6Type, mac [6]byte, src, to, target netip.Addr) []byte {
	body := make([]byte, header.ICMPv6NeighborAdvertMinimumSize+header.NDPLinkLayerAddressSize)
	body[0] = byte(kind)
	t := target.As16()
	copy(body[8:24], t[:])
	body[24], body[25] = sourceLink, 1
	if kind == header.ICMPv6NeighborAdvert {
		body[24] = targetLink
		na := header.NDPNeighborAdvert(body[header.ICMPv6HeaderSize:])
		na.SetRouterFlag(g.advert != nil)
		na.SetSolicitedFlag(to != allNodes)
		na.SetOverrideFlag(true)
	}
	copy(body[26:32], g.link)
	return g.icmp(dst, mac, src, to, body)
}

// icmp appends a frame with an ICMPv6 packet, whose checksum it computes.
func (g *Gateway) icmp(dst []byte, mac [6]byte, src, to netip.Addr, body []byte) []byte {
	dst, b := grow(dst, icmpOffset+len(body))
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: g.link, DstAddr: tcpip.LinkAddress(mac[:]), Type: header.IPv6ProtocolNumber})
	header.IPv6(b[header.EthernetMinimumSize:]).Encode(&header.IPv6Fields{
		PayloadLength:     uint16(len(body)),
		TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit:          header.NDPHopLimit,
		SrcAddr:           tcpip.AddrFrom16(src.As16()),
		DstAddr:           tcpip.AddrFrom16(to.As16()),
	})
	copy(b[icmpOffset:], body)
	binary.BigEndian.PutUint16(b[icmpOffset+2:], 0)
	binary.BigEndian.PutUint16(b[icmpOffset+2:], ^sum(src, to, b[icmpOffset:]))
	return dst
}
