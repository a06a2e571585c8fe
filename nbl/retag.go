package nbl

import (
	"encoding/binary"

	"vhostnet/virtio"
)

// A receiver may want a frame with an 802.1Q tag that its sender left out, or
// without one that it has. The sender's List is not changed for that: it may go
// to others. Another List is made for the delivery, over the same payload, with
// a private header of its own in which the tag is put or left out. What was in
// the frame stays known out of band, in VLAN.

// MaxTaggedHeaders is how long the headers of an offload packet may be that is
// to get a tag: with it they must fit the private header.
const MaxTaggedHeaders = MaxHeader - vlanTagLen

// The derived packet has other bytes than its parent, so caches must know it
// by another name. Serials of senders leave these bits alone.
const (
	serialTagged   = 1 << 63
	serialUntagged = 1 << 62
)

// addressesLen is where a tag stands: behind the two addresses.
const addressesLen = 12

// HasTag reports whether the frame has an 802.1Q tag.
func (l *List) HasTag() bool { return l.L3 == EthernetHeaderLen+vlanTagLen }

// TCI is the frame's tag without its type: priority, drop eligibility, VLAN; 0
// when it has none.
func (l *List) TCI() uint16 {
	if !l.HasTag() {
		return 0
	}
	return binary.BigEndian.Uint16(l.header[EthernetHeaderLen:])
}

// WithTag makes l the packet from with this tag: in the place of its tag, or in
// front of its type when it has none. An offload packet has headers of at most
// MaxTaggedHeaders. l borrows from's memory, and is valid as long as from is.
func (l *List) WithTag(from *List, tci uint16) {
	if from.HasTag() {
		l.derive(from, 0, serialTagged)
	} else {
		l.derive(from, vlanTagLen, serialTagged)
		n := copy(l.header[addressesLen+vlanTagLen:], from.header[addressesLen:from.headerLen])
		l.headerLen = uint16(addressesLen + vlanTagLen + n)
		binary.BigEndian.PutUint16(l.header[addressesLen:], etherTypeVLAN)
	}
	binary.BigEndian.PutUint16(l.header[EthernetHeaderLen:], tci)
}

// WithoutTag makes l the packet from, which has a tag, without it. l borrows
// from's memory, and is valid as long as from is.
func (l *List) WithoutTag(from *List) {
	l.derive(from, -vlanTagLen, serialUntagged)
	n := copy(l.header[addressesLen:], from.header[addressesLen+vlanTagLen:from.headerLen])
	l.headerLen = uint16(addressesLen + n)
}

// derive makes l the packet from, whose frame is grown bytes longer, all of them
// in its private header. The payload does not move: what is in front of it in
// the private header grows, so Offset, from which that is counted, shrinks,
// modulo 2^32 where a host's frame has nothing in front.
func (l *List) derive(from *List, grown int, mark uint64) {
	l.reset(from.serial | mark)
	l.describe(from)
	l.MDLs = from.MDLs
	l.Offset, l.Length = from.Offset-uint32(grown), from.Length+uint32(grown)
	l.L3 += uint16(grown)
	if l.Offload.Flags&virtio.NetFlagNeedsCsum != 0 {
		l.Offload.CsumStart += uint16(grown)
	}
	if l.Offload.GSOType != virtio.GSONone {
		l.Offload.HdrLen += uint16(grown)
	}
}
