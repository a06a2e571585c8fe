package vqtest

import (
	"fmt"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// Config says where a Driver works.
type Config struct {
	Mem      sharedmem.Block // the driver's memory: its rings first, its buffers behind
	GPA      uint64          // guest address of Mem's first byte
	Size     int             // ring entries, a power of two
	Features virtio.Features // accepted

	// ShiftAvail puts the avail ring where the specification's 2-byte
	// alignment allows it and few drivers put it: two bytes beside a multiple
	// of four.
	ShiftAvail bool

	// Start is the value of all indices at the beginning, as after a device
	// was replaced.
	Start uint16
}

// Rings are the places of a ring's three areas, bytes from the start of
// Config.Mem.
type Rings struct{ Desc, Avail, Used uint64 }

// cacheLine keeps what the driver writes and what the device writes apart.
const cacheLine = 64

// pageSize is the alignment of the memory for buffers.
const pageSize = 4096

func alignUp(n, align uint64) uint64 { return (n + align - 1) &^ (align - 1) }

// rings lays the areas out and answers where they end.
func (c *Config) rings() (r Rings, end uint64) {
	eventIdx := c.Features.Has(virtio.EventIdx)
	r.Avail = alignUp(virtqueue.DescLen(c.Size), cacheLine)
	if c.ShiftAvail {
		r.Avail += 2
	}
	r.Used = alignUp(r.Avail+virtqueue.AvailLen(c.Size, eventIdx), cacheLine)
	return r, r.Used + virtqueue.UsedLen(c.Size, eventIdx)
}

// Bytes is how much of Config.Mem the rings take; what is left is for
// buffers and indirect tables.
func (c *Config) Bytes() uint64 {
	_, end := c.rings()
	return alignUp(end, pageSize)
}

func (c *Config) check() error {
	if c.Size < 1 || c.Size > virtqueue.MaxSize || c.Size&(c.Size-1) != 0 {
		return fmt.Errorf("vqtest: ring size %d is not a power of two from 1 to %d", c.Size, virtqueue.MaxSize)
	}
	if !c.Mem.Aligned(0, cacheLine) {
		return fmt.Errorf("vqtest: the driver's memory does not start at a multiple of %d bytes", cacheLine)
	}
	if need := c.Bytes(); c.Mem.Len() < need {
		return fmt.Errorf("vqtest: a ring of %d entries needs %d bytes, the memory has %d", c.Size, need, c.Mem.Len())
	}
	return nil
}
