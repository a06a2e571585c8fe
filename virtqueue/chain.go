package virtqueue

import (
	"errors"
	"math"

	"vhostnet/sharedmem"
)

// inlineBlocks is how many Blocks a Chain holds itself; longer chains lie in
// the Queue's arena.
const inlineBlocks = 4

// Chain is one request of the driver, taken by [Queue.Pop]: windows on guest
// memory that were checked when it was taken. The driver may change the bytes
// in them at any time. A Chain is used in place and not copied. It is valid
// until every chain that is taken from its Queue was pushed or unpopped, and
// the Queue was not suspended.
type Chain struct {
	Head     uint16 // the chain's name, for [Used]
	Readable uint32 // bytes that the driver gives to the device
	Writable uint32 // bytes that the driver has room for

	readable uint16 // Blocks of Readable, the first ones
	total    uint16 // Blocks in all
	inline   [inlineBlocks]sharedmem.Block
	long     []sharedmem.Block // all Blocks, when they are more than inline holds
	_        [24]byte          // to two cache lines, of which a short chain needs the first
}

// ReadableBlocks are the Readable bytes, in order. None of them is empty; a
// header may be split over any of them.
func (c *Chain) ReadableBlocks() []sharedmem.Block { return c.blocks()[:c.readable] }

// WritableBlocks are the Writable bytes, in order. None of them is empty.
func (c *Chain) WritableBlocks() []sharedmem.Block { return c.blocks()[c.readable:] }

func (c *Chain) blocks() []sharedmem.Block {
	if c.total > inlineBlocks {
		return c.long
	}
	return c.inline[:c.total]
}

// setOne makes c the chain of one buffer, whose descriptor is meta.
func (c *Chain) setOne(head uint16, b sharedmem.Block, meta uint64) {
	c.Head = head
	c.total = 1
	c.inline[0] = b
	if meta&metaWrite != 0 {
		c.Readable, c.Writable, c.readable = 0, uint32(meta), 0
		return
	}
	c.Readable, c.Writable, c.readable = uint32(meta), 0, 1
}

// errNoRoom says that a chain is fine but the arena is full of chains that are
// taken already.
var errNoRoom = errors.New("virtqueue: the chain has to wait until others are given back")

// walker takes one chain apart. It lives for one call of [Queue.walk].
type walker struct {
	q        *Queue
	blocks   []sharedmem.Block // found so far, in the arena behind used
	readable int               // of blocks, before the first writable descriptor
	bytes    uint64            // of blocks
	read     uint64            // of bytes, before the first writable descriptor
	count    uint32            // descriptors with a buffer
	writing  bool              // a writable descriptor was seen
}

// walk is Pop's way for every chain that is more than one buffer in the cached
// region: it makes c the chain at head, whose descriptor d was read already.
// used is how much of the arena is taken; walk answers how much is then. The
// error is errNoRoom or a *BrokenError.
//
//go:noinline
func (q *Queue) walk(c *Chain, head uint16, d descriptor, used int) (int, error) {
	w := walker{q: q, blocks: q.arena[used : used : used+q.reserve]}
	if err := w.follow(d); err != nil {
		return used, err
	}
	if !w.writing {
		w.readable, w.read = len(w.blocks), w.bytes
	}
	n := len(w.blocks)
	switch {
	case n <= inlineBlocks:
		// An array is cheaper to copy than a slice of a few pointers. What it
		// has more is of this Map too, and not looked at.
		c.inline = [inlineBlocks]sharedmem.Block(w.blocks[:inlineBlocks])
	case used > 0 && used+n > q.reserve:
		return used, errNoRoom
	default:
		c.long = w.blocks[:n:n]
		used += n
	}
	c.Head = head
	c.readable, c.total = uint16(w.readable), uint16(n)
	c.Readable, c.Writable = uint32(w.read), uint32(w.bytes-w.read)
	return used, nil
}

// follow goes from the first descriptor of a chain to its last, through the
// ring's table (virtio 1.3, section 2.7.5) and perhaps an indirect one, from
// which nothing leads back. Steps are counted, not bytes: a circle of empty
// descriptors is a circle too.
func (w *walker) follow(d descriptor) error {
	q := w.q
	table, size, nested := q.ring.desc, q.ring.size, false
	for steps := uint32(1); ; steps++ {
		if d.flags()&flagIndirect != 0 {
			if nested {
				return q.broken(ReasonNested, d.addr, uint64(d.len()))
			}
			var err error
			if table, err = q.indirectTable(d); err != nil {
				return err
			}
			size, nested, steps = d.len()/descSize, true, 0
			d = loadDescriptor(table, 0)
			continue
		}
		if err := w.buffer(d); err != nil {
			return err
		}
		if d.flags()&flagNext == 0 {
			return nil
		}
		next := uint32(d.next())
		if next >= size {
			return q.broken(ReasonNext, uint64(next), uint64(size))
		}
		if steps == size {
			return q.broken(ReasonLoop, uint64(size), 0)
		}
		d = loadDescriptor(table, next)
	}
}

// indirectTable is the table that d refers to (virtio 1.3, section 2.7.5.3).
// WRITE in d means nothing.
func (q *Queue) indirectTable(d descriptor) (sharedmem.Block, error) {
	length := uint64(d.len())
	switch {
	case !q.indirect:
		return sharedmem.Block{}, q.broken(ReasonUnnegotiated, d.addr, length)
	case d.flags()&flagNext != 0:
		return sharedmem.Block{}, q.broken(ReasonIndirectNext, d.addr, length)
	case length == 0 || length%descSize != 0 || length > descSize*uint64(q.maxChain):
		return sharedmem.Block{}, q.broken(ReasonTable, length, descSize*uint64(q.maxChain))
	}
	table, ok := q.block(d.addr, length)
	if !ok {
		return sharedmem.Block{}, q.broken(ReasonTableAddress, d.addr, length)
	}
	return table, nil
}

// buffer adds the buffer of one descriptor. An empty one is legal, wherever
// its address points, and adds nothing.
func (w *walker) buffer(d descriptor) error {
	q, length := w.q, uint64(d.len())
	if d.flags()&flagWrite == 0 {
		if w.writing {
			return q.broken(ReasonDirection, d.addr, length)
		}
	} else if !w.writing {
		w.writing = true
		w.readable, w.read = len(w.blocks), w.bytes
	}
	if w.count++; w.count > q.maxChain {
		return q.broken(ReasonTooLong, uint64(q.maxChain), uint64(q.reserve))
	}
	if length == 0 {
		return nil
	}
	if w.bytes += length; w.bytes > math.MaxUint32 {
		return q.broken(ReasonTotal, w.bytes, math.MaxUint32)
	}
	if b, ok := q.block(d.addr, length); ok && len(w.blocks) < cap(w.blocks) {
		w.blocks = append(w.blocks, b)
		return nil
	}
	return w.pieces(d)
}

// pieces adds a buffer that is not inside one region: one Block for each
// region that it touches, if the regions are neighbours.
func (w *walker) pieces(d descriptor) error {
	q, length := w.q, uint64(d.len())
	blocks, ok := q.mem.Append(w.blocks, d.addr, length)
	if ok {
		w.blocks = blocks
		return nil
	}
	// The reserve has a Block for each region, so alone the buffer has room.
	if _, ok := q.mem.Append(w.blocks[:0], d.addr, length); ok {
		return q.broken(ReasonTooLong, uint64(q.maxChain), uint64(q.reserve))
	}
	return q.broken(ReasonUnmapped, d.addr, length)
}

// block is the window of n bytes at gpa, if one region holds them all. It
// remembers that region for the next question.
func (q *Queue) block(gpa, n uint64) (sharedmem.Block, bool) {
	if b, ok := q.window.Block(gpa, n); ok {
		return b, true
	}
	window, ok := q.mem.Window(gpa)
	if !ok {
		return sharedmem.Block{}, false
	}
	q.window = window
	return q.window.Block(gpa, n)
}
