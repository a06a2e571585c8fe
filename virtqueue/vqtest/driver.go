package vqtest

import (
	"fmt"
	"math/bits"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// Driver is the driver side of one ring, split or packed as Config.Features
// say. One goroutine at a time may use it; the device may be another one's at
// the same time.
type Driver struct {
	cfg    Config
	at     Rings
	ring   ring
	split  *split  // ring, or nil
	packed *packed // ring, or nil
	chains []chain // by head
	memory memory

	inOrder bool
	order   []uint16       // with IN_ORDER: heads as they were posted, from first up, a circle of a power of two
	first   uint16         // in order, of the oldest chain that is not reaped
	behind  uint16         // in order, behind the newest
	batch   int            // chains of the last used entry that are not reaped yet
	last    virtqueue.Used // that entry
}

// ring is what is done differently in the two formats.
type ring interface {
	free() int                          // entries that no chain has
	reserve(entries int) (head uint16)  // makes a chain, reaped, of so many free entries
	release(head uint16)                // frees them
	describe(c *chain)                  // what can be written when a chain is made
	post(head uint16, c *chain)         // puts it behind the others
	publish() (kick bool)               // shows the device what was posted
	next() (usedEntry, error)           // the oldest entry that the device has written
	advance(c *chain)                   // moves behind the entry of c
	returned() (chains int, idx uint16) // how many the device has returned, and where it stands
	wantCalls()                         // writes the wish for a call
	noCalls()                           // writes the wish for none
	position() (avail, used uint16)     // of the driver
}

// usedEntry is what the device says of a chain.
type usedEntry struct {
	id, len uint32
	ready   int // chains that may be meant, 0 for none
}

// NewDriver sets a ring up in c.Mem as a driver does: all of the areas zero,
// except for what c.Start asks for.
func NewDriver(c Config) (*Driver, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	at, _ := c.rings()
	d := &Driver{
		cfg: c, at: at,
		chains:  make([]chain, c.Size),
		memory:  memory{next: c.GPA + c.Bytes(), end: c.GPA + c.Mem.Len()},
		inOrder: c.Features.Has(virtio.InOrder),
	}
	if d.inOrder {
		d.order = make([]uint16, 1<<bits.Len(uint(c.Size-1)))
	}
	c.Mem.CopyFrom(make([]byte, c.Bytes()), 0)
	if c.Features.Has(virtio.RingPacked) {
		d.packed = newPacked(d)
		d.ring = d.packed
	} else {
		d.split = newSplit(d)
		d.ring = d.split
	}
	return d, nil
}

// Rings are where the driver put its ring, from the start of its memory: add
// the guest address or the front-end's, as the protocol asks.
func (d *Driver) Rings() Rings { return d.at }

// Size is the number of entries of the ring.
func (d *Driver) Size() int { return d.cfg.Size }

// Available is how many entries of the ring are free: descriptors of its
// table, or slots.
func (d *Driver) Available() int { return d.ring.free() }

// mustBe panics when the test takes a chain for what it is not.
func (c *chain) mustBe(s chainState, head uint16, done string) {
	if c.state != s {
		panic(fmt.Errorf("vqtest: chain %d is %s but was not reaped", head, done))
	}
}

// Post gives a chain that was reaped to the device again, with the same
// buffers and what they hold now, for the next Publish. It allocates nothing.
func (d *Driver) Post(head uint16) {
	c := &d.chains[head]
	c.mustBe(reaped, head, "posted")
	c.state = posted
	if d.inOrder {
		d.order[int(d.behind)%len(d.order)] = head
		d.behind++
	}
	d.ring.post(head, c)
}

// Publish shows the device what was added and posted, all of it at once, and
// says whether it wants to be kicked for it (virtio 1.3, sections 2.7.13.3 and
// 2.8.21.3).
func (d *Driver) Publish() (kick bool) { return d.ring.publish() }

// Reap takes back up to len(dst) chains, in the order in which the device
// returned them, and answers how many. They are kept for Post or Free. A head
// that is not with the device, or more entries than are, is the device's
// error.
//
// With IN_ORDER one used entry may stand for all chains up to the one that it
// names; the others then were used whole (virtio 1.3, sections 2.7.9 and 2.8.9).
func (d *Driver) Reap(dst []virtqueue.Used) (n int, err error) {
	for n < len(dst) {
		if d.batch == 0 {
			if ok, err := d.read(); !ok || err != nil {
				return n, err
			}
		}
		dst[n] = d.reap()
		n++
	}
	return n, nil
}

// read reads the next used entry; ok says whether there is one.
func (d *Driver) read() (ok bool, err error) {
	e, err := d.ring.next()
	if err != nil || e.ready == 0 {
		return false, err
	}
	if e.id >= uint32(len(d.chains)) || d.chains[e.id].state != posted {
		_, used := d.Positions()
		return false, fmt.Errorf("vqtest: the device returned chain %d at used index %d, which it does not have", e.id, used)
	}
	d.last = virtqueue.Used{Head: uint16(e.id), Len: e.len}
	d.batch = 1
	if !d.inOrder {
		return true, nil
	}
	d.batch = d.until(0, e.id)
	if ready := e.ready; d.batch > ready {
		d.batch = 0
		return false, fmt.Errorf("vqtest: the device returned chain %d, but chain %d is the oldest, IN_ORDER was accepted, and %d entries are not all that lie between",
			e.id, d.inOrderHead(0), ready)
	}
	return true, nil
}

// until is for how many chains a used entry of chain id stands, when as many as
// skipped were returned before it and are not reaped; 0 when the device does
// not have that chain.
func (d *Driver) until(skipped int, id uint32) int {
	if id >= uint32(len(d.chains)) || d.chains[id].state != posted {
		return 0
	}
	if !d.inOrder {
		return 1
	}
	for i := skipped; i < int(d.behind-d.first); i++ {
		if d.inOrderHead(i) == uint16(id) {
			return i + 1 - skipped
		}
	}
	return 0
}

// inOrderHead is the i-th head, in the order of their posting, of those that
// are not reaped.
func (d *Driver) inOrderHead(i int) uint16 { return d.order[int(d.first+uint16(i))%len(d.order)] }

// reap takes one chain of the batch that was read.
func (d *Driver) reap() virtqueue.Used {
	u := d.last
	if d.inOrder {
		if head := d.inOrderHead(0); head != u.Head {
			u = virtqueue.Used{Head: head, Len: d.chains[head].writable()}
		}
		d.first++
	}
	d.batch--
	c := &d.chains[u.Head]
	c.state = reaped
	d.ring.advance(c)
	return u
}

// Ready is how many chains the device has returned that were not reaped.
func (d *Driver) Ready() int {
	n, _ := d.ring.returned()
	return n
}

// WantCalls asks for a call at the next chain that comes back, and reports
// whether one came before the device could know.
func (d *Driver) WantCalls() (more bool) {
	d.ring.wantCalls()
	// Pairs with the device's fence between its publication and its look at our
	// wish.
	sharedmem.Fence(&d.memory.fence)
	return d.Ready() > 0
}

// NoCalls says that no calls are wanted.
func (d *Driver) NoCalls() { d.ring.noCalls() }

// AvailIdx is where the driver has added up to, and UsedIdx what the device
// has returned up to, reaped or not: it reads the ring, and what the device
// wrote before is seen afterwards. Both are free-running indices of a split
// ring, positions of a packed one: the slot, and the wrap counter as bit 15.
func (d *Driver) AvailIdx() uint16 {
	avail, _ := d.Positions()
	return avail
}

// UsedIdx is described at AvailIdx.
func (d *Driver) UsedIdx() uint16 {
	_, idx := d.ring.returned()
	return idx
}

// Positions are where the driver stands: behind the last chain added, and
// behind the last one reaped.
func (d *Driver) Positions() (avail, used uint16) { return d.ring.position() }
