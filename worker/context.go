package worker

import (
	"sync/atomic"
	"time"

	"vhostnet/internal/sys"
)

// processStart is the zero of Context.Now, one for the whole process, so that the
// clocks of all workers can be compared.
var processStart = time.Now()

// clock is the monotonic time in ns since the process started, at least 1.
func clock() int64 { return int64(time.Since(processStart)) + 1 }

// Now is the clock of Context.Now for goroutines that are on no worker: read at
// each call.
func Now() int64 { return clock() }

// Context is what a worker lends to whatever runs on it: the clock of the
// round, the call that cannot block, and slots for scratch memory. There is
// one per worker, it is used on that worker only, and nothing keeps it after
// Poll or the function given to Do has returned.
type Context struct {
	now    int64
	worker int // -1: no worker behind it
	slots  []any
	call   callNote
}

// NewTestContext makes a Context without a worker, for tests and benchmarks of
// the layers above. Its clock stands still except for SetNow; nobody watches
// its calls; who touches guest memory with it does so inside sharedmem.Guard.
func NewTestContext() *Context { return &Context{now: clock(), worker: -1} }

// Now is the monotonic time in nanoseconds, read once at the start of the
// round. Its zero has no meaning; it is the same for all workers.
func (c *Context) Now() int64 { return c.now }

// SetNow moves the clock of a Context made by NewTestContext. It panics on a
// worker's own.
func (c *Context) SetNow(ns int64) {
	if c.worker >= 0 {
		panic("worker: SetNow on the Context of a running worker")
	}
	c.now = ns
}

// Worker is the index of the worker in its Group, -1 in a test Context.
func (c *Context) Worker() int { return c.worker }

// Call signals e, the call descriptor of a ring, and reports whether the peer
// is told or was about to be; false: the event is dead, the ring's owner must
// give it up. Signal writes only to a descriptor that takes a write at once,
// but a front-end that fills the eventfd in between, with O_NONBLOCK cleared,
// can hold the write for ever (security V76): the watchdog then kills e, which
// ends the write. No lock may be held here.
func (c *Context) Call(e *sys.Event) bool {
	c.call.enter(e)
	ok := e.Signal()
	c.call.leave()
	return ok
}

// callNote tells the watchdog which call a worker is in. Only the worker
// writes it.
type callNote struct {
	seq   atomic.Uint64 // counts calls; stored before event, see current
	event atomic.Pointer[sys.Event]
}

func (n *callNote) enter(e *sys.Event) {
	n.seq.Store(n.seq.Load() + 1)
	n.event.Store(e)
}

func (n *callNote) leave() { n.event.Store(nil) }

// current is the call in progress and its number; nil when there is none or
// it changed meanwhile. The number is read on both sides of the event: equal
// numbers mean that the event belongs to them.
func (n *callNote) current() (uint64, *sys.Event) {
	seq := n.seq.Load()
	e := n.event.Load()
	if n.seq.Load() != seq {
		return seq, nil
	}
	return seq, e
}

// Slot names a place in every Context where a higher layer keeps one T per
// worker: batch arrays, caches, scratch. T is made at the first Get of each
// worker and lives as long as the Context, so Slots are made per program or
// per long-lived object, not per port or frame.
type Slot[T any] struct {
	index int
	make  func() *T
}

// slotCount numbers the Slots of the process.
var slotCount atomic.Int64

// NewSlot makes a Slot whose values are made by makeValue, on the worker that
// first needs one.
func NewSlot[T any](makeValue func() *T) Slot[T] {
	return Slot[T]{index: int(slotCount.Add(1)) - 1, make: makeValue}
}

// Get is this worker's value. It allocates at the first call only.
func (s Slot[T]) Get(c *Context) *T {
	if s.index < len(c.slots) {
		if v, ok := c.slots[s.index].(*T); ok {
			return v
		}
	}
	return s.fill(c)
}

// fill makes c's value of s.
//
//go:noinline
func (s Slot[T]) fill(c *Context) *T {
	for len(c.slots) <= s.index {
		c.slots = append(c.slots, nil)
	}
	v := s.make()
	c.slots[s.index] = v
	return v
}
