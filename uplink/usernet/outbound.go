package usernet

import (
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vhostnet/internal/sys"
	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/worker"
)

// What a visit takes at most, and what one List holds.
const (
	visitFrames  = 64
	visitBytes   = 1 << 20
	sourceLists  = 2 * visitFrames
	headerLen    = virtio.MaxNetHeaderLen
	sourceBytes  = headerLen + nbl.MaxFrame
	sourceStride = (sourceBytes + 63) &^ 63
	mostParts    = 16 // of which a packet of the stack is not put together
)

// outItem is a packet to a guest: one of the stack's, without Ethernet header,
// or one of ours.
type outItem struct {
	stack *stack.PacketBuffer
	own   *packet
	to    uint64 // MAC address, for the stack's
	guest *guest // whose share of the queue it takes; nil: nobody's
}

// outbound is what the Network has to say to guests: a bounded queue that any
// goroutine fills, and the Task that empties it into the switch. A queue that
// is full loses packets, as every router does; TCP sends them again.
type outbound struct {
	n      *Network
	wake   *sys.Event
	asleep atomic.Bool // the worker wants a kick

	draining atomic.Bool  // nothing more is taken out of the queue
	holds    atomic.Int32 // waiting, for who drains

	mu    sync.Mutex
	ring  []outItem // a power of two
	first uint64    // the oldest
	last  uint64    // behind the newest
	ended bool

	// The worker's.
	source  *nbl.Source
	sender  nbl.Sender
	serial  nbl.Serial
	items   [visitFrames]outItem // of the Lists that are held: the switch reads the stack's memory
	taken   int                  // how many
	parts   [visitFrames][mostParts]nbl.MDL
	drawn   [visitFrames]*nbl.List
	held    [visitFrames]*nbl.List // indicated, and not returned
	out     [visitFrames]*nbl.List // of them, those the switch is to decide on
	waiting int                    // how many are held
}

func newOutbound(n *Network, memory *sharedmem.Allocator) (*outbound, error) {
	q := &outbound{n: n}
	size := 1
	for size < n.o.Limits.Queue {
		size *= 2
	}
	q.ring = make([]outItem, size)
	var err error
	q.source, err = nbl.NewSource(nbl.SourceParameters{
		Tag: n.o.Name, Lists: sourceLists, DataSize: sourceBytes, Memory: memory, Indicate: q.indicated,
	})
	if err != nil {
		return nil, err
	}
	if q.wake, err = sys.NewEvent(); err != nil {
		return nil, err
	}
	q.sender = nbl.NewSender(nbl.UplinkFeatures, (*uint64)(&q.serial))
	return q, nil
}

// put adds packets and wakes the worker. What does not fit is freed and counted;
// so is what would make one guest's more than half of all. items are empty then.
func (q *outbound) put(items []outItem) {
	q.mu.Lock()
	room := len(q.ring) - int(q.last-q.first)
	if q.ended {
		room = 0
	}
	accepted := 0
	for i := range items {
		it := &items[i]
		if accepted == room || it.guest != nil && !take(&it.guest.coming, len(q.ring)/2) {
			continue
		}
		q.ring[q.last&uint64(len(q.ring)-1)] = *it
		q.last++
		accepted++
		*it = outItem{}
	}
	q.mu.Unlock()
	if accepted < len(items) {
		q.n.counters.outFull.Add(uint64(len(items) - accepted))
	}
	for i := range items {
		items[i].free()
	}
	if accepted > 0 && q.asleep.Load() && q.asleep.Swap(false) {
		q.wake.Signal()
	}
}

// putOwn is put for one packet of ours.
func (q *outbound) putOwn(p *packet) {
	item := [1]outItem{{own: p, guest: p.guest}}
	q.put(item[:])
}

func (it *outItem) free() {
	if it.stack != nil {
		it.stack.DecRef()
	}
	if it.own != nil {
		it.own.free()
	}
}

func (it *outItem) size() int {
	if it.stack != nil {
		return it.stack.Size()
	}
	return len(it.own.frame)
}

// get takes as many items as a visit may.
func (q *outbound) get(budget int) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < budget && q.first != q.last && bytes < visitBytes {
		it := &q.ring[q.first&uint64(len(q.ring)-1)]
		bytes += it.size()
		q.items[n] = *it
		if it.guest != nil {
			it.guest.coming.Add(-1)
		}
		*it = outItem{}
		q.first++
		n++
	}
	return n
}

func (q *outbound) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.first == q.last
}

// Poll carries one batch to the switch (worker.Task).
func (q *outbound) Poll(c *worker.Context, budget int) (busy bool) {
	if q.waiting == 0 && (q.draining.Load() || !q.take(min(budget, visitFrames))) {
		return false
	}
	q.n.o.Switch.Forward(c, q.n.port.id, q.held[:q.waiting]) // it leaves alone what is decided
	q.settle()
	return true
}

// take makes Lists of what is in the queue and indicates them.
func (q *outbound) take(budget int) bool {
	n := q.get(budget)
	if n == 0 {
		return false
	}
	q.serial.Reserve(visitFrames)
	q.source.Get(q.drawn[:n]) // all of them: none is held, and there are more
	q.taken = n
	good := 0
	for i := range n {
		l := q.drawn[i]
		if reason := q.fill(l, &q.items[i], q.parts[i][:]); reason != metrics.ReasonNone {
			q.n.port.counters.Drops.Add(reason, 1)
			_ = q.source.Put(q.drawn[i : i+1]) // it was drawn just now
		} else {
			q.drawn[good] = l
			good++
		}
	}
	if good == 0 {
		q.freeItems()
		return false
	}
	_ = q.source.Indicate(q.drawn[:good]) // they were drawn just now
	return true
}

// freeItems lets go of the packets of a visit: nobody reads them any more.
func (q *outbound) freeItems() {
	for i := range q.items[:q.taken] {
		q.items[i].free()
		q.items[i] = outItem{}
	}
	q.taken = 0
}

// indicated is where the Source's Lists go: they are the Network's until the
// switch has decided on them.
func (q *outbound) indicated(batch []*nbl.List, _ nbl.IndicateFlags) {
	q.waiting = copy(q.held[:], batch)
	q.holds.Store(int32(q.waiting))
}

// settle returns the Lists that the switch has decided on and keeps the others,
// in order.
func (q *outbound) settle() {
	n, gone := 0, 0
	for _, l := range q.held[:q.waiting] {
		if l.Status == nbl.Busy {
			q.held[n] = l
			n++
		} else {
			q.out[gone] = l
			gone++
		}
	}
	_ = q.source.Return(q.out[:gone]) // they are out by this Source
	clear(q.out[:])
	clear(q.held[n:q.waiting])
	q.waiting = n
	if n == 0 {
		q.freeItems()
	}
	q.holds.Store(int32(n))
}

// Arm asks for a kick (worker.Task).
func (q *outbound) Arm() (more bool) {
	q.wake.Drain()
	q.asleep.Store(true)
	if q.waiting > 0 || !q.draining.Load() && !q.empty() {
		q.asleep.Store(false)
		return true
	}
	return false
}

// FD is the kick (worker.Task).
func (q *outbound) FD() int { return q.wake.FD() }

// end frees what is left, for good. The worker visits q no more.
func (q *outbound) end() error {
	q.mu.Lock()
	q.ended = true
	for q.first != q.last {
		it := &q.ring[q.first&uint64(len(q.ring)-1)]
		it.free()
		*it = outItem{}
		q.first++
	}
	q.mu.Unlock()
	_ = q.source.Return(q.held[:q.waiting]) // they are out by this Source
	q.waiting = 0
	q.freeItems()
	q.wake.Close()
	return q.source.Halt()
}
