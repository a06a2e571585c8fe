package nbl

import (
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// RxHeader is virtio_net_hdr for a delivery of l by n receive buffers to a
// driver that takes l as it is: flags and segment sizes of what is left to do,
// zeros for a complete frame (virtio 1.3, section 5.1.6.4.1).
func RxHeader(l *List, n uint16) virtio.NetHeader {
	h := l.Offload
	h.NumBuffers = n
	return h
}

// PutRxHeader writes the first headerLen bytes (10 or 12) of a delivery of l by
// n receive buffers into dst, which holds them. Written ahead of the payload it
// takes the line's ownership before the payload needs it.
func PutRxHeader(dst MDL, l *List, n uint16, headerLen uint32) {
	var first uint64 // what is complete has zeros
	var offset uint16
	if h := &l.Offload; h.Flags != 0 {
		first = uint64(h.Flags) | uint64(h.GSOType)<<8 | uint64(h.HdrLen)<<16 |
			uint64(h.GSOSize)<<32 | uint64(h.CsumStart)<<48
		offset = h.CsumOffset
	}
	dst.Store64(0, first)
	if headerLen == virtio.MaxNetHeaderLen {
		dst.Store32(8, uint32(offset)|uint32(n)<<16)
	} else {
		dst.Store16(8, offset)
	}
}

// CopyFrame copies l into dst, whose first MDL is long enough for it: the
// private header, then the payload out of the sender's memory (NDIS:
// NdisCopyFromNetBufferToNetBuffer). This is the one copy on the way from
// guest to guest.
func CopyFrame(dst *Buffer, l *List) {
	head := uint64(l.headerLen)
	to := dst.MDLs[0]
	if head == plainHeader {
		to.CopyFrom64((*[plainHeader]byte)(l.header[:]), uint64(dst.Offset))
	} else {
		to.CopyFrom(l.header[:head], uint64(dst.Offset))
	}
	rest := uint64(l.Length) - head
	if rest == 0 {
		return
	}
	to = to.Sub(uint64(dst.Offset)+head, rest)
	at := uint64(l.Offset + uint32(head))
	if first := l.MDLs[0]; first.Len() >= at+rest {
		sharedmem.Copy(to, first.Sub(at, rest))
		return
	}
	l.copyPayload(to)
}

// copyPayload copies what follows the private header to dst from wherever the
// sender split it.
func (l *List) copyPayload(dst MDL) {
	into := [1]MDL{dst}
	to, from := NewCursor(into[:]), l.At(uint32(l.headerLen))
	to.Copy(&from, dst.Len())
}

// WriteFrame copies l through dst, over as many MDLs as it takes, and answers
// how many bytes were written: l.Length unless dst ended.
func WriteFrame(dst *Cursor, l *List) uint64 {
	n := uint64(dst.Write(l.Header()))
	from := l.At(uint32(l.headerLen))
	return n + dst.Copy(&from, uint64(l.Length)-n)
}
