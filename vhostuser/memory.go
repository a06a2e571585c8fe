package vhostuser

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
)

// memory is the front-end's memory as it stands. The Files in table are kept
// by current.
type memory struct {
	table   []region // in the front-end's order
	current *sharedmem.Map
}

// region is one entry of the table and the file it came with.
type region struct {
	sharedmem.Region
	id fileID
}

// fileID tells one file from another, whatever descriptors lead to it.
type fileID struct{ dev, ino uint64 }

func identify(fd *sys.FD) (fileID, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd.Num(), &st); err != nil {
		return fileID{}, fmt.Errorf("vhostuser: look at a memory file: %w", err)
	}
	return fileID{dev: st.Dev, ino: st.Ino}, nil
}

// regionOf joins what the message says with what the file is.
func regionOf(r MemRegion, id fileID) region {
	return region{Region: sharedmem.Region{GPA: r.GPA, User: r.User, Size: r.Size, Offset: r.Offset}, id: id}
}

// is compares places and file, not the descriptor.
func (r *region) is(other *region) bool {
	return r.GPA == other.GPA && r.User == other.User && r.Size == other.Size && r.Offset == other.Offset && r.id == other.id
}

// newMap maps the regions of a table; the caller owns the one reference.
func (s *session) newMap(table []region) (*sharedmem.Map, error) {
	regions := make([]sharedmem.Region, len(table))
	for i := range table {
		regions[i] = table[i].Region
	}
	return sharedmem.NewMap(regions, sharedmem.MapOptions{Owner: s.srv.o.Name, Budget: s.srv.budget})
}

// remap makes table the front-end's memory: whole, or not at all. Every ring
// is moved to the new Map from its saved addresses, as front-ends do not send
// them again; when remap returns the old memory is not used any more.
func (s *session) remap(table []region) error {
	next, err := s.newMap(table)
	if err != nil {
		return err
	}
	unused := next
	defer func() { unused.Unref() }() // of the two that one is no longer needed, also after a panic
	if err := s.dev.Memory(next); err != nil {
		return fmt.Errorf("vhostuser: the device refuses the memory: %w", err)
	}
	unused = s.memory.current
	s.memory.table, s.memory.current = table, next
	s.remake(func(*session, *ring) bool { return true })
	s.log(hclog.Debug, "memory changed", "regions", len(table), "bytes", next.Size())
	return nil
}

// setMemTable: the whole table with one descriptor per region, all of it or
// nothing. The same table again, sent when devices come and go, is kept as it
// is mapped.
func (s *session) setMemTable(m *message) ([]byte, error) {
	var t MemTable
	if err := t.Unmarshal(m.payload); err != nil {
		return nil, err
	}
	switch {
	case len(t.Regions) == 0:
		return nil, fmt.Errorf("vhostuser: memory table without regions; the VM's memory must be shared (QEMU: memory-backend-memfd with share=on)")
	case len(t.Regions) != len(m.fds):
		return nil, fmt.Errorf("vhostuser: memory table of %d regions with %d descriptors, one for each is needed", len(t.Regions), len(m.fds))
	}
	table := make([]region, len(t.Regions))
	for i := range table {
		id, err := identify(m.fds[i])
		if err != nil {
			return nil, err
		}
		table[i] = regionOf(t.Regions[i], id)
	}
	if slices.EqualFunc(table, s.memory.table, func(a, b region) bool { return a.is(&b) }) {
		return nil, nil
	}
	for i := range table {
		file, err := sharedmem.OpenFile(m.take(i))
		if err != nil {
			return nil, err
		}
		defer file.Unref() // the Map has its own reference
		table[i].File = file
	}
	return nil, s.remap(table)
}

// addMemReg: one region more, with its descriptor.
func (s *session) addMemReg(m *message) ([]byte, error) {
	var one SingleRegion
	if err := one.Unmarshal(m.payload); err != nil {
		return nil, err
	}
	if len(m.fds) != 1 {
		return nil, fmt.Errorf("vhostuser: memory region without its descriptor")
	}
	id, err := identify(m.fds[0])
	if err != nil {
		return nil, err
	}
	added := regionOf(one.Region, id)
	if added.File, err = sharedmem.OpenFile(m.take(0)); err != nil {
		return nil, err
	}
	defer added.File.Unref() // the Map has its own reference
	return nil, s.remap(append(slices.Clip(s.memory.table), added))
}

// remMemReg: the region with these addresses and this size goes; the offset
// does not count. A descriptor that comes with it is closed.
func (s *session) remMemReg(m *message) ([]byte, error) {
	var one SingleRegion
	if err := one.Unmarshal(m.payload); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(s.memory.table, func(r region) bool {
		return r.GPA == one.Region.GPA && r.User == one.Region.User && r.Size == one.Region.Size
	})
	if i < 0 {
		return nil, fmt.Errorf("vhostuser: no memory region of %d bytes at guest address %#x, front-end address %#x is known", one.Region.Size, one.Region.GPA, one.Region.User)
	}
	return nil, s.remap(slices.Delete(slices.Clone(s.memory.table), i, i+1))
}

// getMaxMemSlots: how many regions ADD_MEM_REG can make; QEMU's automatic
// slots need at least 509, and the number must not shrink over reconnects.
func (s *session) getMaxMemSlots(m *message) ([]byte, error) {
	return U64(sharedmem.MaxRegions).Marshal(), empty(m)
}
