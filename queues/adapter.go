package queues

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/worker"
)

// Options is what an Adapter is made from.
type Options struct {
	MaxQueues int // VM queues beside queue 0; 0 means 256
	Workers   int // how many workers will deliver; at least 1

	// Quiesce returns when every worker has passed a safe point: afterwards
	// none is inside a delivery that began before the call.
	Quiesce func(context.Context) error

	// OnEvent is told what NDIS would indicate, from the goroutine that
	// caused it, without any lock held. It must not call the Adapter. nil:
	// nobody listens.
	OnEvent func(Event)

	// HeldLists and HeldBytes bound what Holder can keep: 0 means 256 packets
	// and 1 MiB.
	HeldLists int
	HeldBytes uint64

	DisableVMQ         bool // no queues but queue 0 (NDIS: *VMQ 0)
	DisableVLANFilters bool // no tests of the VLAN (NDIS: *VMQVlanFiltering 0)
	StrictVLAN         bool // SetFilterParameters refuses a filter that says nothing about VLANs
}

// Defaults of Options.
const (
	defaultMaxQueues = 256
	defaultHeldLists = 256
	defaultHeldBytes = 1 << 20
)

// EventKind says what an Event reports.
type EventKind uint8

// Events.
const (
	EventState      EventKind = iota // a queue's state changed
	EventDMAStopped                  // nobody writes for the queue any more; once per FREE_QUEUE
	EventBroken                      // a receive ring was found broken
	EventAdapter                     // the adapter's own state changed
)

// Event is an indication: NDIS_STATUS_RECEIVE_QUEUE_STATE, or the end of a
// ring.
type Event struct {
	Kind    EventKind
	Queue   QueueID
	VM      string
	State   State        // EventState, EventDMAStopped
	Adapter AdapterState // EventAdapter
	Ring    int          // EventBroken: index of the receive ring's pair
	Err     error        // EventBroken: why
}

// Adapter owns the queues of all NICs of one switch (NDIS: the miniport
// adapter). What it tells may be asked by any goroutine but a worker's; its
// verbs are a Binding's.
type Adapter struct {
	maxQueues  int
	workers    int
	held       nbl.HolderParameters
	quiesce    func(context.Context) error
	onEvent    func(Event)
	vmqOff     bool
	vlanOff    bool
	strictVLAN bool

	arena     *sharedmem.Allocator // host memory of queue 0
	softeners []*nbl.Softener      // one per worker, in queue 0's memory
	holder    *nbl.Holder

	queue0 atomic.Bool // queue 0 is Running
	paused atomic.Bool // no queue is, whatever its state

	mu         sync.Mutex
	state      AdapterState
	removed    bool // by surprise
	resetting  bool
	queues     map[QueueID]*Queue
	zero       *Queue // its filters; always there
	filters    int    // of all queues
	nextFilter FilterID
	queue0Mem  []sharedmem.AllocationHandle
	pending    sync.WaitGroup // FREE_QUEUEs that wait
}

// NewAdapter initializes an adapter: queue 0's memory is allocated, and it is
// Paused (NDIS: MiniportInitializeEx). [Adapter.Restart] lets frames pass,
// [Adapter.Close] ends it.
func NewAdapter(o Options) (*Adapter, error) {
	a, err := newAdapter(o)
	if err != nil {
		return nil, err
	}
	if err := a.initialize(a.steps()); err != nil {
		return nil, err
	}
	return a, nil
}

// newAdapter is an adapter that is Halted.
func newAdapter(o Options) (*Adapter, error) {
	if o.Workers < 1 {
		return nil, fmt.Errorf("queues: adapter for %d workers; at least one is needed", o.Workers)
	}
	if o.MaxQueues < 0 || o.MaxQueues >= 1<<16 {
		return nil, fmt.Errorf("queues: adapter with %d queues; 0 (the default, %d) to 65535 are possible", o.MaxQueues, defaultMaxQueues)
	}
	if o.Quiesce == nil {
		return nil, errors.New("queues: adapter without Options.Quiesce; freeing a queue needs it")
	}
	a := &Adapter{
		maxQueues: o.MaxQueues, workers: o.Workers, quiesce: o.Quiesce, onEvent: o.OnEvent,
		vmqOff: o.DisableVMQ, vlanOff: o.DisableVLANFilters, strictVLAN: o.StrictVLAN,
		held:   nbl.HolderParameters{Tag: "queue 0 held", Lists: o.HeldLists, Bytes: o.HeldBytes},
		queues: map[QueueID]*Queue{}, zero: new(Queue),
	}
	if a.maxQueues == 0 {
		a.maxQueues = defaultMaxQueues
	}
	if a.held.Lists == 0 {
		a.held.Lists = defaultHeldLists
	}
	if a.held.Bytes == 0 {
		a.held.Bytes = defaultHeldBytes
	}
	if a.onEvent == nil {
		a.onEvent = func(Event) {}
	}
	return a, nil
}

// Holder keeps packets beyond the call in which they were delivered, in queue
// 0's memory. FREE_QUEUE of the queue under which a packet is held waits for
// its return.
func (a *Adapter) Holder() *nbl.Holder { return a.holder }

// softener is the one of the worker that c belongs to.
func (a *Adapter) softener(c *worker.Context) *nbl.Softener {
	return a.softeners[max(c.Worker(), 0)]
}

// unlockAndTell releases the adapter's lock and then reports q's state if it
// changed.
func (a *Adapter) unlockAndTell(q *Queue) {
	e := Event{Kind: EventState, Queue: q.id, VM: q.params.VMName, State: q.state}
	changed := q.told != q.state
	q.told = q.state
	a.mu.Unlock()
	if changed {
		a.onEvent(e)
	}
}

// Remake allocates the memory of a completed queue anew after the NIC's Map or
// its rings changed: the new views are made before the old ones go, so an
// error leaves the queue as it was. Without a Map the queue keeps its state and
// has no memory. A queue that was not completed is left alone. The session
// calls it, whoever owns the queue: it is the guest's memory that changed.
func (a *Adapter) Remake(id QueueID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.queues[id]
	if q == nil || q.state != Running && q.state != Paused {
		return nil
	}
	m, areas := q.params.NIC.memory()
	if m == nil {
		return q.memory.free()
	}
	mem, err := allocate(id, m, areas)
	m.Unref() // the views keep it
	if err != nil {
		return err
	}
	old := q.memory
	q.memory = mem
	return old.free()
}
