package vutest

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
)

// Region is one piece of guest memory as the front-end tells the back-end of
// it.
type Region struct {
	GPA    uint64 // guest physical address of the first byte
	User   uint64 // address of the same byte in the front-end
	Size   uint64 // bytes, a multiple of 4096
	Offset uint64 // of the first byte in the file
	File   int    // which of the front-end's memory files it lies in, from 0 up
}

func (r Region) end() uint64 { return r.GPA + r.Size }

// wire is the region as messages carry it.
func (r Region) wire() vhostuser.MemRegion {
	return vhostuser.MemRegion{GPA: r.GPA, Size: r.Size, User: r.User, Offset: r.Offset}
}

const pageSize = 4096

// memory is the guest's memory: the files that are shared, and the front-end's
// own mapping of them. The guest's allocator is in pages.go.
type memory struct {
	files   []*sharedmem.File
	regions []Region
	// maps are the mappings, the newest last. Older ones stay until the end, as
	// rings hold Blocks of them; the bytes are the same.
	maps []*sharedmem.Map
	now  atomic.Pointer[sharedmem.Map] // the newest, for those that move frames meanwhile
	pages
}

// newMemory makes the files of a layout and maps it. Files that can be
// truncated later do not take seals.
func newMemory(layout []Region, truncatable bool) (*memory, error) {
	m := &memory{}
	for i := range layout {
		for len(m.files) <= layout[i].File {
			f, err := newFile(fileSize(layout, len(m.files)), truncatable)
			if err != nil {
				m.close()
				return nil, err
			}
			m.files = append(m.files, f)
		}
	}
	if err := m.remap(layout); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// fileSize is how long a file must be for the regions that lie in it.
func fileSize(layout []Region, file int) (size uint64) {
	for _, r := range layout {
		if r.File == file {
			size = max(size, r.Offset+r.Size)
		}
	}
	return size
}

func newFile(size uint64, truncatable bool) (*sharedmem.File, error) {
	if !truncatable {
		return sharedmem.NewMemoryFile(size)
	}
	fd, err := sys.NewMemfd("vutest", size, sys.MemfdOptions{})
	if err != nil {
		return nil, fmt.Errorf("vutest: create memory: %w", err)
	}
	return sharedmem.OpenFile(fd)
}

// remap makes regions the guest's memory. What the guest has allocated stays
// where it is.
func (m *memory) remap(regions []Region) error {
	list := make([]sharedmem.Region, len(regions))
	for i, r := range regions {
		list[i] = sharedmem.Region{GPA: r.GPA, User: r.User, Size: r.Size, Offset: r.Offset, File: m.files[r.File]}
	}
	next, err := sharedmem.NewMap(list, sharedmem.MapOptions{Owner: "vutest"})
	if err != nil {
		return fmt.Errorf("vutest: map the guest's memory: %w", err)
	}
	m.regions, m.maps = slices.Clone(regions), append(m.maps, next)
	m.now.Store(next)
	m.cover(m.regions)
	return nil
}

func (m *memory) close() {
	if m == nil {
		return
	}
	for _, old := range m.maps {
		old.Unref()
	}
	for _, f := range m.files {
		f.Unref()
	}
	m.maps, m.files = nil, nil
}

// table is what SET_MEM_TABLE says, and duplicates of the files in the order
// of the regions, which are the caller's to close.
func (m *memory) table() (vhostuser.MemTable, []*sys.FD, error) {
	var t vhostuser.MemTable
	var fds []*sys.FD
	for _, r := range m.regions {
		fd, err := m.files[r.File].Dup()
		if err != nil {
			sys.CloseAll(fds)
			return t, nil, fmt.Errorf("vutest: share the guest's memory: %w", err)
		}
		t.Regions, fds = append(t.Regions, r.wire()), append(fds, fd)
	}
	return t, fds, nil
}

// user is the front-end address of a guest address.
func (m *memory) user(gpa uint64) (uint64, error) {
	for _, r := range m.regions {
		if gpa >= r.GPA && gpa < r.end() {
			return r.User + gpa - r.GPA, nil
		}
	}
	return 0, fmt.Errorf("vutest: guest address %#x lies in no region", gpa)
}

// block is the front-end's window on n bytes of the guest's memory; they must
// lie in one region.
func (m *memory) block(gpa, n uint64) (sharedmem.Block, error) { return m.now.Load().Block(gpa, n) }

var errOutside = errors.New("vutest: address is outside the guest's memory")

// pieces gives the windows on n bytes at gpa, one per region that they touch.
func (m *memory) pieces(gpa uint64, n int) ([]sharedmem.Block, error) {
	blocks, ok := m.now.Load().Append(make([]sharedmem.Block, 0, 4), gpa, uint64(n))
	if !ok {
		return nil, fmt.Errorf("%w: %d bytes at %#x", errOutside, n, gpa)
	}
	return blocks, nil
}

// write stores b at a guest address. Truncated memory is an error.
func (m *memory) write(gpa uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	blocks, err := m.pieces(gpa, len(b))
	if err != nil {
		return err
	}
	return sharedmem.Guard(func() error {
		for _, w := range blocks {
			w.CopyFrom(b[:w.Len()], 0)
			b = b[w.Len():]
		}
		return nil
	})
}

// read fills b from a guest address. Truncated memory is an error.
func (m *memory) read(gpa uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	blocks, err := m.pieces(gpa, len(b))
	if err != nil {
		return err
	}
	return sharedmem.Guard(func() error {
		for _, w := range blocks {
			w.CopyTo(b[:w.Len()], 0)
			b = b[w.Len():]
		}
		return nil
	})
}
