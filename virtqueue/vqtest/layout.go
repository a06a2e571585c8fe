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
	Size     int             // ring entries, a power of two unless the ring is packed
	Features virtio.Features // accepted; RING_PACKED, EVENT_IDX and IN_ORDER change what the Driver does

	// ShiftAvail puts the avail ring where the specification's 2-byte
	// alignment allows it and few drivers put it: two bytes beside a multiple
	// of four. Packed rings have no such freedom and it means nothing.
	ShiftAvail bool

	// Start is how far an earlier device and its driver came: the value of all
	// indices at the beginning, or in a packed ring the number of slots that
	// were used.
	Start uint16
}

// Rings are the places of a ring's three areas, bytes from the start of
// Config.Mem: of a packed ring the slots, the driver's event suppression area
// and the device's.
type Rings struct{ Desc, Avail, Used uint64 }

// cacheLine keeps what the driver writes and what the device writes apart.
const cacheLine = 64

// pageSize is the alignment of the memory for buffers.
const pageSize = 4096

func alignUp(n, align uint64) uint64 { return (n + align - 1) &^ (align - 1) }

// Lens are the lengths of a ring's three areas, bytes.
func (c *Config) Lens() Rings {
	return Rings{virtqueue.DescLen(c.Size), virtqueue.AvailLen(c.Size, c.Features), virtqueue.UsedLen(c.Size, c.Features)}
}

// rings lays the areas out and answers where they end.
func (c *Config) rings() (r Rings, end uint64) {
	n := c.Lens()
	r.Avail = alignUp(n.Desc, cacheLine)
	if c.ShiftAvail && !c.Features.Has(virtio.RingPacked) {
		r.Avail += 2
	}
	r.Used = alignUp(r.Avail+n.Avail, cacheLine)
	return r, r.Used + n.Used
}

// Bytes is how much of Config.Mem the rings take; what is left is for
// buffers and indirect tables.
func (c *Config) Bytes() uint64 {
	_, end := c.rings()
	return alignUp(end, pageSize)
}

func (c *Config) check() error {
	switch packed := c.Features.Has(virtio.RingPacked); {
	case packed && (c.Size < 1 || c.Size > virtqueue.MaxSize):
		return fmt.Errorf("vqtest: ring size %d is not from 1 to %d", c.Size, virtqueue.MaxSize)
	case !packed && (c.Size < 1 || c.Size > virtqueue.MaxSize || c.Size&(c.Size-1) != 0):
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
