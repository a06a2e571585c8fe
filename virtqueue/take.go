package virtqueue

import (
	"errors"
	"math"
	"math/bits"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// taken is a chain that was popped and not given back: its Chain.Head, and
// behind it how many entries of the ring it occupies, 1 to 32768.
type taken uint32

func takenChain(head uint16, slots uint32) taken { return taken(uint32(head) | slots<<16) }

func (c taken) head() uint16  { return uint16(c) }
func (c taken) slots() uint32 { return uint32(c >> 16) }

// taker is what both formats use to take chains: the limits of a chain, the
// memory that long ones lie in, and the order in which all must go back.
type taker struct {
	mem      *sharedmem.Map // nil after Suspend
	indirect bool           // INDIRECT_DESC was accepted
	maxChain uint32         // descriptors
	maxBytes uint64         // of a chain
	slow     uint64         // bits of a descriptor's meta for which the chain is to be walked

	window sharedmem.Window // the region that the last address lay in

	// The chains that are taken, oldest first: those numbered from first to
	// last, each at its number modulo the length, a power of two.
	fifo        []taken
	mask        uint32
	first, last uint32

	// Chains longer than a Chain holds have their Blocks in the first half of
	// the arena, one behind the other, from its start whenever no chain is
	// taken. The second half makes the reserve behind any of them long enough
	// for the longest chain, so that a walk needs no bounds of its own.
	arena     []sharedmem.Block
	arenaUsed int
	reserve   int // half of the arena
}

// newTaker makes the memory for a ring that Config.check has accepted. It holds
// no reference to mem yet.
func newTaker(c *Config, mem *sharedmem.Map) taker {
	blocks, n := c.maxBlocks(mem), 1<<bits.Len32(uint32(c.Size-1))
	t := taker{
		mem:      mem,
		indirect: c.Features.Has(virtio.IndirectDesc),
		maxChain: uint32(c.maxChain()),
		maxBytes: math.MaxUint32, // the lengths of a Chain have 32 bits
		slow:     metaComplex,
		fifo:     make([]taken, n),
		mask:     uint32(n - 1),
		arena:    make([]sharedmem.Block, 2*blocks),
		reserve:  blocks,
	}
	if c.MaxBytes != 0 {
		t.maxBytes, t.slow = uint64(c.MaxBytes), math.MaxUint64 // also a length alone
	}
	return t
}

// errNoRoom says that a chain is fine but the arena is full of chains that are
// taken already.
var errNoRoom = errors.New("virtqueue: the chain has to wait until others are given back")

// count is how many chains are taken.
func (t *taker) count() uint32 { return t.last - t.first }

// used is how much of the arena the taken chains use.
func (t *taker) used() int {
	if t.count() == 0 {
		return 0
	}
	return t.arenaUsed
}

// oldest is the chain behind the one that is to go back next by i.
func (t *taker) oldest(i int) taken { return t.fifo[(t.first+uint32(i))&t.mask] }

// note remembers the chain behind the last one by behind.
func (t *taker) note(behind uint32, c taken) { t.fifo[(t.last+behind)&t.mask] = c }

// runEnd says why a run of plain chains ended.
type runEnd int

const (
	runFull  runEnd = iota // with what there was room for, or with the ring's memory
	runEmpty               // the driver has made no more available
	runWalk                // at a chain that is more than one buffer in the cached region
	runHead                // at a head that is none
)

// slots is how many entries of the ring the chains numbered from a to b occupy.
func (t *taker) slots(a, b uint32) (n uint32) {
	for ; a != b; a++ {
		n += t.fifo[a&t.mask].slots()
	}
	return n
}

// noChain stands for a head in the error of a Push beyond what is taken.
const noChain = 1 << 16

// expects refuses chains that are not those that are to go back next, and
// answers how many entries of the ring they occupy.
func (t *taker) expects(used []Used) (slots uint32, err error) {
	taken, at := t.count(), t.first
	for len(used) > 0 {
		if taken == 0 {
			return 0, broken(ReasonPush, uint64(used[0].Head), noChain)
		}
		oldest := t.fifo[at&t.mask:]
		n := min(uint32(len(used)), uint32(len(oldest)), taken)
		run := used[:n]
		for i, c := range oldest[:len(run)] {
			if c.head() != run[i].Head {
				return 0, broken(ReasonPush, uint64(run[i].Head), uint64(c.head()))
			}
			slots += c.slots()
		}
		at, taken, used = at+n, taken-n, used[n:]
	}
	return slots, nil
}

// walker takes one chain apart. It lives for one call of [taker.walk].
type walker struct {
	t        *taker
	blocks   []sharedmem.Block // found so far, in the arena behind used
	readable int               // of blocks, before the first writable descriptor
	bytes    uint64            // of blocks
	read     uint64            // of bytes, before the first writable descriptor
	count    uint32            // descriptors with a buffer
	writing  bool              // a writable descriptor was seen
}

// walk is the way for every chain that is more than one buffer in the cached
// region: it makes c the chain that begins with d, read already, where ring
// says. arena is how much of the arena is
// in use; walk answers how much is then. The caller sets c.Head. The error is
// errNoRoom or a *BrokenError.
//
//go:noinline
func (t *taker) walk(c *Chain, d descriptor, ring *table, arena int) (int, error) {
	w := walker{t: t, blocks: t.arena[arena : arena : arena+t.reserve]}
	if err := w.follow(d, ring); err != nil {
		return arena, err
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
		if n == 0 {
			c.inline[0] = sharedmem.Block{}
		}
	case arena > 0 && arena+n > t.reserve:
		return arena, errNoRoom
	default:
		c.long = w.blocks[:n:n]
		arena += n
	}
	c.readable, c.total = uint16(w.readable), uint16(n)
	c.Readable, c.Writable = uint32(w.read), uint32(w.bytes-w.read)
	return arena, nil
}

// follow goes from the first descriptor of a chain to its last, through the
// ring and perhaps an indirect table, from which nothing leads back.
func (w *walker) follow(d descriptor, ring *table) error {
	block, size, limit, order := ring.block, ring.size, ring.limit, ring.order
	at, steps, nested := ring.at, uint32(1), false
	for {
		// In a packed ring's indirect table flags other than WRITE are
		// reserved and ignored (virtio 1.3, section 2.8.7).
		if d.flags()&flagIndirect != 0 && order != listed {
			if !nested {
				ring.slots, ring.id = steps, d.id()
			}
			var err error
			if block, err = w.t.indirectTable(d, ring, nested); err != nil {
				return err
			}
			size, order = d.len()/descSize, order.inTable()
			at, steps, limit, nested = 0, 1, size, true
			d = order.load(block, 0)
			continue
		}
		if err := w.buffer(d); err != nil {
			return err
		}
		next, more := order.next(d, at, size)
		switch {
		case !more && !nested:
			ring.slots, ring.id = steps, d.id()
			return nil
		case !more:
			return nil
		case next >= size:
			return broken(ReasonNext, uint64(next), uint64(size))
		case steps == limit:
			return broken(ReasonLoop, uint64(limit), 0)
		}
		at, steps = next, steps+1
		d = order.load(block, at)
	}
}

// indirectTable is the table that d refers to (virtio 1.3, sections 2.7.5.3
// and 2.8.7). WRITE in d means nothing.
func (t *taker) indirectTable(d descriptor, ring *table, nested bool) (sharedmem.Block, error) {
	length := uint64(d.len())
	switch {
	case !t.indirect:
		return sharedmem.Block{}, broken(ReasonUnnegotiated, d.addr, length)
	case nested:
		return sharedmem.Block{}, broken(ReasonNested, d.addr, length)
	case d.flags()&flagNext != 0:
		return sharedmem.Block{}, broken(ReasonIndirectNext, d.addr, length)
	case ring.order == consecutive && ring.slots > 1:
		return sharedmem.Block{}, broken(ReasonIndirectChain, d.addr, length)
	case length == 0 || length%descSize != 0 || length > descSize*uint64(t.maxChain):
		return sharedmem.Block{}, broken(ReasonTable, length, descSize*uint64(t.maxChain))
	}
	b := t.block(d.addr, length)
	if b.Len() == 0 {
		return sharedmem.Block{}, broken(ReasonTableAddress, d.addr, length)
	}
	return b, nil
}

// buffer adds the buffer of one descriptor. An empty one is legal, wherever
// its address points, and adds nothing.
func (w *walker) buffer(d descriptor) error {
	t, length := w.t, uint64(d.len())
	if d.flags()&flagWrite == 0 {
		if w.writing {
			return broken(ReasonDirection, d.addr, length)
		}
	} else if !w.writing {
		w.writing = true
		w.readable, w.read = len(w.blocks), w.bytes
	}
	// Steps are counted, not bytes: a circle of empty descriptors is a circle
	// too.
	if w.count++; w.count > t.maxChain {
		return broken(ReasonTooLong, uint64(t.maxChain), uint64(t.reserve))
	}
	if length == 0 {
		return nil
	}
	if w.bytes += length; w.bytes > t.maxBytes {
		return broken(ReasonTotal, w.bytes, t.maxBytes)
	}
	if b := t.block(d.addr, length); b.Len() != 0 && len(w.blocks) < cap(w.blocks) {
		w.blocks = append(w.blocks, b)
		return nil
	}
	return w.pieces(d)
}

// pieces adds a buffer that is not inside one region: one Block for each
// region that it touches, if the regions are neighbours.
func (w *walker) pieces(d descriptor) error {
	t, length := w.t, uint64(d.len())
	blocks, ok := t.mem.Append(w.blocks, d.addr, length)
	if ok {
		w.blocks = blocks
		return nil
	}
	// The reserve has a Block for each region, so alone the buffer has room.
	if _, ok := t.mem.Append(w.blocks[:0], d.addr, length); ok {
		return broken(ReasonTooLong, uint64(t.maxChain), uint64(t.reserve))
	}
	return broken(ReasonUnmapped, d.addr, length)
}

// block is the window of n bytes at gpa, if one region holds them all; empty
// otherwise. It remembers that region for the next question.
func (t *taker) block(gpa, n uint64) sharedmem.Block {
	if b := t.window.Find(gpa, n); b.Len() != 0 {
		return b
	}
	if window, ok := t.mem.Window(gpa); ok {
		t.window = window
	}
	return t.window.Find(gpa, n)
}
