package nbl

import (
	"fmt"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// Info is the out-of-band information of a packet: what NDIS keeps in
// NetBufferListInfo, and virtio in virtio_net_hdr. A zero field is a slot that
// says nothing.
type Info struct {
	Send      SendChecksum    // work that is left to whoever sends the frame on
	Received  ReceiveChecksum // what was found out about a received frame
	LSO       LargeSend       // a TCP packet that is to be cut
	USO       LargeSend       // UDP datagrams that are to be cut out of one
	UFO       LargeSend       // a UDP datagram that is to be fragmented; virtio only
	RSC       Coalesced       // a TCP packet that was put together
	Tag       Tag             // 802.1Q
	Hash      Hash
	Filtering Filtering
}

// SendChecksum is TcpIpChecksum on the way out: which sums are to be completed.
type SendChecksum struct {
	IPv4, IPv6   bool
	TCP, UDP     bool   // whose field holds the pseudo-header's sum
	HeaderOffset uint16 // of the transport header from the Ethernet header
	Field        uint16 // of the sum in that header; 16 for TCP, 6 for UDP, anything for what NDIS has no bit for
	Needed       bool   // there is a sum to complete
}

// ReceiveChecksum is TcpIpChecksum on the way in: what was checked. With
// neither bit nothing was.
type ReceiveChecksum struct{ Succeeded, Failed bool }

// LargeSend is TcpLargeSend or UdpSegmentationOffloadInfo: how a packet is to
// be cut. The zero MSS is no such packet.
type LargeSend struct {
	MSS          uint16 // payload bytes of one segment
	HeaderOffset uint16 // of the transport header
	HeadersLen   uint16 // bytes of all headers, as they were parsed; SetInfo does not look at it
	IPv6         bool
	ECN          bool // the sender's CWR bit is for the first segment
	V1           bool // LSO version 1: IPv4 only, and completion tells the payload
}

// Coalesced is TcpRecvSegCoalesceInfo. The zero Segments is no such packet.
type Coalesced struct {
	Segments uint16 // that were put together
	DupAcks  uint16
}

// Tag is Ieee8021QNetBufferListInfo: the 802.1Q tag that a frame has, or had
// before it was stripped.
type Tag struct {
	Present  bool
	Priority uint8 // UserPriority, 3 bits
	CFI      bool  // CanonicalFormatId
	VLAN     uint16
}

// TCI is the tag as it is on the wire, behind 0x8100.
func (t Tag) TCI() uint16 {
	tci := uint16(t.Priority)<<13 | t.VLAN&0x0fff
	if t.CFI {
		tci |= 1 << 12
	}
	return tci
}

// TagOf is the tag of a TCI.
func TagOf(tci uint16) Tag {
	return Tag{Present: true, Priority: uint8(tci >> 13), CFI: tci&(1<<12) != 0, VLAN: tci & 0x0fff}
}

// HashType says over what a hash was made, as virtio's hash_report does
// (virtio 1.3, section 5.1.6.4.4). 0: there is none.
type HashType uint16

// Hash types; NDIS's NDIS_HASH_* bits have the same names.
const (
	HashNone HashType = iota
	HashIPv4
	HashTCPIPv4
	HashUDPIPv4
	HashIPv6
	HashTCPIPv6
	HashUDPIPv6
	HashIPv6Ex
	HashTCPIPv6Ex
	HashUDPIPv6Ex
)

// Hash is NetBufferListHashValue and NetBufferListHashInfo; the function is
// Toeplitz.
type Hash struct {
	Value uint32
	Type  HashType
}

// Filtering is NetBufferListFilteringInfo. FilterID is 0 in indications.
type Filtering struct {
	FilterID uint16
	QueueID  uint16
}

// extraInfo is the part of Info that neither virtio_net_hdr of a transmit ring
// nor the frame says.
type extraInfo struct {
	received ReceiveChecksum
	rsc      Coalesced
	hash     Hash
	stripped Tag
	lso1     bool
}

// Info is all that is known of the packet beside its bytes.
func (l *List) Info() Info {
	i := Info{Tag: l.Tag(), Filtering: Filtering{QueueID: uint16(l.QueueID)}}
	if m := l.more; m != nil {
		i.Received, i.RSC, i.Hash = m.info.received, m.info.rsc, m.info.hash
	}
	if l.Offload.Flags&virtio.NetFlagNeedsCsum == 0 {
		return i
	}
	o := &l.Offload
	i.Send = SendChecksum{
		IPv4: l.EtherType == etherTypeIPv4, IPv6: l.EtherType == etherTypeIPv6,
		HeaderOffset: o.CsumStart, Field: o.CsumOffset, Needed: true,
	}
	if l4, proto, ok := l.transport(); ok && l4 == int(o.CsumStart) {
		i.Send.TCP = proto == protoTCP && o.CsumOffset == tcpCsumOffset
		i.Send.UDP = proto == protoUDP && o.CsumOffset == udpCsumOffset
	}
	large := LargeSend{
		MSS: o.GSOSize, HeaderOffset: o.CsumStart, HeadersLen: o.HdrLen,
		IPv6: i.Send.IPv6, ECN: o.GSOType&virtio.GSOECN != 0,
	}
	switch o.GSOType &^ virtio.GSOECN {
	case virtio.GSOTCPv4, virtio.GSOTCPv6:
		large.IPv6 = o.GSOType&^virtio.GSOECN == virtio.GSOTCPv6
		large.V1 = l.more != nil && l.more.info.lso1
		i.LSO = large
	case virtio.GSOUDPL4:
		i.USO = large
	case virtio.GSOUDP:
		i.UFO = large
	}
	return i
}

// Tag is the frame's first 802.1Q tag, or the one that was stripped from it.
func (l *List) Tag() Tag {
	if h := l.Header(); l.L3 == EthernetHeaderLen+vlanTagLen && len(h) >= int(l.L3) {
		return TagOf(uint16(h[14])<<8 | uint16(h[15]))
	}
	if l.more != nil {
		return l.more.info.stripped
	}
	return Tag{}
}

// SetInfo makes i what is known of the packet; it must fit the frame, of which
// it changes nothing. A packet is cut within the limits that hold for a driver's,
// and its headers are parsed as theirs are. Only Lists that are not over a chain
// can be told anything. The error wraps ErrParameter; l is as it was then.
func (l *List) SetInfo(i Info) error {
	if l.more == nil {
		return errBorrowed
	}
	h, err := i.offload()
	if err != nil {
		return err
	}
	if i.Send.Needed && (uint32(h.CsumStart) < uint32(l.L3) || uint32(h.CsumStart)+uint32(h.CsumOffset)+2 > l.Length) {
		return fmt.Errorf("nbl: a checksum at %d+%d of a frame of %d bytes: %w", h.CsumStart, h.CsumOffset, l.Length, ErrParameter)
	}
	if err := l.setOffload(h); err != nil {
		return err
	}
	l.QueueID = sharedmem.QueueID(i.Filtering.QueueID)
	l.more.info = extraInfo{received: i.Received, rsc: i.RSC, hash: i.Hash, lso1: i.LSO.V1}
	if l.L3 == EthernetHeaderLen {
		l.more.info.stripped = i.Tag
	}
	return nil
}

// setOffload makes h what is left to do, whose checksum lies in the frame. It
// changes nothing when h wants the frame cut as it can not be.
func (l *List) setOffload(h virtio.NetHeader) error {
	offload, have := l.Offload, l.headerLen
	l.Offload = h
	if h.Flags&virtio.NetFlagNeedsCsum == 0 {
		return nil
	}
	l.extendHeader()
	if h.GSOType == virtio.GSONone {
		return nil
	}
	if reason := l.checkGSO(h, offloadBits); reason != metrics.ReasonNone {
		l.Offload, l.headerLen = offload, have
		return fmt.Errorf("nbl: a frame of %d bytes can not be cut into pieces of %d bytes as gso_type %#x, with a checksum at %d+%d: %w",
			l.Length, h.GSOSize, h.GSOType, h.CsumStart, h.CsumOffset, ErrParameter)
	}
	return nil
}

// extendHeader copies as much of the frame's head as offloads may be about, as
// Wrap does for them.
func (l *List) extendHeader() {
	n := min(l.Length, MaxHeader)
	if have := uint32(l.headerLen); have < n {
		c := l.At(have)
		c.Read(l.header[have:n])
		l.headerLen = uint16(n)
	}
}

// offload is virtio_net_hdr of what is left to do.
func (i *Info) offload() (virtio.NetHeader, error) {
	large := 0
	for _, mss := range []uint16{i.LSO.MSS, i.USO.MSS, i.UFO.MSS} {
		if mss != 0 {
			large++
		}
	}
	switch {
	case large > 1:
		return virtio.NetHeader{}, fmt.Errorf("nbl: a packet that is to be cut in two ways: %w", ErrParameter)
	case large == 1 && !i.Send.Needed:
		return virtio.NetHeader{}, fmt.Errorf("nbl: a packet that is to be cut, with sums that are not to be completed: %w", ErrParameter)
	case i.LSO.V1 && i.LSO.IPv6:
		return virtio.NetHeader{}, fmt.Errorf("nbl: large send version 1 is for IPv4 only: %w", ErrParameter)
	}
	var h virtio.NetHeader
	if i.Send.Needed {
		h = virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, CsumStart: i.Send.HeaderOffset, CsumOffset: i.Send.Field}
	}
	switch {
	case i.LSO.MSS != 0:
		h.GSOType, h.GSOSize, h.HdrLen = virtio.GSOTCPv4, i.LSO.MSS, i.LSO.HeadersLen
		if i.LSO.IPv6 {
			h.GSOType = virtio.GSOTCPv6
		}
		if i.LSO.ECN {
			h.GSOType |= virtio.GSOECN
		}
	case i.USO.MSS != 0:
		h.GSOType, h.GSOSize, h.HdrLen = virtio.GSOUDPL4, i.USO.MSS, i.USO.HeadersLen
	case i.UFO.MSS != 0:
		h.GSOType, h.GSOSize, h.HdrLen = virtio.GSOUDP, i.UFO.MSS, i.UFO.HeadersLen
	}
	return h, nil
}

// NetHeader is virtio_net_hdr of a delivery to a driver that accepted f, and
// answers false when f has no way to say it: then the frame has to be completed
// or cut first (Softener). numBuffers is how many receive buffers the delivery
// takes (virtio 1.3, section 5.1.6.4).
func (i *Info) NetHeader(f virtio.Features, numBuffers uint16) (virtio.NetHeader, bool) {
	h, err := i.offload()
	if err != nil || h.Flags != 0 && !f.Has(virtio.NetGuestCsum) || !f.Has(i.needed()) {
		return virtio.NetHeader{}, false
	}
	if i.Received.Succeeded && h.Flags == 0 && f.Has(virtio.NetGuestCsum) {
		h.Flags = virtio.NetFlagDataValid
	}
	if i.RSC.Segments != 0 {
		if i.Send.Needed || !f.Has(virtio.NetRSCExt) {
			return virtio.NetHeader{}, false // csum_start and csum_offset are taken
		}
		h.Flags |= virtio.NetFlagRSCInfo
		h.CsumStart, h.CsumOffset = i.RSC.Segments, i.RSC.DupAcks
	}
	h.NumBuffers = numBuffers
	return h, true
}

// needed is what a driver must have accepted to cut the packet itself.
func (i *Info) needed() (f virtio.Features) {
	switch {
	case i.LSO.MSS != 0 && i.LSO.IPv6:
		f = virtio.NetGuestTSO6
	case i.LSO.MSS != 0:
		f = virtio.NetGuestTSO4
	case i.USO.MSS != 0 && i.USO.IPv6:
		f = virtio.NetGuestUSO6
	case i.USO.MSS != 0:
		f = virtio.NetGuestUSO4
	case i.UFO.MSS != 0:
		f = virtio.NetGuestUFO
	}
	if i.LSO.ECN {
		f |= virtio.NetGuestECN
	}
	return f
}

// ReceivedInfo reads a header that a device wrote, as the driver of a received
// frame does: the inverse of NetHeader for the packet l, whose frame says what
// the header leaves out.
func (l *List) ReceivedInfo(h virtio.NetHeader, hash Hash) Info {
	received := List{EtherType: l.EtherType, L3: l.L3, headerLen: l.headerLen, header: l.header, QueueID: l.QueueID}
	if h.Flags&virtio.NetFlagNeedsCsum != 0 {
		received.Offload = h
	}
	i := received.Info()
	i.Hash = hash
	i.Received.Succeeded = h.Flags&virtio.NetFlagDataValid != 0
	if h.Flags&virtio.NetFlagRSCInfo != 0 {
		i.RSC = Coalesced{Segments: h.CsumStart, DupAcks: h.CsumOffset}
	}
	return i
}

// inheritInfo takes over what of the information a clone keeps.
func (l *List) inheritInfo(parent *List) {
	if parent.more == nil {
		return
	}
	l.more.info = parent.more.info
	l.more.info.rsc = Coalesced{} // not among what NdisCopyReceiveNetBufferListInfo copies
}

// CompletedPayload is what the completion of a large send version 1 reports:
// the bytes of TCP payload, 0 for any other packet.
func (l *List) CompletedPayload() uint32 {
	if l.more == nil || !l.more.info.lso1 || l.Offload.GSOSize == 0 {
		return 0
	}
	return l.Length - uint32(l.Offload.HdrLen)
}
