package vutest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// buffer is one descriptor's piece of guest memory.
type buffer struct {
	gpa      uint64
	len      int
	writable bool
}

// chain is one request of the driver.
type chain struct {
	buffers []buffer
	table   uint64   // guest address of the indirect table, page-aligned; 0: none
	desc    []uint16 // entries of the ring's table, the head first
}

// length is the number of bytes in all buffers.
func (c *chain) length() (n int) {
	for _, b := range c.buffers {
		n += b.len
	}
	return n
}

// descLen is the length of a descriptor in bytes.
const descLen = 16

// errFull says that the ring has no room for a chain now.
var errFull = errors.New("no descriptors are free")

// entries is how many descriptors of the ring c takes, of which direct are its
// first buffers if the rest lies in an indirect table.
func (c *chain) entries(indirect bool, direct int) int {
	if !indirect {
		return len(c.buffers)
	}
	return min(direct, len(c.buffers)-1) + 1
}

// add makes c available, behind the chains that are, without publishing it.
// With indirect its descriptors lie in a table, except for the first direct
// ones. errFull: there is no room for it now.
func (r *ring) add(c *chain, indirect bool, direct int) error {
	need := c.entries(indirect, direct)
	if need > r.size || indirect && !r.features.Has(virtio.IndirectDesc) {
		return fmt.Errorf("vutest: ring %d: a chain of %d descriptors (indirect: %t) in a ring of %d entries whose features are %s",
			r.index, need, indirect, r.size, r.features)
	}
	if need > len(r.free) {
		return errFull
	}
	if indirect && c.table == 0 {
		var err error
		if c.table, err = r.mem.take(descLen * len(c.buffers)); err != nil {
			return err
		}
	}
	c.desc, r.free = append(c.desc[:0], r.free[:need]...), r.free[need:]
	if err := r.describe(c); err != nil {
		return err
	}
	head := c.desc[0]
	r.out[head] = c
	r.order = append(r.order, head)
	r.drv.SetAvailEntry(r.avail, head)
	r.avail++
	return nil
}

// describe writes the descriptors of c: as many as it has entries in the
// ring, and the others in its table.
func (r *ring) describe(c *chain) error {
	direct := len(c.desc)
	if c.table != 0 {
		direct--
		r.drv.SetDesc(c.desc[direct], c.table, uint32(descLen*(len(c.buffers)-direct)), vqtest.FlagIndirect, 0)
	}
	for i, b := range c.buffers {
		var flags, next uint16
		if b.writable {
			flags = vqtest.FlagWrite
		}
		switch {
		case i < direct && i+1 < len(c.desc):
			flags, next = flags|vqtest.FlagNext, c.desc[i+1]
		case i >= direct && i+1 < len(c.buffers):
			flags, next = flags|vqtest.FlagNext, uint16(i+1-direct)
		}
		if i < direct {
			r.drv.SetDesc(c.desc[i], b.gpa, uint32(b.len), flags, next)
			continue
		}
		if err := r.mem.write(c.table+uint64(descLen*(i-direct)), descriptor(b, flags, next)); err != nil {
			return err
		}
	}
	return nil
}

// descriptor is b as it lies in an indirect table (virtio 1.3, section 2.7.5).
func descriptor(b buffer, flags, next uint16) []byte {
	d := binary.LittleEndian.AppendUint64(make([]byte, 0, descLen), b.gpa)
	d = binary.LittleEndian.AppendUint32(d, uint32(b.len))
	d = binary.LittleEndian.AppendUint16(d, flags)
	return binary.LittleEndian.AppendUint16(d, next)
}

// take takes the oldest returned chain back; ready has said that there is one.
// An entry that names no outstanding chain, or is out of order although
// IN_ORDER was accepted, is the device's error.
func (r *ring) take() (c *chain, length int, err error) {
	id, n := r.drv.UsedEntry(r.used)
	c = r.out[uint16(id)]
	if id > 0xffff || c == nil {
		return nil, 0, fmt.Errorf("vutest: ring %d: used entry %d names chain %d, which is not outstanding", r.index, r.used, id)
	}
	at := 0
	for r.order[at] != uint16(id) {
		at++
	}
	if at != 0 && r.features.Has(virtio.InOrder) {
		return nil, 0, fmt.Errorf("vutest: ring %d: used entry %d names chain %d, but chain %d is the oldest and IN_ORDER was accepted", r.index, r.used, id, r.order[0])
	}
	r.order = append(r.order[:at], r.order[at+1:]...)
	delete(r.out, uint16(id))
	r.free = append(r.free, c.desc...)
	r.used++
	return c, int(n), nil
}

// forget gives the memory of c back to the guest's allocator.
func (r *ring) forget(c *chain) {
	for _, b := range c.buffers {
		r.mem.give(b.gpa, b.len)
	}
	if c.table != 0 {
		r.mem.give(c.table, descLen*len(c.buffers))
	}
}
