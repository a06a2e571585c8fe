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
// n receive buffers into dst, which has room for them. Written ahead of the
// payload it takes the line's ownership before the payload needs it.
func PutRxHeader(dst MDL, l *List, n uint16, headerLen uint32) {
	h := &l.Offload
	if h.Flags == 0 { // what is complete has zeros
		putHeader(dst, 0, uint32(n)<<16, headerLen)
		return
	}
	first := uint64(h.Flags) | uint64(h.GSOType)<<8 | uint64(h.HdrLen)<<16 |
		uint64(h.GSOSize)<<32 | uint64(h.CsumStart)<<48
	putHeader(dst, first, uint32(h.CsumOffset)|uint32(n)<<16, headerLen)
}

// putHeader writes the first headerLen bytes of the words of a virtio_net_hdr.
func putHeader(dst MDL, first uint64, second, headerLen uint32) {
	dst.Store64(0, first)
	if headerLen == virtio.MaxNetHeaderLen {
		dst.Store32(8, second)
	} else {
		dst.Store16(8, uint16(second))
	}
}

// holdsHeader reports whether dst begins with these words of a virtio_net_hdr of
// full length. A driver that uses its buffers again finds in one the header of
// the frame before, which most often is that of the next, too. When it is left
// alone its line stays in both processors' caches, and the driver, which reads
// it for every frame, does not wait for it. Nothing but whether to write depends
// on what is read here; a device reads nothing else that is the driver's to
// read (virtio 1.3, section 2.7.5.1).
func holdsHeader(dst MDL, first uint64, second, headerLen uint32) bool {
	return headerLen == virtio.MaxNetHeaderLen && dst.Load64(0) == first && dst.Load32(8) == second
}

// CopyFrames makes the deliveries to of the frames at the same places of from,
// each into one receive buffer, an MDL that holds both: virtio_net_hdr of
// headerLen bytes, which is where the frame's Offset is, and the frame. It
// answers how many headers it wrote: those that are all the same may be there
// already.
func CopyFrames(to, from []*List, headerLen uint32) (headers int) {
	to = to[:len(from)]
	for i, l := range from {
		dst := to[i].MDLs[0]
		if l.Offload.Flags != 0 || l.headerLen != plainHeader {
			PutRxHeader(dst, l, 1, headerLen)
			headers++
			CopyFrame(&to[i].Buffer, l)
			continue
		}
		if !holdsHeader(dst, 0, 1<<16, headerLen) {
			putHeader(dst, 0, 1<<16, headerLen)
			headers++
		}
		dst.CopyFrom64((*[plainHeader]byte)(l.header[:]), uint64(headerLen))
		if l.Length > plainHeader {
			l.copyRest(dst, uint64(headerLen)+plainHeader)
		}
	}
	return headers
}

// CopyFrame copies l into dst, whose first MDL is long enough for it: the
// private header, then the payload out of the sender's memory (NDIS:
// NdisCopyFromNetBufferToNetBuffer). This is the one copy on the way from
// guest to guest.
func CopyFrame(dst *Buffer, l *List) {
	to, at := dst.MDLs[0], uint64(dst.Offset)
	to.CopyFrom(l.header[:l.headerLen], at)
	l.copyRest(to, at+uint64(l.headerLen))
}

// copyRest copies what follows the private header to dst at off, most often
// from the MDL that the header is in.
func (l *List) copyRest(dst MDL, off uint64) {
	at, rest := uint64(l.Offset)+uint64(l.headerLen), uint64(l.Length)-uint64(l.headerLen)
	if first := l.MDLs[0]; first.Len() >= at+rest {
		sharedmem.CopyRange(dst, off, first, at, rest)
	} else {
		l.copyPayload(dst.Sub(off, rest))
	}
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
