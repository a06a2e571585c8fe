package usernet

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// link is the stack's network interface. It carries IP packets: Ethernet is
// added and taken off outside, by what stations tells, so the stack resolves no
// addresses.
type link struct {
	n          *Network
	attached   stack.NetworkDispatcher                 // nil: none
	dispatcher atomic.Pointer[stack.NetworkDispatcher] // attached, once packets may come
}

// gsoMaxSize is the longest packet that the stack makes. One byte more stalls
// connections: the length does not fit into an IP header.
const gsoMaxSize = 65535

// MTU is that of the guests' network.
func (l *link) MTU() uint32 { return uint32(l.n.o.MTU) }

// SetMTU does nothing: the MTU is a Network's for good.
func (l *link) SetMTU(uint32) {}

// MaxHeaderLength is 0: the Ethernet header is written elsewhere.
func (l *link) MaxHeaderLength() uint16 { return 0 }

// LinkAddress is none.
func (l *link) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress does nothing.
func (l *link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities: what comes from guests is in memory and was not damaged, so no
// checksum is verified, and a partial one is taken. What goes to them has a
// partial one, but for SYNs, whose checksum the stack has to make: with
// CapabilityTXChecksumOffload it would leave it zero.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// SupportedGSO: guests take segments of 64 KiB, or the switch cuts them.
func (l *link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// GSOMaxSize is the longest of them.
func (l *link) GSOMaxSize() uint32 { return gsoMaxSize }

// Attach makes d the stack that inbound packets go to when they may come; nil: none.
func (l *link) Attach(d stack.NetworkDispatcher) {
	if l.attached = d; d == nil {
		l.dispatcher.Store(nil)
	}
}

// up lets packets come: who gets them finds the Network's stack.
func (l *link) up() {
	d := l.attached
	l.dispatcher.Store(&d)
}

// IsAttached reports whether there is a stack that gets packets.
func (l *link) IsAttached() bool { return l.dispatcher.Load() != nil }

// Wait returns at once: there are no goroutines.
func (l *link) Wait() {}

// ARPHardwareType is none: there is no ARP in the stack.
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader adds none.
func (l *link) AddHeader(*stack.PacketBuffer) {}

// ParseHeader finds none.
func (l *link) ParseHeader(*stack.PacketBuffer) bool { return true }

// Close does nothing.
func (l *link) Close() {}

// SetOnCloseAction does nothing.
func (l *link) SetOnCloseAction(func()) {}

// WritePackets queues what the stack sends. It never waits: packets to
// addresses that nobody has, and those that do not fit, are lost and counted.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	var few [8]outItem
	items := few[:0]
	for _, pkt := range list.AsSlice() {
		dst := destination(pkt)
		st := l.n.stations.find(dst)
		if st == nil {
			l.n.counters.noStation.Add(1)
			l.n.ask(dst)
			continue
		}
		items = append(items, outItem{stack: pkt.IncRef(), to: st.mac, guest: st.guest})
	}
	l.n.out.put(items)
	return list.Len(), nil
}

// destination is where pkt goes.
func destination(pkt *stack.PacketBuffer) netip.Addr {
	h := pkt.NetworkHeader().Slice()
	switch {
	case pkt.NetworkProtocolNumber == header.IPv4ProtocolNumber && len(h) >= ipv4Len:
		return netip.AddrFrom4([4]byte(h[16:20]))
	case len(h) >= ipv6Len:
		return netip.AddrFrom16([16]byte(h[24:40]))
	}
	return netip.Addr{}
}

// shortPart is the longest piece at the beginning of a packet that is copied
// behind the Ethernet header: headers, and packets that are hardly more.
const shortPart = 256

// fill makes l the frame that it holds. What the stack made stays where it is but
// for its headers, if it is in no more pieces than parts has room for.
func (q *outbound) fill(l *nbl.List, it *outItem, parts []nbl.MDL) metrics.Reason {
	b := l.Own()
	if it.own != nil {
		if len(it.own.frame) > len(b)-headerLen {
			return metrics.ReasonTooLong
		}
		clear(b[:headerLen])
		return q.sender.WrapOwn(l, uint32(headerLen+copy(b[headerLen:], it.own.frame)))
	}
	if it.stack.Size() > len(b)-headerLen-ethernetLen {
		return metrics.ReasonTooLong
	}
	h := netHeader(it.stack)
	h.Encode(b[:headerLen])
	etherType := uint16(etherIPv4)
	if it.stack.NetworkProtocolNumber == header.IPv6ProtocolNumber {
		etherType = etherIPv6
	}
	q.n.putEthernet(b[headerLen:], it.to, etherType)
	at := headerLen + ethernetLen
	parts = parts[:1] // for what is copied
	views, skip := it.stack.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		s := v.AsSlice()
		s, skip = s[min(skip, len(s)):], max(0, skip-len(s))
		switch {
		case len(parts) == 1 && len(s) <= shortPart:
			at += copy(b[at:], s)
		case len(parts) < cap(parts):
			parts = append(parts, sharedmem.BytesBlock(s))
		default:
			return q.sender.WrapOwn(l, uint32(putPacket(b, it.stack)))
		}
	}
	parts[0] = sharedmem.BytesBlock(b[:at])
	return q.sender.WrapParts(l, parts)
}

// putPacket copies a packet of the stack behind virtio_net_hdr and the Ethernet
// header and answers how long all of it is.
func putPacket(b []byte, pkt *stack.PacketBuffer) int {
	n := headerLen + ethernetLen
	views, skip := pkt.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		s := v.AsSlice()
		s, skip = s[min(skip, len(s)):], max(0, skip-len(s))
		n += copy(b[n:], s)
	}
	return n
}

// netHeader is virtio_net_hdr of a packet of the stack: its GSO options say the
// same in other words.
func netHeader(pkt *stack.PacketBuffer) (h virtio.NetHeader) {
	gso := &pkt.GSOOptions
	if gso.Type == stack.GSONone || !gso.NeedsCsum {
		return h
	}
	h.Flags = virtio.NetFlagNeedsCsum
	h.CsumStart, h.CsumOffset = ethernetLen+gso.L3HdrLen, gso.CsumOffset
	headers := pkt.HeaderSize()
	if pkt.Size()-headers <= int(gso.MSS) {
		return h
	}
	switch gso.Type {
	case stack.GSOTCPv4:
		h.GSOType = virtio.GSOTCPv4
	case stack.GSOTCPv6:
		h.GSOType = virtio.GSOTCPv6
	default:
		return h
	}
	h.GSOSize, h.HdrLen = gso.MSS, uint16(ethernetLen+headers)
	return h
}

// isSYN reports whether a TCP header asks for a connection.
func isSYN(tcp []byte) bool { return len(tcp) > 13 && tcp[13]&0x12 == 0x02 }

// portsOf are the ports of a TCP or UDP header.
func portsOf(b []byte) (src, dst uint16) {
	return binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
}
