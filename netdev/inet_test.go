package netdev_test

import (
	"encoding/binary"
	"errors"
	"fmt"

	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// Packets as a guest's network stack makes and reads them, from the RFCs: 791
// (IPv4), 8200 (IPv6), 9293 (TCP), 768 (UDP), 1071 (checksum), 3168 (ECN), IEEE
// 802.1Q.
// Nothing of the program is used here: what both got wrong would look right.

const (
	tcp, udp       = 6, 17
	fin, psh, ack  = 0x01, 0x08, 0x10
	cwr            = 0x80
	hopByHop       = 0
	firstSeq       = 0xfffffff0 // wraps within every frame that is cut
	firstID        = 0xfffe     // of IPv4; wraps, too
	acknowledgment = 0x01020304
	window         = 0x0506
)

// packet is what a guest wants to send.
type packet struct {
	name    string
	proto   byte
	v6      bool
	vlan    uint16 // tag, 0: none
	extra   bool   // IPv4 options, or an IPv6 hop-by-hop header
	options bool   // TCP options
	flags   byte   // TCP, besides ACK
	payload []byte
	mss     int  // payload of a segment, 0: the packet is to be sent as it is
	ecn     bool // TCP: congestion notification is in use, so that CWR is for the first segment alone
	whole   bool // UDP: one datagram, to be fragmented with mss bytes of IP payload each
	nosum   bool // UDP over IPv4 without checksum
}

// sum16 is the ones' complement sum of b, and of what was summed before, as RFC
// 1071 describes it. Only the last piece may have an odd length.
func sum16(sum uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum
}

// pseudo is the sum over the pseudo-header: addresses, protocol, length.
func pseudo(addresses []byte, proto byte, length int) uint32 {
	return sum16(sum16(0, addresses), []byte{0, proto, byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)})
}

// ipHeader is the network header for length bytes behind it.
func (p *packet) ipHeader(dst, src [6]byte, length int) (h, addresses []byte) {
	if p.v6 {
		h = make([]byte, 40)
		h[0], h[6], h[7] = 0x60, p.proto, 64
		copy(h[8:], append([]byte{0xfd, 10: 0}, src[1:]...))
		copy(h[24:], append([]byte{0xfd, 10: 0}, dst[1:]...))
		addresses = h[8:40]
		if p.extra {
			h[6] = hopByHop
			h = append(h, p.proto, 0, 1, 4, 0, 0, 0, 0) // PadN
		}
		binary.BigEndian.PutUint16(h[4:], uint16(len(h)-40+length))
		return h, addresses
	}
	h = make([]byte, 20, 24)
	if p.extra {
		h = append(h, 1, 1, 1, 0) // no-operation, end of options
	}
	h[0], h[8], h[9] = 0x40|byte(len(h)/4), 64, p.proto
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+length))
	binary.BigEndian.PutUint16(h[4:], firstID)
	copy(h[12:], []byte{10, 0, 0, src[5], 10, 0, 0, dst[5]})
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum16(0, h)))
	return h, h[12:20]
}

// l4Header is the transport header and where its checksum lies.
func (p *packet) l4Header() (h []byte, csumAt int) {
	if p.proto == udp {
		h = []byte{0x30, 0x39, 0x00, 0x50, 0, 0, 0, 0}
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(p.payload)))
		return h, 6
	}
	h = []byte{0x30, 0x39, 0x00, 0x50, 19: 0}
	binary.BigEndian.PutUint32(h[4:], firstSeq)
	binary.BigEndian.PutUint32(h[8:], acknowledgment)
	binary.BigEndian.PutUint16(h[14:], window)
	if p.options {
		h = append(h, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2) // timestamps
	}
	h[12], h[13] = byte(len(h)/4)<<4, ack|p.flags
	return h, 16
}

// frame is the packet on its way from src to dst. Its driver has accepted f:
// the checksum is left to the device if it may be.
func (p *packet) frame(dst, src [6]byte, f virtio.Features) vutest.Frame {
	l4, csumAt := p.l4Header()
	ip, addresses := p.ipHeader(dst, src, len(l4)+len(p.payload))
	link := append(append([]byte{}, dst[:]...), src[:]...)
	if p.vlan != 0 {
		link = append(link, 0x81, 0x00, byte(p.vlan>>8), byte(p.vlan))
	}
	etherType := []byte{0x08, 0x00}
	if p.v6 {
		etherType = []byte{0x86, 0xdd}
	}
	link = append(link, etherType...)
	start := len(link) + len(ip)
	partial := pseudo(addresses, p.proto, len(l4)+len(p.payload))
	b := append(append(append(link, ip...), l4...), p.payload...)
	fr := vutest.Frame{Data: b, Parts: 1 + len(b)/20000}
	switch {
	case p.nosum:
	case f.Has(virtio.NetCsum):
		binary.BigEndian.PutUint16(b[start+csumAt:], uint16(partial))
		fr.Header = virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, CsumStart: uint16(start), CsumOffset: uint16(csumAt)}
	default:
		binary.BigEndian.PutUint16(b[start+csumAt:], transmitted(sum16(partial, b[start:])))
	}
	if p.mss != 0 {
		fr.Header.GSOType, fr.Header.GSOSize = p.gsoType(), uint16(p.mss)
		fr.Header.HdrLen = uint16(start + len(l4))
	}
	return fr
}

// transmitted is a sum as it is sent: its complement, and in place of zero,
// which means "none" in UDP, the other zero.
func transmitted(sum uint32) uint16 {
	if c := ^uint16(sum); c != 0 {
		return c
	}
	return 0xffff
}

func (p *packet) gsoType() uint8 {
	t := virtio.GSOTCPv4
	switch {
	case p.proto == udp && p.whole:
		return virtio.GSOUDP
	case p.proto == udp:
		return virtio.GSOUDPL4
	case p.v6:
		t = virtio.GSOTCPv6
	}
	if p.ecn {
		t |= virtio.GSOECN
	}
	return t
}

// needs is what a driver has accepted that sends the packet, by the names of the
// sender's bits.
func (p *packet) needs() virtio.Features {
	switch {
	case p.mss == 0:
		return 0
	case p.proto == udp && p.whole:
		return virtio.NetCsum | virtio.NetHostUFO
	case p.proto == udp:
		return virtio.NetCsum | virtio.NetHostUSO
	}
	f := virtio.NetCsum | virtio.NetHostTSO4
	if p.v6 {
		f = virtio.NetCsum | virtio.NetHostTSO6
	}
	if p.ecn {
		f |= virtio.NetHostECN
	}
	return f
}

// arrived is a packet as the receiver's stack reads it.
type arrived struct {
	link    []byte // Ethernet header, with the tag
	v6      bool
	id      uint16 // of IPv4
	start   int    // of the transport header
	l4      []byte // transport header
	payload []byte
}

// read checks every length and every checksum of a frame that is complete.
func read(b []byte) (*arrived, error) {
	at := 14
	if len(b) > 18 && binary.BigEndian.Uint16(b[12:]) == 0x8100 {
		at = 18
	}
	if len(b) < at+20 {
		return nil, fmt.Errorf("%d bytes", len(b))
	}
	a := &arrived{link: b[:at]}
	var proto byte
	var addresses, l4 []byte
	switch binary.BigEndian.Uint16(b[at-2:]) {
	case 0x0800:
		ip := b[at:]
		n := int(ip[0]&15) * 4
		switch {
		case ip[0]>>4 != 4 || n < 20 || int(binary.BigEndian.Uint16(ip[2:])) != len(ip):
			return nil, fmt.Errorf("IPv4 header says %d of %d bytes", binary.BigEndian.Uint16(ip[2:]), len(ip))
		case sum16(0, ip[:n]) != 0xffff:
			return nil, errors.New("checksum of the IPv4 header")
		}
		a.id = binary.BigEndian.Uint16(ip[4:])
		proto, addresses, l4 = ip[9], ip[12:20], ip[n:]
	case 0x86dd:
		ip := b[at:]
		if ip[0]>>4 != 6 || int(binary.BigEndian.Uint16(ip[4:])) != len(ip)-40 {
			return nil, fmt.Errorf("IPv6 header says %d of %d bytes", binary.BigEndian.Uint16(ip[4:]), len(ip)-40)
		}
		a.v6 = true
		proto, addresses, l4 = ip[6], ip[8:40], ip[40:]
		if proto == hopByHop {
			proto, l4 = l4[0], l4[8+8*int(l4[1]):]
		}
	default:
		return nil, fmt.Errorf("EtherType %x", b[at-2:at])
	}
	a.start = len(b) - len(l4)
	n := 8
	if proto == tcp {
		n = int(l4[12]>>4) * 4
	} else if int(binary.BigEndian.Uint16(l4[4:])) != len(l4) {
		return nil, fmt.Errorf("UDP header says %d of %d bytes", binary.BigEndian.Uint16(l4[4:]), len(l4))
	}
	a.l4, a.payload = l4[:n], l4[n:]
	if proto == udp && !a.v6 && l4[6] == 0 && l4[7] == 0 {
		return a, nil // none
	}
	if sum := sum16(pseudo(addresses, proto, len(l4)), l4); sum != 0xffff {
		return a, fmt.Errorf("checksum of protocol %d: the sum is %#x", proto, sum)
	}
	return a, nil
}

// complete does what the header leaves to the receiver's stack.
func complete(got vutest.Received) ([]byte, error) {
	b := append([]byte{}, got.Data...)
	h := got.Header
	if h.Flags&virtio.NetFlagNeedsCsum == 0 {
		return b, nil
	}
	at := int(h.CsumStart) + int(h.CsumOffset)
	if at+2 > len(b) {
		return nil, fmt.Errorf("a checksum at %d + %d of %d bytes", h.CsumStart, h.CsumOffset, len(b))
	}
	binary.BigEndian.PutUint16(b[at:], transmitted(sum16(0, b[h.CsumStart:])))
	return b, nil
}
