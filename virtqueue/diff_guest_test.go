package virtqueue_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"vhostnet/sharedmem"
	"vhostnet/virtqueue/internal/model"
)

// The memory of the guest that both devices serve: three regions of one file,
// each with canaries around it. The second follows the first in the guest and
// not in the file; the third is behind a hole.
const (
	diffFile   = 4 * page
	diffCanary = 0xc5

	diffDesc    = 0x10000 // the ring's areas, in the first region
	diffDriver  = 0x10200
	diffDevice  = 0x10280
	diffBuffers = 0x103c0
	diffTables  = 0x20000 // a slot for each head, in the third region
	diffSlots   = 128     // entries of all slots
	diffMaxSize = 32

	diffAvail = 1 << 7 // flags of packed descriptors
	diffUsed  = 1 << 15
)

var diffRegions = []sharedmem.Region{
	{GPA: 0x10000, User: 0x7f0000010000, Size: 0x900, Offset: 0x100},
	{GPA: 0x10900, User: 0x7f0000030000, Size: 0x300, Offset: 0x3200},
	{GPA: 0x20000, User: 0x7f0000020000, Size: 0xa00, Offset: 0x1300},
}

// diffGuest is the driver's side: memory twice, once for each device, and what
// a driver remembers. It writes both memories and reads the model's.
type diffGuest struct {
	file   sharedmem.Block // all of the file
	mem    *sharedmem.Map  // the regions
	view   *sharedmem.Allocation
	bytes  model.Memory // the regions once more
	copies []byte       // scratch
	close  []func()

	shape ringShape
	cfg   model.Config

	free   uint64              // descriptors, or buffer ids
	owned  [diffMaxSize]uint64 // by head: its descriptors; by buffer id: its slots; 0: not with the device
	avail  model.Position      // behind the last chain added
	shown  model.Position      // behind the last chain published
	reaped model.Position      // behind the last chain reaped
	room   int                 // free slots of a packed ring
	hidden []hiddenSlot        // first slots of lists that are not published
	slots  int                 // added since the last publication; split: chains
}

// hiddenSlot is a slot of a packed ring that is not available yet.
type hiddenSlot struct{ slot, flags uint16 }

func newDiffGuest() (*diffGuest, error) {
	g := &diffGuest{copies: make([]byte, diffFile)}
	file, err := sharedmem.NewMemoryFile(diffFile)
	if err != nil {
		return nil, err
	}
	defer file.Unref()
	whole := []sharedmem.Region{{User: 0, Size: diffFile, File: file}}
	all, err := sharedmem.NewMap(whole, sharedmem.MapOptions{Owner: "driver"})
	if err != nil {
		return nil, err
	}
	g.close = append(g.close, all.Unref)
	table := append([]sharedmem.Region(nil), diffRegions...)
	for i := range table {
		table[i].File = file
		g.bytes = append(g.bytes, model.Region{Base: table[i].GPA, Bytes: make([]byte, table[i].Size)})
	}
	var errs [3]error
	g.file, errs[0] = all.Block(0, diffFile)
	g.mem, errs[1] = sharedmem.NewMap(table, sharedmem.MapOptions{Owner: "device"})
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	g.close = append(g.close, g.mem.Unref)
	allocator, err := sharedmem.NewGuestAllocator(g.mem, nil)
	if err != nil {
		return nil, err
	}
	g.view, err = allocator.Allocate(sharedmem.Parameters{Usage: sharedmem.Receive, Length: g.mem.Size(), Node: sharedmem.AnyNode})
	g.close = append(g.close, func() {
		_ = allocator.Free(g.view.AllocationHandle)
		_ = allocator.Close()
	})
	g.file.CopyFrom(bytes.Repeat([]byte{diffCanary}, diffFile), 0)
	return g, err
}

func (g *diffGuest) Close() {
	for _, f := range slices.Backward(g.close) {
		f()
	}
}

// clear makes all of the guest's memory zero.
func (g *diffGuest) clear() {
	for i := range diffRegions {
		r := &diffRegions[i]
		clear(g.bytes[i].Bytes)
		g.file.Sub(r.Offset, r.Size).Zero()
	}
}

// store writes n bytes of v, 2, 4 or 8, into both memories. Those that are not
// in one region, or not aligned, are not written.
func (g *diffGuest) store(addr uint64, n int, v uint64) {
	for i := range diffRegions {
		r := &diffRegions[i]
		if addr-r.GPA > r.Size-uint64(n) || addr%uint64(n) != 0 {
			continue
		}
		off := uint32(r.Offset + addr - r.GPA)
		switch n {
		case 1:
			g.file.Store8(off, uint8(v))
		case 2:
			g.file.Store16(off, uint16(v))
		case 4:
			g.file.Store32(off, uint32(v))
		default:
			g.file.Store64(off, v)
		}
		g.bytes.Store(addr, n, v)
	}
}

// address is the guest address of the first byte of a Block.
func (g *diffGuest) address(b sharedmem.Block) (uint64, bool) {
	off, ok := g.view.Offset(b)
	if !ok {
		return 0, false
	}
	for i := range diffRegions {
		if off < diffRegions[i].Size {
			return diffRegions[i].GPA + off, true
		}
		off -= diffRegions[i].Size
	}
	return 0, false
}

// differs compares the two memories.
func (g *diffGuest) differs() error {
	for i := range diffRegions {
		r, want := &diffRegions[i], g.bytes[i].Bytes
		got := g.copies[:r.Size]
		g.file.CopyTo(got, r.Offset)
		if bytes.Equal(got, want) {
			continue
		}
		for j := range got {
			if got[j] != want[j] {
				return fmt.Errorf("memory: byte %#x is %#02x, the model has %#02x", r.GPA+uint64(j), got[j], want[j])
			}
		}
	}
	return nil
}

// canaries looks at the bytes of the file that are in no region, and mends the
// first that was written.
func (g *diffGuest) canaries() error {
	g.file.CopyTo(g.copies, 0)
	for i := range diffRegions {
		r := &diffRegions[i]
		for j := range r.Size {
			g.copies[r.Offset+j] = diffCanary
		}
	}
	for i, b := range g.copies {
		if b != diffCanary {
			g.file.Store8(uint32(i), diffCanary)
			return fmt.Errorf("byte %#x of the memory file, in no region, was written", i)
		}
	}
	return nil
}
