package queues

import (
	"fmt"
	"sync"
	"sync/atomic"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

// NICOptions is what a NIC is made from.
type NICOptions struct {
	Name     string // of the port, for events
	Pairs    int    // queue pairs, at least 1
	Counters *metrics.Port
}

// NIC is what a session brings: the receive rings of one virtio-net device and
// what its driver accepted. It is a port of the switch; it exists before a
// driver came and after it left, and drops frames meanwhile.
//
// Deliver runs on any number of workers at once. The other methods change the
// rings; one goroutine at a time calls them, and each returns when no worker
// uses what it replaced.
type NIC struct {
	name     string
	adapter  *Adapter
	rings    []rxRing
	counters *metrics.Port
	steering *flowTable // nil with a single pair

	queue atomic.Pointer[Queue] // nil: served by queue 0
	modes atomic.Pointer[Modes] // nil: everything is wanted
	using atomic.Int32          // pairs that the driver uses; 0: not said

	mu    sync.Mutex        // guards what follows; never held while waiting for a worker
	mem   *sharedmem.Map    // referenced; nil: none
	areas map[int]ringAreas // of each started ring, by the device's ring index
}

// ringAreas are where a ring lies, in which Map.
type ringAreas struct {
	mem    *sharedmem.Map // identity only
	blocks []sharedmem.Block
}

// NewNIC makes a NIC without rings.
func (a *Adapter) NewNIC(o NICOptions) (*NIC, error) {
	if o.Pairs < 1 || o.Pairs > 128 {
		return nil, fmt.Errorf("queues: NIC %q with %d queue pairs; 1 to 128 are possible", o.Name, o.Pairs)
	}
	if o.Counters == nil {
		return nil, fmt.Errorf("queues: NIC %q without counters", o.Name)
	}
	n := &NIC{
		name: o.Name, adapter: a, counters: o.Counters,
		rings: make([]rxRing, o.Pairs), areas: map[int]ringAreas{},
	}
	for i := range n.rings {
		pool, err := nbl.NewPool(fmt.Sprintf("%s rx %d", o.Name, i), burstFrames)
		if err != nil {
			return nil, err
		}
		n.rings[i].nic, n.rings[i].pair, n.rings[i].pool = n, i, pool
	}
	if o.Pairs > 1 {
		n.steering = new(flowTable)
	}
	return n, nil
}

// Attributes is what the driver accepted, as far as delivery depends on it.
type Attributes struct {
	Features virtio.Features
	MTU      uint16 // longest packet without segmentation, bytes; 0: no limit
}

// StartRx gives a pair its receive ring. Frames arrive when the ring is
// enabled. The ring belongs to the NIC until StopRx.
func (n *NIC) StartRx(pair int, q *virtqueue.Queue, at Attributes) {
	r := &n.rings[pair]
	r.mu.Lock()
	r.install(q, at)
	r.mu.Unlock()
}

// ReplaceRx puts the ring that remake makes of the old one's state in its
// place. No frame is lost: delivery waits. With a nil ring and no error the
// pair is parked: it has no ring until StartRx.
func (n *NIC) ReplaceRx(pair int, remake func(virtqueue.State) (*virtqueue.Queue, error)) error {
	r := &n.rings[pair]
	defer r.stopping.Store(false)
	state, ok := r.takeAway()
	if !ok {
		return fmt.Errorf("queues: replace: pair %d of %s has no ring", pair, n.name)
	}
	q, err := remake(state)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.set(q)
	r.mu.Unlock()
	return nil
}

// EnableRx lets frames into a pair's ring or keeps them out; the setting
// outlives the ring. When it returns after off, nobody is writing, and nobody
// calls the driver.
func (n *NIC) EnableRx(pair int, on bool) {
	r := &n.rings[pair]
	r.mu.Lock()
	r.enabled.Store(on)
	r.mu.Unlock()
	if !on {
		r.calls.Wait()
	}
}

// StopRx takes a pair's ring away and answers where it stood; ok is false when
// there was none. It waits for at most one burst of a delivery and for the
// calls that workers are about to make, which the watchdog bounds.
func (n *NIC) StopRx(pair int) (state virtqueue.State, ok bool) {
	r := &n.rings[pair]
	defer r.stopping.Store(false)
	return r.takeAway()
}

// RxBroken reports whether a pair's receive ring was found broken. It may be
// called concurrently with everything.
func (n *NIC) RxBroken(pair int) bool { return n.rings[pair].told.Load() }

// filtered is the queue of which filters' frames may enter now, 0: none.
func (n *NIC) filtered() QueueID {
	if q := n.queue.Load(); q != nil && q.running.Load() && !n.adapter.paused.Load() {
		return q.id
	}
	return 0
}

// fence returns when every delivery has ended that began before it.
func (n *NIC) fence() {
	for i := range n.rings {
		r := &n.rings[i]
		r.stopping.Store(true)
		r.mu.Lock()
		r.stopping.Store(false)
		r.mu.Unlock()
	}
}

// QueueID is the NIC's own queue, 0: it has none.
func (n *NIC) QueueID() QueueID {
	if q := n.queue.Load(); q != nil {
		return q.id
	}
	return 0
}

// Name is the NIC's name, that of its port.
func (n *NIC) Name() string { return n.name }

// SetMemory tells which Map the NIC's queue allocates from, nil: none, and
// NoteRing which areas the ring of an index has (none: the ring stopped). They
// take effect at the queue's next completion or Remake. The NIC keeps a
// reference to the Map until the next SetMemory.
func (n *NIC) SetMemory(m *sharedmem.Map) {
	if m != nil {
		m.Ref()
	}
	n.mu.Lock()
	old := n.mem
	n.mem = m
	n.mu.Unlock()
	if old != nil {
		old.Unref()
	}
}

// NoteRing notes the areas of the device's ring i, which lie in the Map set
// last; see SetMemory. A ring that is not noted again after another Map was set
// is left out of the queue's memory.
func (n *NIC) NoteRing(i int, areas []sharedmem.Block) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(areas) == 0 {
		delete(n.areas, i)
		return
	}
	n.areas[i] = ringAreas{n.mem, areas}
}

// memory is the Map to allocate from, with a reference that the caller drops,
// and the ring areas in it. A Map without regions has nothing to allocate, so
// it counts as none.
func (n *NIC) memory() (*sharedmem.Map, []sharedmem.Block) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mem == nil || n.mem.Size() == 0 {
		return nil, nil
	}
	var all []sharedmem.Block
	for _, areas := range n.areas {
		if areas.mem == n.mem {
			all = append(all, areas.blocks...)
		}
	}
	return n.mem.Ref(), all
}

// Deliver copies a prefix of batch into the NIC's rings and answers how long
// it is; the rest finds no buffers now. What is refused for good (ring
// stopped, buffers too small, ...) is counted and belongs to the prefix. part
// says that of the first packet behind it some segments were copied: handed to
// Deliver again, it goes on behind them.
// Nothing in a List is changed. The order of a flow is kept.
func (n *NIC) Deliver(c *worker.Context, batch []*nbl.List) (accepted int, part bool) {
	for accepted < len(batch) {
		r, run := n.route(batch[accepted:])
		took, part := r.deliver(c, run)
		accepted += took
		if took < len(run) {
			return accepted, part
		}
	}
	return accepted, false
}

// indicateBroken tells the owner that a pair's ring was found broken. It is called
// on a worker, once per ring.
func (n *NIC) indicateBroken(pair int, err error) {
	var id QueueID
	if q := n.queue.Load(); q != nil {
		id = q.id
	}
	n.adapter.onEvent(Event{Kind: EventBroken, Queue: id, VM: n.name, Ring: pair, Err: err})
}
