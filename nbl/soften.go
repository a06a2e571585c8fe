package nbl

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"vhostnet/virtio"
)

// Theory of operation.
//
// A frame travels as the sender left it: perhaps with a partial checksum,
// perhaps as one 64 KiB packet that nobody has cut. A receiver whose
// driver did not accept that gets the frame softened: its bytes are copied
// once out of guest memory into an arena of this process, where they cannot
// change any more; there they are summed and cut. What comes out are host
// Lists like any other: each has its own private header, and its payload lies
// in the arena.
//
// A Softener remembers what it made by the packet's serial, so a frame that is
// flooded to many ports, or delivered again after its receiver was busy, is
// softened once. The memory is a bump allocator that is emptied between two
// bursts, never within one: the Lists of a burst stay valid until it has been
// copied out.

// Sizes of a Softener. A burst of package queues takes at most 256 KiB (its
// burstBytes) and one frame, and each of its 64 frames fragmentLen bytes more;
// what is left when the arena is not emptied holds that.
const (
	SoftenerBytes = 512 << 10
	softLists     = maxSegments + 512
	softFrames    = 128
	keepBytes     = SoftenerBytes / 4
)

// Softener completes checksums and cuts packets for receivers that lack the
// feature. One goroutine at a time may use it; a worker has one.
type Softener struct {
	arena  []byte
	used   int
	lists  []List
	nLists int
	frames [softFrames]softFrame
	nFrame int
}

type softFrame struct {
	serial     uint64
	first, end int // range of lists
}

// NewSoftener works in arena, which holds at least SoftenerBytes and belongs
// to the Softener from now on.
func NewSoftener(arena []byte) *Softener {
	return &Softener{arena: arena[:SoftenerBytes], lists: make([]List, softLists)}
}

// StartBurst invalidates Lists of earlier bursts when they take so much room
// that a burst might not fit beside them.
func (s *Softener) StartBurst() {
	if s.used > keepBytes || s.nLists > softLists-maxSegments || s.nFrame > softFrames/2 {
		s.used, s.nLists, s.nFrame = 0, 0, 0
	}
}

// Soften gives l as complete frames, in order. They are valid until the next
// StartBurst. It answers false when this burst has no room left; at the start
// of a burst there is always room for one packet.
func (s *Softener) Soften(l *List) ([]List, bool) {
	for i := range s.frames[:s.nFrame] {
		if f := &s.frames[i]; f.serial == l.serial {
			return s.lists[f.first:f.end], true
		}
	}
	need := 1
	if l.Offload.GSOType != virtio.GSONone {
		need = l.segmenting().pieces
	}
	if s.nFrame == softFrames || s.nLists+need > softLists || s.used+fragmentLen+int(l.Length) > len(s.arena) {
		return nil, false
	}
	room := s.take(l)
	frame := room[fragmentLen:]
	out := s.lists[s.nLists : s.nLists+need]
	s.frames[s.nFrame] = softFrame{l.serial, s.nLists, s.nLists + need}
	s.nFrame++
	s.nLists += need
	switch l.Offload.GSOType {
	case virtio.GSONone:
		completeChecksum(l, frame)
		out[0].inherit(l, frame)
	case virtio.GSOUDP:
		fragment(out, l, room)
	default:
		cut(out, l, frame)
	}
	return out, true
}

// take copies the whole frame into the arena, behind room for one more header:
// its head from the private header, which is what was checked, the rest from
// guest memory.
func (s *Softener) take(l *List) (room []byte) {
	end := s.used + fragmentLen + int(l.Length)
	room = s.arena[s.used:end:end]
	s.used = end
	frame := room[fragmentLen:]
	n := copy(frame, l.Header())
	c := l.At(uint32(n))
	c.Read(frame[n:])
	return room
}

// inherit makes out a host packet over frame with what is known of l.
func (out *List) inherit(l *List, frame []byte) {
	out.FromBytes(frame, l.serial)
	out.QueueID = l.QueueID
}

// completeChecksum stores the ones' complement sum from CsumStart to the end
// of frame at CsumStart+CsumOffset, where the pseudo-header's sum stands.
func completeChecksum(l *List, frame []byte) {
	start := int(l.Offload.CsumStart)
	sum := checksum.Checksum(frame[start:], 0)
	binary.BigEndian.PutUint16(frame[start+int(l.Offload.CsumOffset):], transmitted(sum))
}

// transmitted is a sum as it is sent: its complement. Zero is written as 0xffff,
// which is the same number and, in UDP, not "none".
func transmitted(sum uint16) uint16 {
	if sum == 0xffff {
		return sum
	}
	return ^sum
}
