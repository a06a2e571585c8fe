package sharedmem

import (
	"errors"
	"fmt"
)

// guestProvider hands out views of memory that a guest owns: nothing is
// reserved by it, several views may hold the same bytes, and each counts.
type guestProvider struct {
	m     *Map
	areas []ringArea
}

// ringArea is the memory of one part of a ring.
type ringArea struct {
	block Block
	gpa   uint64
	taken bool
}

// NewGuestAllocator makes the Allocator of one NIC over its guest's current
// Map, to which it takes a reference, and its ring areas, which lie in it:
//
//   - Receive and Xmit are views of the whole Map; Length is its size. They are
//     Contiguous only when the Map is one region.
//   - Other is one ring area, the first free one of exactly Length bytes.
//   - A guest has no memory for other usages.
//
// A new Map is a new Allocator. Close drops the reference.
func NewGuestAllocator(m *Map, areas []Block) (*Allocator, error) {
	g := &guestProvider{m: m}
	for _, b := range areas {
		gpa, ok := m.guestAddress(b.addr())
		if !ok {
			return nil, fmt.Errorf("sharedmem: a ring area of %d bytes: %w", b.Len(), ErrUnmapped)
		}
		if _, err := m.Block(gpa, b.Len()); err != nil {
			return nil, fmt.Errorf("sharedmem: a ring area: %w", err)
		}
		g.areas = append(g.areas, ringArea{block: b, gpa: gpa})
	}
	m.Ref()
	return NewAllocator(g, AllocatorOptions{}), nil
}

// Allocate makes a view. Where a guest's pages lie is the guest's to choose.
func (g *guestProvider) Allocate(p Parameters) (Memory, error) {
	switch p.Usage {
	case Receive, Xmit:
		return g.view(p)
	case Other:
		return g.area(p)
	default:
		return Memory{}, fmt.Errorf("a guest's memory is allocated as receive, xmit or other: %w", ErrParameter)
	}
}

func (g *guestProvider) view(p Parameters) (Memory, error) {
	if p.Length != g.m.Size() {
		return Memory{}, fmt.Errorf("a view of a guest's memory has its whole size, %d bytes: %w", g.m.Size(), ErrParameter)
	}
	if p.Flags&Contiguous != 0 && len(g.m.regions) > 1 {
		return Memory{}, fmt.Errorf("the guest's memory is in %d pieces: %w", len(g.m.regions), ErrResources)
	}
	va := make([]Block, 0, len(g.m.regions))
	sg := make([]Segment, 0, len(g.m.regions))
	for i := range g.m.regions {
		r, w := &g.m.regions[i], &g.m.windows[i]
		b := w.Find(r.GPA, r.Size)
		if b.Len() == 0 {
			return Memory{}, errors.New("sharedmem: a Map whose windows are not its regions")
		}
		va = append(va, b)
		sg = append(sg, Segment{Address: r.GPA, Length: r.Size})
	}
	return Memory{VA: va, SG: sg}, nil
}

func (g *guestProvider) area(p Parameters) (Memory, error) {
	for i := range g.areas {
		if a := &g.areas[i]; !a.taken && a.block.Len() == p.Length {
			a.taken = true
			return Memory{VA: []Block{a.block}, SG: []Segment{{Address: a.gpa, Length: p.Length}}}, nil
		}
	}
	return Memory{}, fmt.Errorf("no free ring area has this length: %w", ErrResources)
}

// Free makes a ring area free again.
func (g *guestProvider) Free(p Parameters, m Memory) {
	if p.Usage != Other {
		return // a view reserves nothing
	}
	for i := range g.areas {
		if a := &g.areas[i]; a.taken && a.block == m.VA[0] {
			a.taken = false
			return
		}
	}
}

// Close drops the reference to the Map.
func (g *guestProvider) Close() { g.m.Unref() }
