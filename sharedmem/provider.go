package sharedmem

import "fmt"

// Provider finds the memory for an [Allocator] (NDIS: the handlers
// ALLOCATE_SHARED_MEMORY_HANDLER and FREE_SHARED_MEMORY_HANDLER of a shared
// memory provider). The Allocator calls it from one goroutine at a time, with
// Parameters that are in range and as its own caller gave them. A Provider
// must not call its Allocator.
type Provider interface {
	// Allocate fails with an error that wraps ErrResources or ErrParameter,
	// and then has no effect.
	Allocate(p Parameters) (Memory, error)
	// Free takes back, once, what Allocate returned for p.
	Free(p Parameters, m Memory)
	// Close is called once, when nothing is allocated.
	Close()
}

// Memory is a Provider's answer: p.Length bytes in one piece or several, in one
// when Contiguous was asked for.
type Memory struct {
	VA   []Block   // the pieces, in order
	SG   []Segment // where each lies
	Node Node      // the node that the pages come from, AnyNode when that was not chosen
}

// check is the Allocator's look at the answer to p.
func (m *Memory) check(p Parameters) error {
	var sum uint64
	for i, b := range m.VA {
		if i < len(m.SG) && m.SG[i].Length == b.n {
			sum += b.n
		}
	}
	switch {
	case len(m.VA) != len(m.SG) || sum != p.Length:
		return fmt.Errorf("%d Blocks and %d segments do not make %d bytes: %w", len(m.VA), len(m.SG), p.Length, ErrProvider)
	case p.Flags&Contiguous != 0 && len(m.VA) != 1:
		return fmt.Errorf("%d pieces where Contiguous was asked for: %w", len(m.VA), ErrProvider)
	}
	return nil
}

// ListParameters ask for the scatter/gather list of a part of an allocation
// (NDIS_SCATTER_GATHER_LIST_PARAMETERS).
type ListParameters struct {
	Usage  Usage  // that of the allocation
	Offset uint64 // of the part, bytes from the start of the allocation
	Length uint64 // bytes, at least one
	Flags  Flags  // Contiguous: fail when the part is in pieces
}

// List is the scatter/gather list of a part of l. It fails with an error that
// wraps ErrParameter when the usage is another or the part reaches past the
// end, and ErrResources when Contiguous was asked for and the part is not.
func (l *Allocation) List(p ListParameters) ([]Segment, error) {
	switch {
	case p.Usage != l.Parameters.Usage:
		return nil, fmt.Errorf("sharedmem: list of %s memory for usage %s: %w", l.Parameters.Usage, p.Usage, ErrParameter)
	case p.Length == 0 || p.Offset > l.Parameters.Length || p.Length > l.Parameters.Length-p.Offset:
		return nil, fmt.Errorf("sharedmem: list of %d bytes at %d of %d: %w", p.Length, p.Offset, l.Parameters.Length, ErrParameter)
	}
	var list []Segment
	off, left := p.Offset, p.Length
	for _, s := range l.SG {
		if off >= s.Length {
			off -= s.Length
			continue
		}
		n := min(left, s.Length-off)
		list = append(list, Segment{Address: s.Address + off, Length: n})
		if off, left = 0, left-n; left == 0 {
			break
		}
	}
	if p.Flags&Contiguous != 0 && len(list) != 1 {
		return nil, fmt.Errorf("sharedmem: list of %d bytes that lie in %d pieces: %w", p.Length, len(list), ErrResources)
	}
	return list, nil
}
