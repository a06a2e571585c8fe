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
func (c *Chain) WritableBlocks() []sharedmem.Block {
	if c.readable == 0 {
		return c.blocks()
	}
	return c.blocks()[c.readable:]
}

// First is the first Block of all; it is empty when the chain has no bytes.
func (c *Chain) First() sharedmem.Block {
	switch {
	case c.total > inlineBlocks:
		return c.long[0]
	case c.total == 0:
		return sharedmem.Block{}
	}
	return c.inline[0]
}

func (c *Chain) blocks() []sharedmem.Block {
	if c.total > inlineBlocks {
		return c.long
	}
	return c.inline[:c.total]
}

// setOne makes c the chain head of one buffer.
func (c *Chain) setOne(head uint16, b sharedmem.Block, writable bool) {
	c.Head, c.total = head, 1
	c.inline[0] = b
	if writable {
		c.Readable, c.Writable, c.readable = 0, uint32(b.Len()), 0
		return
	}
	c.Readable, c.Writable, c.readable = uint32(b.Len()), 0, 1
}
