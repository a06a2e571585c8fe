package nbl

import (
	"fmt"
	"math"
)

// Capacity is how many bytes the MDLs of b hold: Offset bytes that are not the
// frame's, Length that are, and what is free behind.
func (b *Buffer) Capacity() uint64 {
	var n uint64
	for i := range b.MDLs {
		n += b.MDLs[i].Len()
	}
	return n
}

// Check reports how b contradicts itself: the frame must lie inside the MDLs.
func (b *Buffer) Check() error {
	if end, room := uint64(b.Offset)+uint64(b.Length), b.Capacity(); end > room {
		return fmt.Errorf("nbl: a buffer of %d bytes at %d ends behind its MDLs, which hold %d: %w", b.Length, b.Offset, room, ErrParameter)
	}
	return nil
}

// SetChain gives b other MDLs. It refuses a frame that does not lie inside them
// and leaves b as it was then. Where the data begins among the MDLs is not
// kept but found ([Buffer.Current]), so there is nothing else to make right
// (NDIS: NdisAdjustNetBufferCurrentMdl).
func (b *Buffer) SetChain(mdls []MDL, offset, length uint32) error {
	next := Buffer{MDLs: mdls, Offset: offset, Length: length}
	if err := next.Check(); err != nil {
		return err
	}
	*b = next
	return nil
}

// Current is where the frame begins: the index of an MDL and an offset in it
// (CurrentMdl, CurrentMdlOffset). Behind the last byte of the chain it is
// len(b.MDLs), 0.
func (b *Buffer) Current() (mdl int, offset uint64) {
	offset = uint64(b.Offset)
	for mdl < len(b.MDLs) && offset >= b.MDLs[mdl].Len() {
		offset -= b.MDLs[mdl].Len()
		mdl++
	}
	if mdl == len(b.MDLs) {
		return mdl, 0
	}
	return mdl, offset
}

// Retreat moves the start of the frame delta bytes forward, for headers to
// come (NdisRetreatNetBufferDataStart). The bytes before Offset are used
// first; when they do not suffice, from gives an MDL of delta+backfill bytes,
// of which what is not needed stays free in front. The bytes that the frame
// wins hold whatever they held. Without from, or when it has nothing left or
// nothing so long, the error wraps ErrResources and b is as it was.
//
// The bytes before Offset must be the caller's: those of a send List over a
// chain hold its driver's virtio_net_hdr, which nobody may write. Derived Lists
// have none.
func (b *Buffer) Retreat(delta, backfill uint32, from *Headroom) error {
	if delta > math.MaxUint32-b.Length {
		return fmt.Errorf("nbl: retreat a buffer of %d bytes by %d: %w", b.Length, delta, ErrParameter)
	}
	if delta > b.Offset {
		if err := from.prepend(b, delta, backfill); err != nil {
			return fmt.Errorf("nbl: retreat by %d bytes where %d are free: %w", delta, b.Offset, err)
		}
	}
	b.Offset -= delta
	b.Length += delta
	return nil
}

// Advance moves the start of the frame delta bytes back: headers that are done
// with (NdisAdvanceNetBufferDataStart). MDLs that became empty are freed only
// if they came from a Retreat out of to; with nil, none is (FreeMdl FALSE),
// and the bytes stay in front. More bytes than the frame has are refused with
// an error that wraps ErrParameter.
func (b *Buffer) Advance(delta uint32, to *Headroom) error {
	if delta > b.Length {
		return fmt.Errorf("nbl: advance a buffer of %d bytes by %d: %w", b.Length, delta, ErrParameter)
	}
	b.Offset += delta
	b.Length -= delta
	to.takeBack(b, false)
	return nil
}

// Data is a view of the first n bytes of the frame (NdisGetDataBuffer): on the
// memory itself when they are contiguous and begin at an address that is
// offset modulo multiple, a power of two, 1 for any; otherwise copied to
// storage. It answers false when the frame is shorter, or storage is needed and
// too short. The view may be of memory that a guest writes: read each word of
// it once. Pages that are not there fault, as everywhere (sharedmem.Guard).
func (b *Buffer) Data(n uint32, storage []byte, multiple, offset uint32) (MDL, bool) {
	if n > b.Length {
		return MDL{}, false
	}
	if i, at := b.Current(); i < len(b.MDLs) && b.MDLs[i].Len()-at >= uint64(n) {
		view := b.MDLs[i].Sub(at, uint64(n))
		if view.Aligned(multiple-offset%multiple, uintptr(multiple)) {
			return view, true
		}
	}
	if uint64(len(storage)) < uint64(n) {
		return MDL{}, false
	}
	c := b.At(0)
	c.Read(storage[:n])
	return bytesMDL(storage[:n]), true
}

// CopyBuffer copies n bytes from src at srcOff to dst at dstOff, both counted
// from where the frames begin, and answers how many
// (NdisCopyFromNetBufferToNetBuffer): fewer when src's frame or dst's MDLs end.
// dst.Length is not looked at and not changed. The two may not overlap.
func CopyBuffer(dst *Buffer, dstOff uint32, src *Buffer, srcOff, n uint32) uint32 {
	if srcOff >= src.Length {
		return 0
	}
	to, from := dst.At(dstOff), src.At(srcOff)
	return uint32(to.Copy(&from, uint64(min(n, src.Length-srcOff))))
}

// windows appends to dst the MDLs of n bytes of the frame at off.
func (b *Buffer) windows(dst []MDL, off, n uint32) []MDL {
	c := b.At(off)
	for left := uint64(n); left > 0; {
		here := c.here()
		k := min(here.Len(), left)
		if k == 0 {
			break
		}
		dst = append(dst, here.Sub(0, k))
		c.off += k
		left -= k
	}
	return dst
}
