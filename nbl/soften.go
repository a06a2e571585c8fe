package nbl

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"vhostnet/virtio"
)

// Theory of operation.
//
// A frame travels as the sender left it: perhaps with a partial checksum,
// perhaps as one 64 KiB TCP packet that nobody has cut. A receiver whose
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

// Sizes of a Softener. A burst takes at most BurstBytes of payload plus one
// frame; what is left when the arena is not emptied holds that.
const (
	SoftenerBytes = 512 << 10
	maxSegments   = MaxFrame/minGSOSize + 1
	softLists     = maxSegments + 512
	softFrames    = 64
	keepBytes     = SoftenerBytes / 4
)

// Softener completes checksums and cuts TCP segments for receivers that lack
// the feature. One goroutine at a time may use it; a worker has one.
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

// Needed reports whether a receiver that accepted f can not take l as it is
// (virtio 1.3, section 5.1.6.4).
func Needed(l *List, f virtio.Features) bool {
	switch {
	case l.Offload.Flags&virtio.NetFlagNeedsCsum == 0:
		return false
	case !f.Has(virtio.NetGuestCsum):
		return true
	case l.Offload.GSOType == virtio.GSOTCPv4:
		return !f.Has(virtio.NetGuestTSO4)
	case l.Offload.GSOType == virtio.GSOTCPv6:
		return !f.Has(virtio.NetGuestTSO6)
	}
	return false
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
		payload := int(l.Length) - int(l.Offload.HdrLen)
		need = (payload + int(l.Offload.GSOSize) - 1) / int(l.Offload.GSOSize)
	}
	if s.nFrame == softFrames || s.nLists+need > softLists || s.used+int(l.Length) > len(s.arena) {
		return nil, false
	}
	frame := s.take(l)
	out := s.lists[s.nLists : s.nLists+need]
	s.frames[s.nFrame] = softFrame{l.serial, s.nLists, s.nLists + need}
	s.nFrame++
	s.nLists += need
	if l.Offload.GSOType == virtio.GSONone {
		completeChecksum(&out[0], l, frame)
	} else {
		cut(out, l, frame)
	}
	return out, true
}

// take copies the whole frame into the arena: its head from the private
// header, which is what was checked, the rest from guest memory.
func (s *Softener) take(l *List) []byte {
	frame := s.arena[s.used : s.used+int(l.Length) : s.used+int(l.Length)]
	s.used += int(l.Length)
	n := copy(frame, l.Header())
	c := l.At(uint32(n))
	c.Read(frame[n:])
	return frame
}

// inherit makes out a host packet over frame with what is known of l.
func (out *List) inherit(l *List, frame []byte) {
	out.FromBytes(frame, l.serial)
	out.QueueID = l.QueueID
}

// completeChecksum stores the ones' complement sum from CsumStart to the end
// of frame at CsumStart+CsumOffset, where the pseudo-header's sum stands. Zero
// is written as 0xffff, which is the same number and, in UDP, not "none".
func completeChecksum(out, l *List, frame []byte) {
	start := int(l.Offload.CsumStart)
	at := start + int(l.Offload.CsumOffset)
	sum := ^checksum.Checksum(frame[start:], 0)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(frame[at:], sum)
	out.inherit(l, frame)
}

// cut makes one List per TCP segment. Segments share the frame's payload in
// the arena; each has its own header. Only the last keeps FIN and PSH, only
// the first CWR (virtio 1.3, section 5.1.6.2; RFC 3168, section 6.1.2).
func cut(out []List, l *List, frame []byte) {
	headers, mss := int(l.Offload.HdrLen), int(l.Offload.GSOSize)
	for i := range out {
		start := headers + i*mss
		end := min(start+mss, len(frame))
		segment := &out[i]
		segment.segmentOf(l, frame[start-headers:end], headers)
		fixIP(segment, l, i)
		fixTCP(segment, l, i, i == len(out)-1, frame[start:end])
	}
}

// segmentOf makes out a packet of the length of window whose private header
// is l's headers; the bytes of window behind them are its payload.
func (out *List) segmentOf(l *List, window []byte, headers int) {
	out.FromBytes(window, l.serial)
	out.QueueID = l.QueueID
	out.headerLen = uint16(headers)
	copy(out.header[:headers], l.header[:headers])
	out.parseEthernet()
}

func fixIP(segment, l *List, index int) {
	ip := segment.header[l.L3:l.Offload.CsumStart]
	payload := segment.Length - uint32(l.L3)
	if l.Offload.GSOType == virtio.GSOTCPv6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(payload-ipv6Len))
		return
	}
	binary.BigEndian.PutUint16(ip[2:], uint16(payload))
	binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(index))
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^checksum.Checksum(ip, 0))
}

const (
	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80
)

func fixTCP(segment, l *List, index int, last bool, payload []byte) {
	tcp := segment.header[l.Offload.CsumStart:segment.headerLen]
	seq := binary.BigEndian.Uint32(tcp[4:]) + uint32(index)*uint32(l.Offload.GSOSize)
	binary.BigEndian.PutUint32(tcp[4:], seq)
	if !last {
		tcp[13] &^= tcpFIN | tcpPSH
	}
	if index > 0 {
		tcp[13] &^= tcpCWR
	}
	binary.BigEndian.PutUint16(tcp[tcpCsumOffset:], 0)
	sum := pseudoHeader(segment, l, uint16(len(tcp)+len(payload)))
	sum = checksum.Checksum(tcp, sum)
	sum = checksum.Combine(sum, checksum.Checksum(payload, 0))
	binary.BigEndian.PutUint16(tcp[tcpCsumOffset:], ^sum)
}

// pseudoHeader is the sum over addresses, protocol and length (RFC 9293,
// section 3.1; RFC 8200, section 8.1). With a routing header the final
// destination would be needed; the guest's own partial sum could tell it, but
// such frames are not TSO'd by any driver seen, and get the address in place.
func pseudoHeader(segment, l *List, length uint16) uint16 {
	addresses := segment.header[l.L3+12 : l.L3+20]
	if l.Offload.GSOType == virtio.GSOTCPv6 {
		addresses = segment.header[l.L3+8 : l.L3+40]
	}
	sum := checksum.Checksum(addresses, protoTCP)
	return checksum.Combine(sum, length)
}
