package sharedmem

import (
	"cmp"
	"fmt"
	"slices"

	"vhostnet/internal/sys"
)

// arenaAlign is the alignment of everything the host hands out: a cache line,
// so that two queues never share one.
const arenaAlign = 64

// hostProvider hands out memory of this process: pieces of one memory file,
// all zero, first fit.
type hostProvider struct {
	m     *Map
	holes []Segment // free space, ordered, no two adjacent; multiples of arenaAlign
}

// NewHostAllocator makes an Allocator over an arena of bytes of this process's
// own memory, rounded up to pages: for queue 0, for packets that come from no
// guest, for frames that are rebuilt here. Memory is taken from the system
// when it is first touched. Every piece begins on a multiple of 64 bytes and is
// all zero. What no hole of the arena can hold is given in several pieces,
// unless Contiguous is asked for. Memory for which a NUMA node is preferred is
// whole pages.
func NewHostAllocator(bytes uint64) (*Allocator, error) {
	h, err := newHostProvider(bytes)
	if err != nil {
		return nil, err
	}
	return NewAllocator(h, AllocatorOptions{}), nil
}

func newHostProvider(bytes uint64) (*hostProvider, error) {
	if bytes == 0 || bytes > maxMapBytes {
		return nil, fmt.Errorf("sharedmem: an arena of %d bytes: 1 to %d are possible: %w", bytes, uint64(maxMapBytes), ErrParameter)
	}
	size := alignUp(bytes, sys.PageSize())
	f, err := NewMemoryFile(size)
	if err != nil {
		return nil, err
	}
	defer f.Unref() // the Map has its own reference
	m, err := NewMap([]Region{{Size: size, File: f}}, MapOptions{Owner: "host"})
	if err != nil {
		return nil, err
	}
	return &hostProvider{m: m, holes: []Segment{{Length: size}}}, nil
}

// Allocate takes one hole, or several when one does not do.
func (h *hostProvider) Allocate(p Parameters) (Memory, error) {
	align := unit(p)
	sg := h.one(p.Length, align)
	if sg == nil && p.Flags&Contiguous == 0 {
		sg = h.several(p.Length, align)
	}
	if sg == nil {
		return Memory{}, fmt.Errorf("the arena has not so much free memory, or not in one piece: %w", ErrResources)
	}
	mem := Memory{SG: sg}
	for _, s := range sg {
		b, err := h.m.Block(s.Address, s.Length)
		if err != nil {
			h.Free(p, mem)
			return Memory{}, err
		}
		mem.VA = append(mem.VA, b)
	}
	mem.Node = prefer(p.Node, mem.VA)
	return mem, nil
}

// unit is what the pieces of an allocation begin at and extend to multiples
// of: whole pages when they are to come from one node.
func unit(p Parameters) uint64 {
	if _, chosen := p.Node.Number(); chosen {
		return sys.PageSize()
	}
	return arenaAlign
}

// one takes n bytes from the first hole that holds them.
func (h *hostProvider) one(n, align uint64) []Segment {
	for i, hole := range h.holes {
		if at, room := usable(hole, align); n <= room {
			h.take(i, at, alignUp(n, align))
			return []Segment{{Address: at, Length: n}}
		}
	}
	return nil
}

// several takes n bytes from as many holes as it takes, or nothing.
func (h *hostProvider) several(n, align uint64) []Segment {
	var room uint64
	for _, hole := range h.holes {
		_, here := usable(hole, align)
		room += here
	}
	if room < n {
		return nil
	}
	var sg []Segment
	for i := len(h.holes) - 1; n > 0; i-- { // from the end: a hole that is split changes those behind it
		at, here := usable(h.holes[i], align)
		if here = min(here, n); here > 0 {
			h.take(i, at, alignUp(here, align))
			sg = append(sg, Segment{Address: at, Length: here})
			n -= here
		}
	}
	return sg
}

// usable is the part of a hole that begins at and extends to multiples of align.
func usable(hole Segment, align uint64) (at, n uint64) {
	at = alignUp(hole.Address, align)
	end := (hole.Address + hole.Length) &^ (align - 1)
	if at >= end {
		return at, 0
	}
	return at, end - at
}

// take cuts n bytes at an address out of hole i.
func (h *hostProvider) take(i int, at, n uint64) {
	hole := h.holes[i]
	var left []Segment
	if at > hole.Address {
		left = append(left, Segment{Address: hole.Address, Length: at - hole.Address})
	}
	if end := hole.Address + hole.Length; at+n < end {
		left = append(left, Segment{Address: at + n, Length: end - at - n})
	}
	h.holes = slices.Replace(h.holes, i, i+1, left...)
}

// prefer asks for pages of a node, and says which node it got: AnyNode when
// the machine has no such node, or does not let us choose.
func prefer(node Node, pieces []Block) Node {
	number, chosen := node.Number()
	if !chosen {
		return AnyNode
	}
	for i, b := range pieces {
		if sys.PreferNode(b.addr(), alignUp(b.n, sys.PageSize()), number) != nil {
			preferNone(pieces[:i])
			return AnyNode
		}
	}
	return node
}

// preferNone takes the preference back, so that the next user of the pages has
// none. It cannot fail where prefer did not.
func preferNone(pieces []Block) {
	for _, b := range pieces {
		_ = sys.PreferAnyNode(b.addr(), alignUp(b.n, sys.PageSize()))
	}
}

// Free zeroes the pieces, so that nobody is handed another's frames, and joins
// each with the holes on both sides.
func (h *hostProvider) Free(p Parameters, m Memory) {
	if m.Node != AnyNode {
		preferNone(m.VA)
	}
	for _, s := range m.SG {
		n := alignUp(s.Length, unit(p))
		h.zero(s.Address, n)
		h.join(s.Address, n)
	}
}

// join makes n bytes at an address a hole again.
func (h *hostProvider) join(at, n uint64) {
	i, _ := slices.BinarySearchFunc(h.holes, at, func(s Segment, at uint64) int { return cmp.Compare(s.Address, at) })
	h.holes = slices.Insert(h.holes, i, Segment{Address: at, Length: n})
	if i+1 < len(h.holes) && at+n == h.holes[i+1].Address {
		h.holes[i].Length += h.holes[i+1].Length
		h.holes = slices.Delete(h.holes, i+1, i+2)
	}
	if i > 0 && h.holes[i-1].Address+h.holes[i-1].Length == at {
		h.holes[i-1].Length += h.holes[i].Length
		h.holes = slices.Delete(h.holes, i, i+1)
	}
}

// zero clears n bytes at an address of the arena, each page on its own: one
// that faults was never touched and holds nothing, but the next one may.
func (h *hostProvider) zero(at, n uint64) {
	for page := sys.PageSize(); n > 0; {
		here := min(n, page-at%page)
		_ = Guard(func() error {
			b, err := h.m.Block(at, here)
			if err == nil {
				b.Zero()
			}
			return err
		})
		at, n = at+here, n-here
	}
}

// Close unmaps the arena.
func (h *hostProvider) Close() { h.m.Unref() }
