package nbl

import (
	"math"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// What an uplink needs: frames with virtio_net_hdr in memory of this process,
// both ways.
//
//	Source.Get    Own, WrapOwn       Indicate, Forward      Source.Return
//	--------->  bytes -> packet   ------------------------> ----------->
//
// The way out is CopyOut, for what [Needed] says of the uplink after a
// [Softener] has made it complete.

// Own is the List's own memory as a slice, for a system call or a protocol stack
// to put a frame into: all of it, whatever the pool's Backfill. It is nil for
// Lists that have none, or whose memory is not this process's.
func (l *List) Own() []byte {
	if l.more == nil {
		return nil
	}
	return l.more.own
}

// WrapOwn makes l the packet whose virtio_net_hdr and frame are the first n
// bytes of Own. It is Wrap for a sender in this process: header and frame are
// checked as a guest's are, against what NewSender was told. A List without own
// memory, or with less than n bytes, is malformed as a short one is.
func (s *Sender) WrapOwn(l *List, n uint32) metrics.Reason {
	if l.more == nil || uint64(n) > l.more.data[0].Len() {
		n = 0
	}
	var mdls []MDL
	if l.more != nil {
		mdls = l.more.data[:]
	}
	return s.wrap(l, mdls, n)
}

// WrapParts is WrapOwn for a packet that lies in several parts of this process's
// memory: what they hold is the packet, virtio_net_hdr first. At least one part is
// needed. l borrows the slice and the memory until it is given back, and nobody
// may change either meanwhile.
func (s *Sender) WrapParts(l *List, parts []MDL) metrics.Reason {
	n := uint64(0)
	for _, p := range parts {
		n += p.Len()
	}
	return s.wrap(l, parts, uint32(min(n, math.MaxUint32)))
}

// CopyOut writes l into dst as a receiver reads it: virtio_net_hdr of headerLen
// bytes (10 or 12, or 0 for none) that says what is left to do, with one
// buffer, then the frame. It answers how many bytes that are, or 0 when dst is
// too short; nothing is written then. l is not changed.
func CopyOut(dst []byte, l *List, headerLen uint32) int {
	n := uint64(headerLen) + uint64(l.Length)
	if n > uint64(len(dst)) {
		return 0
	}
	if headerLen > 0 {
		h := RxHeader(l, 1)
		h.Encode(dst[:headerLen])
	}
	into := [1]MDL{sharedmem.BytesBlock(dst[headerLen:n])}
	to := NewCursor(into[:])
	if WriteFrame(&to, l) != uint64(l.Length) {
		return 0 // its chain is shorter than it says
	}
	return int(n)
}

// UplinkFeatures is what an uplink that speaks virtio_net_hdr in both directions
// may leave to its receivers, and take: see NewSender and Needed.
const UplinkFeatures = virtio.Version1 | virtio.NetCsum | virtio.NetGuestCsum |
	virtio.NetHostTSO4 | virtio.NetHostTSO6 | virtio.NetGuestTSO4 | virtio.NetGuestTSO6
