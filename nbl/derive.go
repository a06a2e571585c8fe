package nbl

import (
	"fmt"
	"math"
	"slices"
	"sync/atomic"
)

// Deriver makes Lists over the bytes of other Lists: no byte is copied but the
// private header of a clone. A derived List is a child, which its parent
// counts: the parent, and the memory under it, is kept until the last child is
// freed. One goroutine at a time may use a Deriver.
//
// Bytes that were checked stay what they were: where a parent has a private
// header, its children's MDLs begin with that, not with the memory that it was
// copied from and that a guest may have changed.
type Deriver struct {
	Lists    *Pool       // of the children: of NewPoolWith, with a Buffer and no data
	Buffers  *BufferPool // of children with several NET_BUFFERs; nil: there are none
	Headroom *Headroom   // for headers in front of fragments; nil: they get none
}

// Clone makes a List of the same NET_BUFFERs (NdisAllocateCloneNetBufferList).
// With original set the child uses the parent's MDLs themselves
// (NDIS_CLONE_FLAGS_USE_ORIGINAL_MDLS), otherwise MDLs of its own, which begin
// where the parent's frame does. Of what is known of the packet it has all that
// a receiver may ask (NdisCopyReceiveNetBufferListInfo), but no context. A
// clone can be delivered like its parent. The error wraps ErrResources or
// ErrParameter.
func (d *Deriver) Clone(parent *List, original bool) (*List, error) {
	child, err := d.derive(parent)
	if err != nil {
		return nil, err
	}
	child.serial = parent.serial
	child.describe(parent)
	child.inheritInfo(parent)
	for i := range parent.NumBuffers() {
		from := parent.NetBuffer(i)
		if original {
			err = d.add(child, i, Buffer{MDLs: from.MDLs, Offset: from.Offset, Length: from.Length}, nil)
		} else {
			err = d.add(child, i, Buffer{Length: from.Length}, func(mdls []MDL) []MDL {
				return parent.windows(mdls, i, 0, from.Length)
			})
		}
		if err != nil {
			return nil, d.undo(child, err)
		}
	}
	return child, nil
}

// FragmentParameters say how a List is cut.
type FragmentParameters struct {
	Start    uint32 // bytes of each NET_BUFFER that are left out, from its start: headers
	Maximum  uint32 // bytes of a fragment at most, at least 1
	Delta    uint32 // bytes in front of each fragment, for headers of its own (DataOffsetDelta)
	Backfill uint32 // bytes left free in front of those
}

// Fragment makes a List whose NET_BUFFERs are parts of the parent's, in order
// (NdisAllocateFragmentNetBufferList). Each of the parent's is cut by itself,
// so remainders are not merged. The Delta bytes in front of each part come out
// of the Headroom and hold nothing yet. The child's own description is empty:
// it is no frame. The error wraps ErrResources, or ErrParameter when nothing
// is left to cut.
func (d *Deriver) Fragment(parent *List, p FragmentParameters) (*List, error) {
	if p.Maximum == 0 {
		return nil, fmt.Errorf("nbl: fragments of 0 bytes: %w", ErrParameter)
	}
	child, err := d.derive(parent)
	if err != nil {
		return nil, err
	}
	parts := 0
	for i := range parent.NumBuffers() {
		length := parent.NetBuffer(i).Length
		for at := uint64(p.Start); at < uint64(length); at += uint64(p.Maximum) {
			n := uint32(min(uint64(p.Maximum), uint64(length)-at))
			err := d.add(child, parts, Buffer{Length: n}, func(mdls []MDL) []MDL {
				return parent.windows(mdls, i, uint32(at), n)
			})
			if err == nil {
				err = child.NetBuffer(parts).Retreat(p.Delta, p.Backfill, d.Headroom)
				parts++
			}
			if err != nil {
				return nil, d.undo(child, err)
			}
		}
	}
	if parts == 0 {
		return nil, d.undo(child, fmt.Errorf("nbl: fragments of a list that ends before byte %d: %w", p.Start, ErrParameter))
	}
	return child, nil
}

// Reassemble makes a List of one NET_BUFFER with the bytes of all of the
// parent's, but the first start bytes of each
// (NdisAllocateReassembledNetBufferList). delta bytes come in front as for a
// fragment. The error wraps ErrResources or ErrParameter.
func (d *Deriver) Reassemble(parent *List, start, delta, backfill uint32) (*List, error) {
	var total uint64
	for i := range parent.NumBuffers() {
		total += uint64(max(parent.NetBuffer(i).Length, start) - start)
	}
	if total == 0 || total > math.MaxUint32 {
		return nil, fmt.Errorf("nbl: reassemble buffers that hold %d bytes behind byte %d of each: %w", total, start, ErrParameter)
	}
	child, err := d.derive(parent)
	if err != nil {
		return nil, err
	}
	err = d.add(child, 0, Buffer{Length: uint32(total)}, func(mdls []MDL) []MDL {
		for i := range parent.NumBuffers() {
			if n := parent.NetBuffer(i).Length; n > start {
				mdls = parent.windows(mdls, i, start, n-start)
			}
		}
		return mdls
	})
	if err == nil {
		err = child.Buffer.Retreat(delta, backfill, d.Headroom)
	}
	if err != nil {
		return nil, d.undo(child, err)
	}
	return child, nil
}

// Free gives a child back, with its MDLs, the headers in front of them and the
// NET_BUFFERs chained to it (NdisFreeCloneNetBufferList and its like). What was
// retreated is known, so it is not asked again. The error wraps ErrParameter,
// and has no effect, for a List that is no child of this Deriver, or has
// children itself.
func (d *Deriver) Free(child *List) error {
	m := child.more
	if m == nil || m.parent == nil || m.pool != d.Lists || child.Children() != 0 {
		return fmt.Errorf("nbl: free a derived list that is none of pool %q, or has children: %w", d.Lists.tag, ErrParameter)
	}
	for i := range child.NumBuffers() {
		d.Headroom.takeBack(child.NetBuffer(i), true)
	}
	for b := child.Unchain(); b != nil; b = child.Unchain() {
		if err := b.pool.Free(b); err != nil {
			return err
		}
	}
	parent := m.parent
	m.parent = nil
	child.Buffer = Buffer{}
	m.taken = 0
	atomic.AddInt32(&parent.children, -1)
	return d.Lists.Free(child)
}

// derive draws a List and counts it at its parent.
func (d *Deriver) derive(parent *List) (*List, error) {
	if q := &d.Lists.params; q.NoBuffer || q.DataSize > 0 {
		return nil, fmt.Errorf("nbl: lists of pool %q have no buffer, or data of their own: %w", d.Lists.tag, ErrParameter)
	}
	child, err := d.Lists.AllocateList()
	if err != nil {
		return nil, err
	}
	if child.more == nil {
		d.Lists.Put([]*List{child})
		return nil, fmt.Errorf("nbl: lists of pool %q cannot have parents, it is not of NewPoolWith: %w", d.Lists.tag, ErrParameter)
	}
	child.more.parent = parent
	child.QueueID = parent.QueueID
	atomic.AddInt32(&parent.children, 1)
	return child, nil
}

// add makes b the i-th NET_BUFFER of child. chain appends its MDLs to those
// that it is given; without it b has its own.
func (d *Deriver) add(child *List, i int, b Buffer, chain func([]MDL) []MDL) error {
	at, mdls := &child.Buffer, &child.more.mdls
	if i > 0 {
		extra, err := d.Buffers.Allocate()
		if err != nil {
			return err
		}
		if err := child.Chain(extra); err != nil {
			return err
		}
		at, mdls = &extra.Buffer, &extra.mdls
	}
	if chain != nil {
		*mdls = chain((*mdls)[:0])
		b.MDLs = *mdls
	}
	*at = b
	return b.Check()
}

// undo frees a child that did not come to be.
func (d *Deriver) undo(child *List, err error) error {
	if e := d.Free(child); e != nil {
		return e
	}
	return err
}

// windows appends to dst the MDLs of n bytes at off of the i-th NET_BUFFER; of
// the frame's head those that were checked.
func (l *List) windows(dst []MDL, i int, off, n uint32) []MDL {
	if head := uint32(l.headerLen); i == 0 && off < head && l.NetBuffer(0) == &l.Buffer {
		k := min(n, head-off)
		dst = append(dst, bytesMDL(l.header[off:off+k]))
		off, n = off+k, n-k
	}
	return l.NetBuffer(i).windows(slices.Grow(dst, len(l.NetBuffer(i).MDLs)), off, n)
}

// Retreat makes room in front of every NET_BUFFER, or of none
// (NdisRetreatNetBufferListDataStart). What is known of the packet, its private
// header too, was of the frame before and is forgotten: Parse reads the new
// one. A List over a chain is refused with an error that wraps ErrParameter:
// what lies before its frame is its driver's. Make a clone.
func (l *List) Retreat(delta, backfill uint32, from *Headroom) error {
	if l.more == nil {
		return errBorrowed
	}
	for i := range l.NumBuffers() {
		if err := l.NetBuffer(i).Retreat(delta, backfill, from); err != nil {
			for j := range i {
				_ = l.NetBuffer(j).Advance(delta, from) // it has just been made that much longer
			}
			return err
		}
	}
	l.headerLen = 0
	return nil
}

// Advance moves the start of every NET_BUFFER back, or of none
// (NdisAdvanceNetBufferListDataStart). The error wraps ErrParameter when one is
// shorter than delta, and for a List over a chain.
func (l *List) Advance(delta uint32, to *Headroom) error {
	if l.more == nil {
		return errBorrowed
	}
	for i := range l.NumBuffers() {
		if n := l.NetBuffer(i).Length; n < delta {
			return fmt.Errorf("nbl: advance a buffer of %d bytes by %d: %w", n, delta, ErrParameter)
		}
	}
	for i := range l.NumBuffers() {
		if err := l.NetBuffer(i).Advance(delta, to); err != nil {
			return err
		}
	}
	l.headerLen = 0
	return nil
}

var errBorrowed = fmt.Errorf("nbl: a list that borrows its sender's memory keeps its start: %w", ErrParameter)
