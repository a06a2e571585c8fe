package sharedmem

import (
	"fmt"
	"slices"

	"vhostnet/internal/sys"
)

// arenaAlign is the alignment of everything the host hands out: a cache line,
// so that two queues never share one.
const arenaAlign = 64

// hostProvider hands out memory of this process: pieces of one memory file,
// first fit, always contiguous, all zero.
type hostProvider struct {
	m     *Map
	holes []Segment // free space, ordered, no two adjacent; multiples of arenaAlign
}

// NewHostAllocator makes an Allocator over an arena of bytes of this process's
// own memory, rounded up to pages: for queue 0, for packets that come from no
// guest, for frames that are rebuilt here. Memory is taken from the system
// when it is first touched. Every piece is contiguous, begins on a multiple of
// 64 bytes and is all zero.
func NewHostAllocator(bytes uint64) (*Allocator, error) {
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
	return newAllocator(&hostProvider{m: m, holes: []Segment{{Length: size}}}), nil
}

func (h *hostProvider) allocate(p Parameters) ([]Block, []Segment, error) {
	for i := range h.holes {
		hole := &h.holes[i]
		if p.Length > hole.Length {
			continue
		}
		at := hole.Address
		b, err := h.m.Block(at, p.Length)
		if err != nil {
			return nil, nil, err
		}
		taken := alignUp(p.Length, arenaAlign) // no more than the hole: that is a multiple, too
		hole.Address += taken
		if hole.Length -= taken; hole.Length == 0 {
			h.holes = slices.Delete(h.holes, i, i+1)
		}
		return []Block{b}, []Segment{{Address: at, Length: p.Length}}, nil
	}
	return nil, nil, fmt.Errorf("the arena has no free piece of that length: %w", ErrResources)
}

// free zeroes a piece, so that nobody is handed another's frames, and joins it
// with the holes on both sides.
func (h *hostProvider) free(_ Parameters, sg []Segment) {
	at, n := sg[0].Address, alignUp(sg[0].Length, arenaAlign)
	h.zero(at, n)
	i, _ := slices.BinarySearchFunc(h.holes, at, func(s Segment, at uint64) int {
		if s.Address < at {
			return -1
		}
		return 1
	})
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

func (h *hostProvider) close() { h.m.Unref() }
