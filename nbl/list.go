package nbl

import (
	"sync/atomic"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// MaxHeader is how much of a frame's head is copied out of guest memory at
// most, bytes. An offload frame whose headers are longer is malformed.
const MaxHeader = 256

// plainHeader is how much of a frame without offloads is copied out: Ethernet
// and VLAN decide, and a flow hash may look at the addresses and ports behind.
const plainHeader = 64

// MaxFrame is the longest frame that is taken from a guest, bytes from the
// Ethernet header: 64 KiB of IP packet with Ethernet, VLAN and slack
// (virtio 1.3, section 5.1.6.2 asks for 65550 + 18).
const MaxFrame = 65550 + 18

// Status says what became of a List that was handed to a switch.
type Status uint8

// The states of a List. Only Busy Lists may be handed to the switch again.
const (
	Pending Status = iota // not decided yet
	Done                  // delivered, or flooded to whoever had room
	Dropped               // counted under Reason
	Busy                  // the receiver has no room now; the List keeps its chain
)

// List is a NET_BUFFER_LIST: one packet with what is known about it. A send
// List is wrapped over a chain of a transmit ring and borrows its memory; a
// host List owns bytes of this process. One goroutine at a time may use a
// List; Deliver of a port reads it and changes nothing, so one List can be
// handed to many ports.
type List struct {
	// The first cache line is what every stage looks at.

	Buffer // the packet's NET_BUFFER: its bytes where the sender put them

	Dst, Src  uint64 // MAC addresses as 48-bit numbers, first byte on the wire most significant
	VLAN      uint16 // VLAN id of the first 802.1Q tag, 0 without one
	EtherType uint16 // behind the tag, if there is one
	L3        uint16 // offset of the network header, bytes from the Ethernet header
	headerLen uint16
	QueueID   sharedmem.QueueID // whose queue the frame goes by; set by the switch before Deliver
	Status    Status
	Reason    metrics.Reason // why it was dropped

	_      [2]byte         // the header begins a line
	header [MaxHeader]byte // of most frames the first 64 bytes: one line more

	// Offload is what is left to do to the packet: Flags, GSOType, GSOSize,
	// CsumStart and CsumOffset as in virtio_net_hdr, checked against the
	// frame; HdrLen is the true length of all headers of a GSO frame. It is
	// zero for a frame that is complete.
	Offload virtio.NetHeader

	Since   int64  // when it first became Busy, nanoseconds of worker.Context.Now; 0 before
	serial  uint64 // unique per packet: names it in caches while the List is reused
	hostMDL [1]MDL // the MDL chain of a host packet

	more *more // what most packets have nothing of; nil for them

	Renewed  uint8 // how often Since began anew while it was Busy
	children int32 // atomic: Lists derived from it (ChildRefCount)
}

// Header is the private copy of the frame's head: decisions read only it, and
// the delivered frame starts with it. It is valid until the List is reused.
func (l *List) Header() []byte { return l.header[:l.headerLen] }

// Children is how many Lists that were derived from this one are not freed yet
// (ChildRefCount). The parent is to be kept until it is 0.
func (l *List) Children() int { return int(atomic.LoadInt32(&l.children)) }

// Parent is the List that this one was derived from, nil when it was not
// (ParentNetBufferList).
func (l *List) Parent() *List {
	if l.more == nil {
		return nil
	}
	return l.more.parent
}

// NumBuffers is how many NET_BUFFERs the List has: one, except for Lists of
// pools without, and those to which more were chained.
func (l *List) NumBuffers() int {
	switch {
	case l.more == nil:
		return 1
	case l.more.bare:
		return len(l.more.extra)
	}
	return 1 + len(l.more.extra)
}

// NetBuffer is the i-th NET_BUFFER of the List; it panics when there is none.
func (l *List) NetBuffer(i int) *Buffer {
	if l.more == nil || !l.more.bare {
		if i == 0 {
			return &l.Buffer
		}
		i--
	}
	return &l.more.extra[i].Buffer
}

// Serial names the packet: two packets never share it, whatever List carries
// them.
func (l *List) Serial() uint64 { return l.serial }

// Drop marks the List as dropped for reason.
func (l *List) Drop(reason metrics.Reason) {
	l.Status = Dropped
	l.Reason = reason
}

// reset makes l ready for another packet. The header bytes stay: headerLen
// says which of them are the packet's.
func (l *List) reset(serial uint64) {
	l.Offload = virtio.NetHeader{}
	l.QueueID = 0
	l.Status = Pending
	l.Reason = metrics.ReasonNone
	l.Since = 0
	l.serial = serial
	l.headerLen = 0
	if l.more != nil {
		l.more.reset()
	}
}

// describe makes l say of itself what from says: addresses, tag, types,
// offload, queue and the private header. The bytes of the frame are the
// caller's to give.
func (l *List) describe(from *List) {
	l.Dst, l.Src = from.Dst, from.Src
	l.VLAN, l.EtherType, l.L3 = from.VLAN, from.EtherType, from.L3
	l.QueueID = from.QueueID
	l.Offload = from.Offload
	l.headerLen = uint16(copy(l.header[:], from.Header()))
}
