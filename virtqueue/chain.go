package virtqueue

import "vhostnet/sharedmem"

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
	readable uint16 // Blocks of Readable, the first ones
	total    uint16 // Blocks in all
	Readable uint32 // bytes that the driver gives to the device
	Writable uint32 // bytes that the driver has room for

	inline [inlineBlocks]sharedmem.Block
	long   []sharedmem.Block // all Blocks, when they are more than inline holds
	_      [24]byte          // to two cache lines, of which a short chain needs the first
}

// ReadableBlocks are the Readable bytes, in order. None of them is empty; a
// header may be split over any of them.
func (c *Chain) ReadableBlocks() []sharedmem.Block { return c.blocks()[:c.readable] }

// WritableBlocks are the Writable bytes, in order. None of them is empty.
func (c *Chain) WritableBlocks() []sharedmem.Block {
	if c.readable == 0 {
		return c.blocks()
	}
	return c.blocks()[c.readable:]
}

// First is the first Block of all; it is empty when the chain has no bytes.
func (c *Chain) First() sharedmem.Block {
	if c.total > inlineBlocks {
		return c.long[0]
	}
	return c.inline[0]
}

// Single is the chain's only Block, ok when it has no more and no less: the way
// for loops, which need not ask whether it is readable when Readable says so.
func (c *Chain) Single() (only []sharedmem.Block, ok bool) { return c.inline[:1], c.total == 1 }

func (c *Chain) blocks() []sharedmem.Block {
	if c.total > inlineBlocks {
		return c.long
	}
	return c.inline[:c.total]
}

// setOne makes c the chain head of one buffer.
func (c *Chain) setOne(head uint16, b sharedmem.Block, writable bool) {
	c.Head, c.inline[0] = head, b
	n := uint32(b.Len())
	if writable {
		c.readable, c.total, c.Readable, c.Writable = 0, 1, 0, n
	} else {
		c.readable, c.total, c.Readable, c.Writable = 1, 1, n, 0
	}
}
