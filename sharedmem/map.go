package sharedmem

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"vhostnet/internal/sys"
)

// ErrUnmapped is wrapped by the error for an address that is not, or not
// wholly, inside one region.
var ErrUnmapped = errors.New("not inside one region of the memory table")

var errMapRefs = errors.New("sharedmem: a Map is used after its last reference was dropped")

// Map is an immutable snapshot of one guest's memory. A change of the guest's
// memory is a new Map; the old one lives until its last user has dropped its
// reference, and is then unmapped whole. All methods may be called
// concurrently, and all but Ref and Unref without any lock or store.
type Map struct {
	refs    atomic.Int32
	owner   string
	regions []Region    // ordered by GPA
	windows []Window    // of regions, by guest address
	users   []Window    // the same windows by front-end address, ordered by it
	places  []placement // of regions
	span    *sys.Span   // nil when there are no regions
	base    uintptr     // address of the reservation's aligned base; never dereferenced
	size    uint64      // of all regions, bytes
	mapped  uint64      // what the budget was charged, bytes
	budget  *PortBudget
}

// MapOptions say on whose behalf memory is mapped.
type MapOptions struct {
	Owner  string      // name of the port, for errors
	Budget *PortBudget // what the port may map; nil: no limit but the Map's own
}

// NewMap maps regions, in any order, and returns a Map with one reference, the
// caller's. It takes its own references to the Files. Regions must not be
// empty, wrap around, reach past the end of their file or overlap one another
// in the guest or in the front-end, and the budget must allow them; otherwise
// nothing is mapped and nothing is charged. A table without regions is a Map
// that holds nothing.
//
// All regions lie in one reservation of address space, at least 2 MiB apart,
// and are left out of core dumps.
func NewMap(regions []Region, o MapOptions) (*Map, error) {
	l, err := layOut(regions)
	if err != nil {
		return nil, err
	}
	return newMap(l, o)
}

// newMap charges and maps a table that has been checked.
func newMap(l *layout, o MapOptions) (*Map, error) {
	if err := o.Budget.take(l.mapped, len(l.regions)); err != nil {
		return nil, err
	}
	m := &Map{owner: o.Owner, regions: l.regions, places: l.places, size: l.size, mapped: l.mapped, budget: o.Budget}
	m.refs.Store(1)
	if err := m.mapAll(l); err != nil {
		o.Budget.give(l.mapped, len(l.regions))
		return nil, fmt.Errorf("sharedmem: map the memory of %q: %w", o.Owner, err)
	}
	for i := range m.regions {
		m.regions[i].File.Ref()
	}
	live.add(m)
	return m, nil
}

// mapAll reserves address space and maps every region into it. On failure all
// of it is given back.
func (m *Map) mapAll(l *layout) error {
	if len(l.regions) == 0 {
		return nil
	}
	span, err := sys.Reserve(l.length + l.align) // the kernel aligns to pages only
	if err != nil {
		return err
	}
	base := alignUp(uint64(span.Addr()), l.align) - uint64(span.Addr())
	for i, p := range l.places {
		if err := span.Map(base+p.at, m.regions[i].File.fd, p.fileOff, p.length); err != nil {
			_ = span.Release()
			return err
		}
		b := blockAt(span.Pointer(base+p.at+p.lead), m.regions[i].Size)
		m.windows = append(m.windows, windowAt(m.regions[i].GPA, b))
	}
	for _, i := range l.byUser {
		w := m.windows[i]
		w.base = m.regions[i].User
		m.users = append(m.users, w)
	}
	m.span, m.base = span, span.Addr()+uintptr(base)
	return nil
}

// Ref takes one more reference and returns m.
func (m *Map) Ref() *Map {
	if m.refs.Add(1) <= 1 {
		panic(errMapRefs)
	}
	return m
}

// Unref drops one reference. The last one unmaps the memory: a Block of it
// that is still used faults, and no live Map owns the address any more, so the
// defect is not taken for a guest's.
func (m *Map) Unref() {
	switch n := m.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic(errMapRefs)
	}
	live.remove(m) // before its addresses can belong to another Map
	for i := range m.regions {
		m.regions[i].File.Unref()
	}
	// The kernel refuses only when it is out of mappings, which the budget
	// prevents. Then the addresses stay taken, and stay charged, for all to see.
	if m.span.Release() == nil {
		m.budget.give(m.mapped, len(m.regions))
	}
}

// Regions are the regions, ordered by guest address. The Files are borrowed
// from the Map.
func (m *Map) Regions() []Region { return slices.Clone(m.regions) }

// Size is the number of bytes in all regions.
func (m *Map) Size() uint64 { return m.size }

// Owner is the name of the port whose guest's memory this is.
func (m *Map) Owner() string { return m.owner }

// Block is the window of n bytes, at least one, at guest address gpa. They
// must lie in one region.
func (m *Map) Block(gpa, n uint64) (Block, error) {
	if w := find(m.windows, gpa); w != nil {
		if b := w.Find(gpa, n); b.Len() != 0 {
			return b, nil
		}
	}
	return Block{}, fmt.Errorf("sharedmem: %d bytes at guest address %#x: %w", n, gpa, ErrUnmapped)
}

// UserBlock is the window of n bytes, at least one, at front-end address user.
// They must lie in one region.
func (m *Map) UserBlock(user, n uint64) (Block, error) {
	if w := find(m.users, user); w != nil {
		if b := w.Find(user, n); b.Len() != 0 {
			return b, nil
		}
	}
	return Block{}, fmt.Errorf("sharedmem: %d bytes at front-end address %#x: %w", n, user, ErrUnmapped)
}

// Window is the region that holds the byte at guest address gpa.
func (m *Map) Window(gpa uint64) (Window, bool) {
	if w := find(m.windows, gpa); w != nil {
		return *w, true
	}
	return Window{}, false
}

// Append appends to dst the windows of n bytes, at least one, at guest address
// gpa, in order: one for each region that they touch. It fails, and returns
// dst as it was, when a byte is in no region or cap(dst) does not suffice. It
// never allocates.
func (m *Map) Append(dst []Block, gpa, n uint64) ([]Block, bool) {
	out := dst
	w := find(m.windows, gpa)
	for {
		if w == nil || n == 0 || len(out) == cap(out) {
			return dst, false
		}
		here := min(n, w.n-(gpa-w.base))
		b := w.Find(gpa, here)
		if b.Len() == 0 {
			return dst, false
		}
		out = append(out, b)
		if n -= here; n == 0 {
			return out, true
		}
		gpa += here // at most the end of a region, which does not wrap
		w = find(m.windows, gpa)
	}
}

// find is the window that holds addr, nil when none does. ws is ordered.
func find(ws []Window, addr uint64) *Window {
	lo, hi := 0, len(ws)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch w := &ws[mid]; {
		case addr < w.base:
			hi = mid
		case addr-w.base >= w.n:
			lo = mid + 1
		default:
			return w
		}
	}
	return nil
}
