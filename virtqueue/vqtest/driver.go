package vqtest

import (
	"errors"
	"fmt"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// ErrFull is returned by Add when the descriptor table has not enough free
// entries.
var ErrFull = errors.New("vqtest: no descriptors are free")

// Descriptor flags (virtio 1.3, section 2.7.5).
const (
	FlagNext     = 1
	FlagWrite    = 2
	FlagIndirect = 4
)

// descSize is the length of a descriptor in bytes.
const descSize = 16

// Driver is the driver side of one ring. One goroutine at a time may use it;
// the device may be another one's at the same time.
type Driver struct {
	cfg               Config
	at                Rings
	desc, avail, used sharedmem.Block

	eventIdx   bool
	availFlags uint16
	availIdx   uint16 // behind the last chain added
	published  uint16 // what the device was told
	usedIdx    uint16 // behind the last chain reaped
	first      uint16 // ring[0], which a shifted avail ring publishes with idx
	fence      uint32

	free   []uint16 // descriptors, used first in, first out: IN_ORDER asks for it
	chains []chain  // by head
	memory memory
}

// chain is one request: its descriptors and its memory.
type chain struct {
	state chainState
	desc  []uint16 // entries of the ring's table, the head first
	table buffer   // the indirect table, if it has a length
	out   []buffer
	in    []buffer
}

type chainState uint8

const (
	unknown chainState = iota // no such chain
	posted                    // the device's
	reaped                    // the driver's, to be posted again or freed
)

// buffer is a piece of guest memory.
type buffer struct {
	gpa uint64
	len uint32
}

// NewDriver sets a ring up in c.Mem as a driver does: all of the areas zero,
// except for the indices when c.Start asks for others.
func NewDriver(c Config) (*Driver, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	eventIdx := c.Features.Has(virtio.EventIdx)
	at, _ := c.rings()
	d := &Driver{
		cfg: c, at: at,
		desc:     c.Mem.Sub(at.Desc, virtqueue.DescLen(c.Size)),
		avail:    c.Mem.Sub(at.Avail, virtqueue.AvailLen(c.Size, eventIdx)),
		used:     c.Mem.Sub(at.Used, virtqueue.UsedLen(c.Size, eventIdx)),
		eventIdx: eventIdx,
		availIdx: c.Start, published: c.Start, usedIdx: c.Start,
		chains: make([]chain, c.Size),
		memory: memory{next: c.GPA + c.Bytes(), end: c.GPA + c.Mem.Len()},
	}
	for i := range c.Size {
		d.free = append(d.free, uint16(i))
	}
	c.Mem.CopyFrom(make([]byte, c.Bytes()), 0)
	d.storeAvailIdx(c.Start)
	d.SetUsedIdx(c.Start)
	return d, nil
}

// Rings are where the driver put its ring, from the start of its memory: add
// the guest address or the front-end's, as the protocol asks.
func (d *Driver) Rings() Rings { return d.at }

// Size is the number of entries of the ring.
func (d *Driver) Size() int { return d.cfg.Size }

// Available is how many descriptors of the ring's table are free.
func (d *Driver) Available() int { return len(d.free) }

// Request is a chain to add.
type Request struct {
	Out [][]byte // device-readable buffers; their bytes are copied, an empty one is an empty descriptor
	In  []int    // lengths of the device-writable buffers that follow

	Indirect bool // put the descriptors into an indirect table
	Direct   int  // with Indirect: so many stay in the ring, before the table
}

// Add puts a request behind the others, for the next Publish, and answers its
// head. Its memory is the driver's own, and kept until Free.
func (d *Driver) Add(r Request) (head uint16, err error) {
	direct := len(r.Out) + len(r.In)
	if r.Indirect {
		direct = min(r.Direct, direct-1) + 1
	}
	if direct < 1 || direct > len(d.free) {
		return 0, ErrFull
	}
	head = d.free[0]
	c := &d.chains[head]
	*c = chain{state: reaped, desc: append(c.desc[:0], d.free[:direct]...)}
	d.free = d.free[direct:]
	if err := d.fill(c, r); err != nil {
		d.Free(head)
		return 0, err
	}
	d.Post(head)
	return head, nil
}

// fill gives c its buffers and writes its descriptors.
func (d *Driver) fill(c *chain, r Request) error {
	for _, b := range r.Out {
		if err := d.addBuffer(&c.out, len(b)); err != nil {
			return err
		}
		d.At(c.out[len(c.out)-1].gpa, uint64(len(b))).CopyFrom(b, 0)
	}
	for _, n := range r.In {
		if err := d.addBuffer(&c.in, n); err != nil {
			return err
		}
	}
	if r.Indirect {
		entries := len(r.Out) + len(r.In) - (len(c.desc) - 1)
		gpa, err := d.memory.alloc(uint64(entries) * descSize)
		if err != nil {
			return err
		}
		c.table = buffer{gpa, uint32(entries) * descSize}
	}
	d.describe(c)
	return nil
}

func (d *Driver) addBuffer(list *[]buffer, n int) error {
	gpa, err := d.memory.alloc(uint64(n))
	if err != nil {
		return err
	}
	*list = append(*list, buffer{gpa, uint32(n)})
	return nil
}

// describe writes the descriptors of c: as many as it has entries in the
// ring's table, and the rest in the indirect table.
func (d *Driver) describe(c *chain) {
	direct := len(c.desc)
	if c.table.len > 0 {
		direct--
		d.SetDesc(c.desc[direct], c.table.gpa, c.table.len, FlagIndirect, 0)
	}
	total := len(c.out) + len(c.in)
	for i := range total {
		var b buffer
		flags, next := uint16(0), uint16(0)
		if i < len(c.out) {
			b = c.out[i]
		} else {
			b, flags = c.in[i-len(c.out)], FlagWrite
		}
		inTable := i >= direct
		switch {
		case !inTable && i+1 < len(c.desc):
			flags, next = flags|FlagNext, c.desc[i+1]
		case inTable && i+1 < total:
			flags, next = flags|FlagNext, uint16(i+1-direct)
		}
		if inTable {
			d.SetTableDesc(c.table.gpa, i-direct, b.gpa, b.len, flags, next)
		} else {
			d.SetDesc(c.desc[i], b.gpa, b.len, flags, next)
		}
	}
}

// Post gives a chain that was reaped to the device again, with the same
// buffers and what they hold now, for the next Publish. It allocates nothing.
func (d *Driver) Post(head uint16) {
	if d.chains[head].state != reaped {
		panic(fmt.Errorf("vqtest: chain %d is posted but was not reaped", head))
	}
	d.chains[head].state = posted
	d.SetAvailEntry(d.availIdx, head)
	d.availIdx++
}

// Publish shows the device what was added and posted, and says whether it
// wants to be kicked for it (virtio 1.3, section 2.7.13.3).
func (d *Driver) Publish() (kick bool) {
	old := d.published
	d.published = d.availIdx
	d.storeAvailIdx(d.availIdx)
	// The release store above and this acquire load are in order: pairs with
	// the device's fence between arming and its look at avail.idx.
	word := d.used.LoadAcquire32(0)
	if d.availIdx == old {
		return false
	}
	if d.eventIdx {
		return d.availIdx-d.AvailEvent()-1 < d.availIdx-old
	}
	return uint16(word)&1 == 0
}

// Reap takes back up to len(dst) chains, in the order in which the device
// returned them, and answers how many. They are kept for Post or Free. A head
// that is not with the device, or more entries than are, is the device's
// error.
func (d *Driver) Reap(dst []virtqueue.Used) (n int, err error) {
	ready := d.UsedIdx() - d.usedIdx
	if int(ready) > d.cfg.Size {
		return 0, fmt.Errorf("vqtest: used.idx is %d entries ahead, the ring has %d", ready, d.cfg.Size)
	}
	for n < len(dst) && n < int(ready) {
		id, length := d.UsedEntry(d.usedIdx)
		if id >= uint32(d.cfg.Size) || d.chains[id].state != posted {
			return n, fmt.Errorf("vqtest: the device returned chain %d at used index %d, which it does not have", id, d.usedIdx)
		}
		d.chains[id].state = reaped
		dst[n] = virtqueue.Used{Head: uint16(id), Len: length}
		d.usedIdx++
		n++
	}
	return n, nil
}

// Free forgets a chain that was reaped: its descriptors and memory are used
// again.
func (d *Driver) Free(head uint16) {
	c := &d.chains[head]
	if c.state != reaped {
		panic(fmt.Errorf("vqtest: chain %d is freed but was not reaped", head))
	}
	c.state = unknown
	d.free = append(d.free, c.desc...)
	for _, list := range [][]buffer{c.out, c.in} {
		for _, b := range list {
			d.memory.release(b.gpa, uint64(b.len))
		}
	}
	if c.table.len > 0 {
		d.memory.release(c.table.gpa, uint64(c.table.len))
	}
	c.out, c.in, c.table = nil, nil, buffer{}
}

// Completion is a chain that came back.
type Completion struct {
	Head uint16
	Len  uint32 // as the device said
	Data []byte // the first Len bytes of the writable buffers, as far as there are any
}

// Collect reaps all chains that came back, copies what was written to them and
// frees them.
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

// Written is a copy of the first n bytes of the writable buffers of a chain,
// or of all when they are fewer.
func (d *Driver) Written(head uint16, n uint32) []byte {
	data := []byte{}
	for _, b := range d.chains[head].in {
		part := make([]byte, min(n, b.len))
		d.At(b.gpa, uint64(b.len)).CopyTo(part, 0)
		data = append(data, part...)
		n -= uint32(len(part))
	}
	return data
}
