package vutest

import (
	"fmt"

	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// chain is one request of the driver.
type chain struct {
	buffers []vqtest.Buffer
	table   uint64 // guest address of the indirect table, page-aligned; 0: none
}

// length is the number of bytes in all buffers.
func (c *chain) length() (n int) {
	for _, b := range c.buffers {
		n += int(b.Len)
	}
	return n
}

// descLen is the length of a descriptor in bytes.
const descLen = 16

// entries is how many entries of the ring c takes, of which direct are its
// first buffers if the rest lies in an indirect table.
func (c *chain) entries(indirect bool, direct int) int {
	if !indirect {
		return len(c.buffers)
	}
	return min(direct, len(c.buffers)-1) + 1
}

// add makes c available, behind the chains that are, without publishing it.
// With indirect its descriptors lie in a table, except for the first direct
// ones, of which a packed ring has none. [vqtest.ErrFull]: there is no room for
// it now.
func (r *ring) add(c *chain, indirect bool, direct int) error {
	if r.features.Has(virtio.RingPacked) {
		direct = 0
	}
	need := c.entries(indirect, direct)
	if need > r.size || indirect && !r.features.Has(virtio.IndirectDesc) {
		return fmt.Errorf("vutest: ring %d: a chain of %d descriptors (indirect: %t) in a ring of %d entries whose features are %s",
			r.index, need, indirect, r.size, r.features)
	}
	if need > r.drv.Available() {
		return vqtest.ErrFull
	}
	if indirect && c.table == 0 {
		if err := r.describe(c, need-1); err != nil {
			return err
		}
	}
	head, err := r.drv.Put(vqtest.Layout{Buffers: c.buffers, Table: c.table, Direct: direct})
	if err != nil {
		return err
	}
	r.out[head] = c
	return nil
}

// describe writes the table of c, whose first direct buffers stay in the ring.
func (r *ring) describe(c *chain, direct int) (err error) {
	if c.table, err = r.mem.take(descLen * len(c.buffers)); err != nil {
		return err
	}
	return r.mem.write(c.table, r.drv.Table(c.buffers[direct:]))
}

// take takes the oldest returned chain back; ready has said that there is one.
// An entry that names no outstanding chain, or is out of order although
// IN_ORDER was accepted, is the device's error.
func (r *ring) take() (c *chain, length int, err error) {
	var one [1]virtqueue.Used
	n, err := r.drv.Reap(one[:])
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("vutest: ring %d: %w", r.index, err)
	case n == 0:
		return nil, 0, fmt.Errorf("vutest: ring %d: a chain that was returned is so no longer", r.index)
	}
	head := one[0].Head
	c = r.out[head]
	delete(r.out, head)
	r.drv.Free(head)
	return c, int(one[0].Len), nil
}

// forget gives the memory of c back to the guest's allocator.
func (r *ring) forget(c *chain) {
	for _, b := range c.buffers {
		r.mem.give(b.GPA, int(b.Len))
	}
	if c.table != 0 {
		r.mem.give(c.table, descLen*len(c.buffers))
	}
}
