package vqtest

import (
	"encoding/binary"
	"errors"

	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// ErrFull is returned by Add and Put when the ring has not enough free entries.
var ErrFull = errors.New("vqtest: no descriptors are free")

// Descriptor flags (virtio 1.3, sections 2.7.5 and 2.8.1).
const (
	FlagNext     = 1
	FlagWrite    = 2
	FlagIndirect = 4
)

// descSize is the length of a descriptor in bytes.
const descSize = 16

// Request is a chain to add.
type Request struct {
	Out [][]byte // device-readable buffers; their bytes are copied, an empty one is an empty descriptor
	In  []int    // lengths of the device-writable buffers that follow

	Indirect bool // put the descriptors into an indirect table
	// Direct is, with Indirect, how many stay in the ring, before the table. A
	// packed ring has no such chains (virtio 1.3, section 2.8.19): there it
	// means nothing.
	Direct int
}

// Buffer is a piece of guest memory that one descriptor names.
type Buffer struct {
	GPA   uint64
	Len   uint32 // bytes
	Write bool   // the device writes to it
}

// Layout is a chain over memory that is the caller's.
type Layout struct {
	Buffers []Buffer // readable ones first
	Table   uint64   // guest address of their indirect table, which holds what Driver.Table says; 0: none
	Direct  int      // with Table, how many of them stay in the ring; see Request
}

// chain is one request: its descriptors and its memory.
type chain struct {
	state   chainState
	entries int      // of the ring
	desc    []uint16 // a split ring's: which they are, the head first
	bufs    []Buffer
	table   Buffer // the indirect table, if it has a length
	own     bool   // the memory is the driver's
}

type chainState uint8

const (
	unknown chainState = iota // no such chain
	posted                    // the device's
	reaped                    // the driver's, to be posted again or freed
)

// direct is how many of the buffers have descriptors in the ring.
func (c *chain) direct() int {
	if c.table.Len > 0 {
		return c.entries - 1
	}
	return c.entries
}

// entry is what the ring's entry i of the chain refers to, and its flags but
// for NEXT.
func (c *chain) entry(i int) (b Buffer, flags uint16) {
	if i == c.direct() {
		return c.table, FlagIndirect
	}
	if b = c.bufs[i]; b.Write {
		flags = FlagWrite
	}
	return b, flags
}

// writable is how many bytes the device can write.
func (c *chain) writable() (n uint32) {
	for i := range c.bufs {
		if c.bufs[i].Write {
			n += c.bufs[i].Len
		}
	}
	return n
}

// entriesFor is how many entries of the ring n buffers take.
func (d *Driver) entriesFor(n int, indirect bool, direct int) int {
	switch {
	case !indirect:
		return n
	case d.cfg.Features.Has(virtio.RingPacked):
		return min(n, 1)
	}
	return min(direct, n-1) + 1
}

// Add puts a request behind the others, for the next Publish, and answers its
// head, which in a packed ring is its buffer id. Its memory is the driver's
// own, and kept until Free.
func (d *Driver) Add(r Request) (head uint16, err error) {
	entries := d.entriesFor(len(r.Out)+len(r.In), r.Indirect, r.Direct)
	c, head, err := d.reserve(entries)
	if err != nil {
		return 0, err
	}
	c.own = true
	if err := d.fill(c, r); err != nil {
		d.Free(head)
		return 0, err
	}
	d.ring.describe(c)
	d.Post(head)
	return head, nil
}

// Put is Add for a chain whose memory the caller keeps, anywhere in the guest.
func (d *Driver) Put(l Layout) (head uint16, err error) {
	entries := d.entriesFor(len(l.Buffers), l.Table != 0, l.Direct)
	c, head, err := d.reserve(entries)
	if err != nil {
		return 0, err
	}
	c.bufs = append(c.bufs, l.Buffers...)
	if l.Table != 0 {
		c.table = Buffer{GPA: l.Table, Len: uint32(descSize * (len(l.Buffers) - entries + 1))}
	}
	d.ring.describe(c)
	d.Post(head)
	return head, nil
}

// reserve takes entries of the ring for a new chain.
func (d *Driver) reserve(entries int) (c *chain, head uint16, err error) {
	if entries < 1 || entries > d.ring.free() {
		return nil, 0, ErrFull
	}
	head = d.ring.reserve(entries)
	return &d.chains[head], head, nil
}

// fill gives c its buffers and its table.
func (d *Driver) fill(c *chain, r Request) error {
	for _, b := range r.Out {
		if err := d.addBuffer(c, len(b), false); err != nil {
			return err
		}
		d.At(c.bufs[len(c.bufs)-1].GPA, uint64(len(b))).CopyFrom(b, 0)
	}
	for _, n := range r.In {
		if err := d.addBuffer(c, n, true); err != nil {
			return err
		}
	}
	if !r.Indirect {
		return nil
	}
	table := d.Table(c.bufs[c.entries-1:])
	gpa, err := d.memory.alloc(uint64(len(table)))
	if err != nil {
		return err
	}
	c.table = Buffer{GPA: gpa, Len: uint32(len(table))}
	d.At(gpa, uint64(len(table))).CopyFrom(table, 0)
	return nil
}

func (d *Driver) addBuffer(c *chain, n int, write bool) error {
	gpa, err := d.memory.alloc(uint64(n))
	if err != nil {
		return err
	}
	c.bufs = append(c.bufs, Buffer{gpa, uint32(n), write})
	return nil
}

// Table is the bytes of an indirect table of buffers: in a split ring one leads
// to the next, in a packed one they follow one another and only WRITE means
// something (virtio 1.3, sections 2.7.5.3 and 2.8.5).
func (d *Driver) Table(buffers []Buffer) []byte {
	table := make([]byte, 0, descSize*len(buffers))
	for i, b := range buffers {
		var flags, next uint16
		if b.Write {
			flags = FlagWrite
		}
		if d.split != nil && i+1 < len(buffers) {
			flags, next = flags|FlagNext, uint16(i+1)
		}
		table = binary.LittleEndian.AppendUint64(table, b.GPA)
		table = binary.LittleEndian.AppendUint64(table, d.meta(b.Len, flags, next))
	}
	return table
}

// meta is the second half of a descriptor: len, flags and next in a split ring,
// len, id and flags in a packed one.
func (d *Driver) meta(length uint32, flags, next uint16) uint64 {
	if d.packed != nil {
		flags, next = next, flags
	}
	return uint64(length) | uint64(flags)<<32 | uint64(next)<<48
}

// Free forgets a chain that was reaped: its entries and the driver's memory
// are used again.
func (d *Driver) Free(head uint16) {
	c := &d.chains[head]
	c.mustBe(reaped, head, "freed")
	d.ring.release(head)
	if c.own {
		for _, b := range c.bufs {
			d.memory.release(b.GPA, uint64(b.Len))
		}
		if c.table.Len > 0 {
			d.memory.release(c.table.GPA, uint64(c.table.Len))
		}
	}
	*c = chain{desc: c.desc[:0], bufs: c.bufs[:0]}
}

// Completion is a chain that came back.
type Completion struct {
	Head uint16
	Len  uint32 // as the device said
	Data []byte // the first Len bytes of the writable buffers, as far as there are any
}

// Collect reaps all chains that came back, copies what was written to them and
// frees them. They must be of Add.
func (d *Driver) Collect() ([]Completion, error) {
	var list []Completion
	var one [1]virtqueue.Used
	for {
		n, err := d.Reap(one[:])
		if n == 0 || err != nil {
			return list, err
		}
		u := one[0]
		list = append(list, Completion{u.Head, u.Len, d.Written(u.Head, u.Len)})
		d.Free(u.Head)
	}
}

// Written is a copy of the first n bytes of the writable buffers of a chain of
// Add, or of all when they are fewer.
func (d *Driver) Written(head uint16, n uint32) []byte {
	data := []byte{}
	for _, b := range d.chains[head].bufs {
		if !b.Write {
			continue
		}
		part := make([]byte, min(n, b.Len))
		d.At(b.GPA, uint64(b.Len)).CopyTo(part, 0)
		data = append(data, part...)
		n -= uint32(len(part))
	}
	return data
}
