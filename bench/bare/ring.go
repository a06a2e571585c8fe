package main

import (
	"errors"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// Words of both formats (virtio 1.3, sections 2.7 and 2.8): of a descriptor's
// second word len is the lower half in both.
const (
	splitRing     = 4 // of the avail and the used ring, behind flags and idx
	splitNoNotify = 1
	splitMore     = (1 | 4) << 32 // NEXT, INDIRECT
	packedMore    = (1 | 4) << 48
	packedWrite   = 2 << 48
	packedAvail   = 1 << (48 + 7)
	packedUsed    = 1 << (48 + 15)
	packedBoth    = packedAvail | packedUsed
)

var (
	errChain = errors.New("bare: a chain of several buffers; the front-end has to give each frame one")
	errRing  = errors.New("bare: a ring whose memory is empty, not aligned to 4 bytes, or in two regions; testpmd's is not")
)

// ring is a ring whose driver is trusted: each chain has one buffer, all of them
// are in one region, and the driver takes them back in their order. What is
// taken is given back before more is taken, so that there is one position. An
// access outside its area panics, which is the end of the program.
type ring struct {
	q           *virtqueue.Queue // has the memory, the rest is done here
	packed      bool
	desc        sharedmem.Pairs
	words       sharedmem.Block // desc
	avail, used sharedmem.Block
	memory      sharedmem.Window

	size uint32
	next uint32 // split: as avail.idx; packed: slot, plus size while the wrap counter is 0
}

// newRing takes over the ring of q, which has turned kicks off.
func newRing(q *virtqueue.Queue) (*ring, error) {
	areas, regions := q.Areas(), q.Mem().Regions()
	r := &ring{
		q: q, packed: q.Features().Has(virtio.RingPacked), size: uint32(q.Size()),
		words: areas[0], desc: areas[0].Pairs(), avail: areas[1], used: areas[2],
	}
	if len(regions) != 1 || !r.avail.Aligned(0, 4) {
		return nil, errRing
	}
	r.memory, _ = q.Mem().Window(regions[0].GPA)
	return r, nil
}

// stop gives the ring up.
func (r *ring) stop() virtqueue.State {
	s := r.q.Suspend()
	s.Avail = uint16(r.next)
	if r.packed {
		s.Avail = uint16(r.next) | 1<<15
		if r.next >= r.size {
			s.Avail = uint16(r.next - r.size)
		}
	}
	s.Used = s.Avail
	return s
}

// buffers are those of a batch.
type buffers struct {
	name  [batch]uint16 // head or id
	block [batch]sharedmem.Block
}

// take finds up to n buffers and moves nothing.
func (r *ring) take(b *buffers, n int) int {
	if r.packed {
		return r.takePacked(b, n)
	}
	return r.takeSplit(b, n)
}

func (r *ring) takeSplit(b *buffers, n int) int {
	idx := r.avail.LoadAcquire32(0) >> 16
	n = min(n, int(uint16(idx-r.next)))
	flags := uint64(0)
	for i := range n {
		head := r.avail.Load16(splitRing + 2*((r.next+uint32(i))&(r.size-1)))
		meta := r.desc.LoadSecond(uint64(head))
		b.name[i], b.block[i] = head, r.memory.At(r.desc.LoadFirst(uint64(head)), uint64(uint32(meta)))
		flags |= meta
	}
	if flags&splitMore != 0 {
		panic(errChain)
	}
	return n
}

func (r *ring) takePacked(b *buffers, n int) int {
	flags := uint64(0)
	slot, want := r.place(r.next)
	for i := range n {
		meta := r.desc.AcquireSecond(uint64(slot))
		if meta&packedBoth != want {
			n = i
			break
		}
		b.name[i], b.block[i] = uint16(meta>>32), r.memory.At(r.desc.LoadFirst(uint64(slot)), uint64(uint32(meta)))
		flags |= meta
		if slot++; slot == r.size {
			slot, want = 0, want^packedBoth
		}
	}
	if flags&packedMore != 0 {
		panic(errChain)
	}
	return n
}

// place is a position's slot, and what AVAIL and USED are when the driver has made
// it available.
func (r *ring) place(pos uint32) (slot uint32, avail uint64) {
	if pos < r.size {
		return pos, packedAvail
	}
	return pos - r.size, packedUsed
}

// give returns the first n buffers taken. Of those that were written it tells
// lengths, of which there is one for each; of others only the last one, once for
// all.
func (r *ring) give(b *buffers, n int, lengths []uint32) {
	switch {
	case n == 0:
	case r.packed:
		r.givePacked(b, n, lengths)
	default:
		r.giveSplit(b, n, lengths)
	}
}

func (r *ring) giveSplit(b *buffers, n int, lengths []uint32) {
	if lengths == nil {
		r.used.Store64(splitRing+8*(r.next&(r.size-1)), uint64(b.name[n-1]))
	}
	for i, length := range lengths {
		r.used.Store64(splitRing+8*((r.next+uint32(i))&(r.size-1)), uint64(length)<<32|uint64(b.name[i]))
	}
	r.next = uint32(uint16(r.next + uint32(n)))
	r.used.StoreRelease32(0, r.next<<16|splitNoNotify) // pairs with the driver's load of used.idx
}

func (r *ring) givePacked(b *buffers, n int, lengths []uint32) {
	slot, flags := r.place(r.next)
	first, firstFlags := slot, uint64(packedBoth)
	if flags != packedAvail {
		firstFlags = 0
	}
	word := uint64(b.name[n-1])<<32 | firstFlags
	for i, length := range lengths {
		meta := uint64(length) | uint64(b.name[i])<<32 | packedWrite
		if uint32(i) >= r.size-first { // the next lap
			meta |= firstFlags ^ packedBoth
		} else {
			meta |= firstFlags
		}
		if i == 0 {
			word = meta
		} else {
			r.desc.StoreSecond(uint64(slot), meta)
		}
		if slot++; slot == r.size {
			slot = 0
		}
	}
	r.words.Store32(16*first+8, uint32(word))
	r.words.StoreRelease32(16*first+12, uint32(word>>32)) // behind the others: pairs with the driver's load of flags
	if r.next += uint32(n); r.next >= 2*r.size {
		r.next -= 2 * r.size
	}
}
