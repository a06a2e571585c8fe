package sharedmem

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"vhostnet/internal/sys"
)

// Region is one piece of a guest's memory as the front-end describes it
// (vhost-user: memory region description).
type Region struct {
	GPA    uint64 // guest physical address of the first byte
	User   uint64 // the same byte's address in the front-end, by which rings are named
	Size   uint64 // bytes
	Offset uint64 // of the first byte in File
	File   *File
}

const (
	// guardGap is the space without access around every region: arithmetic
	// that slips by less faults, and reaches nobody else's memory.
	guardGap = 2 << 20
	// placeAlign is the least alignment of a region's place: the same as the
	// file's, so that the kernel can use huge pages of its own accord.
	placeAlign = 2 << 20
	// maxMapBytes is what one Map can map, far below what wraps a sum and
	// below the address space of any machine.
	maxMapBytes = 1 << 46
	// MaxRegions is how many regions one Map takes: what a front-end can add
	// one by one (509 is the limit of KVM on x86).
	MaxRegions = 509
)

// placement is where one region goes, all in bytes.
type placement struct {
	at      uint64 // in the reservation, from its aligned base
	fileOff uint64 // Region.Offset, down to a page
	length  uint64 // from fileOff, up to a page
	lead    uint64 // Region.Offset - fileOff
}

// layout is a checked table of regions and the plan of their reservation.
type layout struct {
	regions []Region    // ordered by GPA
	byUser  []int       // indices of regions ordered by User
	places  []placement // of regions, in their order
	length  uint64      // bytes of address space from the aligned base
	align   uint64      // of the base
	mapped  uint64      // bytes that are mapped
	size    uint64      // bytes of all regions
}

// layOut checks everything about a table that can be checked before it is
// mapped, and plans the mapping.
func layOut(regions []Region) (*layout, error) {
	if len(regions) > MaxRegions {
		return nil, fmt.Errorf("sharedmem: a memory table of %d regions, at most %d are accepted", len(regions), MaxRegions)
	}
	l := &layout{regions: slices.Clone(regions), align: placeAlign, length: guardGap}
	slices.SortFunc(l.regions, func(a, b Region) int { return cmp.Compare(a.GPA, b.GPA) })
	for i := range l.regions {
		if err := l.place(&l.regions[i]); err != nil {
			return nil, fmt.Errorf("sharedmem: region of %d bytes at guest address %#x: %w", l.regions[i].Size, l.regions[i].GPA, err)
		}
		l.byUser = append(l.byUser, i)
	}
	slices.SortFunc(l.byUser, func(a, b int) int { return cmp.Compare(l.regions[a].User, l.regions[b].User) })
	return l, l.overlaps()
}

// place checks one region and appends its placement.
func (l *layout) place(r *Region) error {
	switch {
	case r.File == nil:
		return errors.New("it has no memory file")
	case r.Size == 0:
		return errors.New("it is empty")
	case r.Size > math.MaxUint64-r.GPA:
		return errors.New("its guest addresses wrap around")
	case r.Size > math.MaxUint64-r.User:
		return fmt.Errorf("its front-end addresses from %#x wrap around", r.User)
	case r.Size > math.MaxUint64-r.Offset:
		return fmt.Errorf("its file offset %#x wraps around", r.Offset)
	}
	stat, err := sys.StatMemory(r.File.fd)
	if err != nil {
		return err
	}
	if r.Offset+r.Size > stat.Size {
		return fmt.Errorf("it reaches to byte %d of a file of %d bytes", r.Offset+r.Size, stat.Size)
	}
	// From here on all sums stay below 2^63 + a page, as files do.
	page := stat.PageSize
	p := placement{fileOff: r.Offset &^ (page - 1)}
	p.lead = r.Offset - p.fileOff
	p.length = alignUp(p.lead+r.Size, page)
	if p.length > maxMapBytes || l.mapped+p.length > maxMapBytes {
		return fmt.Errorf("the table maps more than %d bytes", uint64(maxMapBytes))
	}
	align := max(page, placeAlign)
	p.at = alignUp(l.length, align) + p.fileOff&(align-1)
	l.align = max(l.align, align)
	l.length = p.at + p.length + guardGap
	l.mapped += p.length
	l.size += r.Size
	l.places = append(l.places, p)
	return nil
}

// alignUp rounds n up to a multiple of align, a power of two.
func alignUp(n, align uint64) uint64 { return (n + align - 1) &^ (align - 1) }

// overlaps refuses regions that share an address, in the guest or in the
// front-end. The same bytes of a file may be in several regions.
func (l *layout) overlaps() error {
	for i := 1; i < len(l.regions); i++ {
		a, b := &l.regions[i-1], &l.regions[i]
		if b.GPA-a.GPA < a.Size {
			return fmt.Errorf("sharedmem: regions at guest addresses %#x and %#x overlap", a.GPA, b.GPA)
		}
		a, b = &l.regions[l.byUser[i-1]], &l.regions[l.byUser[i]]
		if b.User-a.User < a.Size {
			return fmt.Errorf("sharedmem: regions at front-end addresses %#x and %#x overlap", a.User, b.User)
		}
	}
	return nil
}
