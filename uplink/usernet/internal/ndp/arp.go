package ndp

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// answerARP answers requests for the gateway's addresses and learns from every
// packet whose sender says the same in both headers.
func (g *Gateway) answerARP(guest string, frame, dst []byte) []byte {
	eth, arp := header.Ethernet(frame), header.ARP(frame[header.EthernetMinimumSize:])
	if !arp.IsValid() || tcpip.LinkAddress(arp.HardwareAddressSender()) != eth.SourceAddress() || !unicast(frame[6:12]) {
		g.Counters.Malformed.Add(1)
		return dst
	}
	sender := netip.AddrFrom4([4]byte(arp.ProtocolAddressSender()))
	target := netip.AddrFrom4([4]byte(arp.ProtocolAddressTarget()))
	g.learn(guest, sender, [6]byte(frame[6:12]))
	if arp.Op() != header.ARPRequest || !g.owns(target) {
		return dst
	}
	// A probe (RFC 5227) has no sender address, and is answered all the more:
	// who asks is about to use the gateway's.
	g.Counters.ARP.Add(1)
	return g.arp(dst, header.ARPReply, eth.SourceAddress(), target, eth.SourceAddress(), sender)
}

// arp appends a packet in which the gateway says that it has from.
func (g *Gateway) arp(dst []byte, op header.ARPOp, to tcpip.LinkAddress, from netip.Addr, targetMAC tcpip.LinkAddress, target netip.Addr) []byte {
	dst, b := grow(dst, header.EthernetMinimumSize+header.ARPSize)
	header.Ethernet(b).Encode(&header.EthernetFields{SrcAddr: g.link, DstAddr: to, Type: header.ARPProtocolNumber})
	arp := header.ARP(b[header.EthernetMinimumSize:])
	arp.SetIPv4OverEthernet()
	arp.SetOp(op)
	source, destination := from.As4(), target.As4()
	copy(arp.HardwareAddressSender(), g.link)
	copy(arp.ProtocolAddressSender(), source[:])
	copy(arp.HardwareAddressTarget(), targetMAC)
	copy(arp.ProtocolAddressTarget(), destination[:])
	return dst
}

// grow appends n zeros to dst and answers them too.
func grow(dst []byte, n int) (all, added []byte) {
	before := len(dst)
	for range n {
		dst = append(dst, 0)
	}
	return dst, dst[before:]
}

func unicast(mac []byte) bool { return mac[0]&1 == 0 && [6]byte(mac) != [6]byte{} }
