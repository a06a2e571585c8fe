package ndp

import (
	"encoding/binary"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Flags of an advertisement (RFC 4861, 4.2) and of its prefix (4.6.2).
const (
	managedFlag    = 1 << 7
	otherFlag      = 1 << 6
	onLinkFlag     = 1 << 7
	autonomousFlag = 1 << 6
)

// hopLimit is what guests put into the packets that they send.
const hopLimit = 64

// Lifetimes of the prefix (RFC 4861, 6.2.1) are long: a router that is gone for
// a while takes no address away.
const (
	validLifetime     = 30 * 24 * time.Hour
	preferredLifetime = 7 * 24 * time.Hour
)

// advertisement is a whole frame to everybody. A lifetime of 0 takes the router
// back, and the resolvers with it; addresses stay.
func (g *Gateway) advertisement(r Router, lifetime time.Duration) []byte {
	options := header.NDPOptionsSerializer{
		header.NDPSourceLinkLayerAddressOption(g.link),
		prefixInformation(r),
	}
	if len(r.DNS) > 0 {
		options = append(options, resolvers(r, lifetime))
	}
	if search := searchList(r.Search, lifetime); search != nil {
		options = append(options, search)
	}
	const fixed = header.ICMPv6HeaderSize + header.NDPRAMinimumSize
	mtu := 0
	if r.MTU != 0 {
		mtu = 8
	}
	body := make([]byte, fixed+options.Length()+mtu)
	body[0] = byte(header.ICMPv6RouterAdvert)
	body[4] = hopLimit
	if r.Managed {
		body[5] |= managedFlag
	}
	if r.Other {
		body[5] |= otherFlag
	}
	binary.BigEndian.PutUint16(body[6:], uint16(lifetime/time.Second))
	header.NDPOptions(body[fixed:]).Serialize(options)
	if mtu != 0 { // the one option that the header package does not write (4.6.4)
		o := body[len(body)-mtu:]
		o[0], o[1] = 5, 1
		binary.BigEndian.PutUint32(o[4:], r.MTU)
	}
	return g.icmp(nil, [6]byte{0x33, 0x33, 0, 0, 0, 1}, g.linkLocal, allNodes, body)
}

func prefixInformation(r Router) header.NDPPrefixInformation {
	o := make(header.NDPPrefixInformation, 30)
	o[0] = byte(r.Prefix.Bits())
	o[1] = onLinkFlag
	if r.Autonomous {
		o[1] |= autonomousFlag
	}
	binary.BigEndian.PutUint32(o[2:], uint32(validLifetime/time.Second))
	binary.BigEndian.PutUint32(o[6:], uint32(preferredLifetime/time.Second))
	a := r.Prefix.Addr().As16()
	copy(o[14:], a[:])
	return o
}

func resolvers(r Router, lifetime time.Duration) header.NDPRecursiveDNSServer {
	o := make(header.NDPRecursiveDNSServer, 6, 6+header.IPv6AddressSize*len(r.DNS))
	binary.BigEndian.PutUint32(o[2:], uint32(lifetime/time.Second))
	for _, a := range r.DNS {
		b := tcpip.AddrFrom16(a.As16())
		o = append(o, b.AsSlice()...)
	}
	return o
}

// searchList is option 31 with what of domains can be told; nil: nothing.
func searchList(domains []string, lifetime time.Duration) header.NDPDNSSearchList {
	o := make(header.NDPDNSSearchList, 6)
	binary.BigEndian.PutUint32(o[2:], uint32(lifetime/time.Second))
	for _, domain := range domains {
		o = append(o, encodeName(domain)...)
	}
	if len(o) == 6 {
		return nil
	}
	for (len(o)+2)%8 != 0 { // padding is empty names (RFC 8106, 5.2)
		o = append(o, 0)
	}
	return o
}

// encodeName is a domain name as labels (RFC 1035, 3.1), nothing for one that
// is none.
func encodeName(name string) (b []byte) {
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if len(label) == 0 || len(label) > 63 {
			return nil
		}
		b = append(b, byte(len(label)))
		b = append(b, label...)
	}
	if len(b) > 254 {
		return nil
	}
	return append(b, 0)
}
