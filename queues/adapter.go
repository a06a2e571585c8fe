package queues

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
}

// defaultMaxQueues is the number of VM queues when Options names none.
const defaultMaxQueues = 256

// EventKind says what an Event reports.
type EventKind uint8

// Events.
const (
	EventState      EventKind = iota // a queue's state changed
	EventDMAStopped                  // nobody writes for the queue any more; once per FREE_QUEUE
	EventBroken                      // a receive ring was found broken
)

// Event is an indication: NDIS_STATUS_RECEIVE_QUEUE_STATE, or the end of a
// ring.
type Event struct {
	Kind  EventKind
	Queue QueueID
	VM    string
	State State // EventState, EventDMAStopped
	Ring  int   // EventBroken: index of the receive ring's pair
	Err   error // EventBroken: why
}

// Adapter owns the queues of all NICs of one switch (NDIS: the miniport
// adapter). Its verbs are those of the OID_RECEIVE_FILTER_* requests. They may
// be called from any goroutine but not from a worker; none of them blocks,
// except FreeQueue.
type Adapter struct {
	maxQueues int
	quiesce   func(context.Context) error
	onEvent   func(Event)

	arena     *sharedmem.Allocator // host memory of queue 0
	softeners []*nbl.Softener      // one per worker, in queue 0's memory

	queue0 atomic.Bool // queue 0 is Running

	mu         sync.Mutex
	queues     map[QueueID]*Queue
	nextFilter FilterID
	queue0Mem  []sharedmem.AllocationHandle
}

// NewAdapter initializes an adapter: queue 0's memory is allocated and queue 0
// runs (NDIS: MiniportInitializeEx). [Adapter.Halt] ends it.
func NewAdapter(o Options) (*Adapter, error) {
	if o.Workers < 1 {
		return nil, fmt.Errorf("queues: adapter for %d workers; at least one is needed", o.Workers)
	}
	if o.MaxQueues < 0 || o.MaxQueues >= 1<<16 {
		return nil, fmt.Errorf("queues: adapter with %d queues; 0 (the default, %d) to 65535 are possible", o.MaxQueues, defaultMaxQueues)
	}
	if o.Quiesce == nil {
		return nil, errors.New("queues: adapter without Options.Quiesce; freeing a queue needs it")
	}
	a := &Adapter{maxQueues: o.MaxQueues, quiesce: o.Quiesce, onEvent: o.OnEvent, queues: map[QueueID]*Queue{}}
	if a.maxQueues == 0 {
		a.maxQueues = defaultMaxQueues
	}
	if a.onEvent == nil {
		a.onEvent = func(Event) {}
	}
	if err := a.initialize(o.Workers); err != nil {
		return nil, err
	}
	return a, nil
}

// initialize allocates what queue 0 needs: host memory in which each worker
// softens frames.
func (a *Adapter) initialize(workers int) error {
	arena, err := sharedmem.NewHostAllocator(uint64(workers) * nbl.SoftenerBytes)
	if err != nil {
		return fmt.Errorf("queues: host memory of queue 0: %w", err)
	}
	a.arena = arena
	for range workers {
		mem, err := arena.Allocate(sharedmem.Parameters{Usage: sharedmem.Receive, Length: nbl.SoftenerBytes, Flags: sharedmem.Contiguous})
		if err != nil {
			return errors.Join(fmt.Errorf("queues: host memory of queue 0: %w", err), a.freeQueue0())
		}
		a.queue0Mem = append(a.queue0Mem, mem.AllocationHandle)
		a.softeners = append(a.softeners, nbl.NewSoftener(mem.Bytes()))
	}
	a.queue0.Store(true)
	return nil
}

// Halt ends the adapter after the workers have stopped (NDIS:
// MiniportHaltEx). Queues that are left are named in the error; their memory is
// freed.
func (a *Adapter) Halt() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue0.Store(false)
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(a.queues)) {
		q := a.queues[id]
		errs = append(errs, fmt.Errorf("queues: halt: queue %d (%s) is still %s", id, q.params.VMName, q.state), q.memory.free())
	}
	return errors.Join(append(errs, a.freeQueue0())...)
}

func (a *Adapter) freeQueue0() error {
	var errs []error
	for _, h := range a.queue0Mem {
		errs = append(errs, a.arena.Free(h))
	}
	a.queue0Mem, a.softeners = nil, nil
	return errors.Join(append(errs, a.arena.Close())...)
}

// AllocateQueue reserves a queue for a NIC (OID_RECEIVE_FILTER_ALLOCATE_QUEUE).
// It has no memory and no filters yet. StatusResources: there are no ids left;
// the NIC is served by queue 0 then. A NIC may get its next queue before
// FreeQueue was called for the former, whose frames go queue 0's way then.
func (a *Adapter) AllocateQueue(p QueueParameters) (QueueID, error) {
	if p.NIC == nil || p.NIC.adapter != a || p.Steering == nil {
		return 0, fmt.Errorf("queues: allocate: a queue needs a NIC of this adapter and a Steering: %w", StatusInvalidParameter)
	}
	a.mu.Lock()
	id := QueueID(1)
	for a.queues[id] != nil {
		id++
	}
	if int(id) > a.maxQueues {
		a.mu.Unlock()
		return 0, fmt.Errorf("queues: allocate: all %d queues are in use: %w", a.maxQueues, StatusResources)
	}
	q := &Queue{id: id, params: p}
	if err := q.move(evAllocate, "allocate"); err != nil {
		a.mu.Unlock()
		return 0, err
	}
	a.queues[id] = q
	p.NIC.queue.Store(q)
	a.unlockAndTell(q)
	return id, nil
}

// CompleteAllocation ends a batch of allocations
// (OID_RECEIVE_FILTER_QUEUE_ALLOCATION_COMPLETE): memory is allocated for each
// queue; with filters it runs, without it pauses. Each id has its own status;
// one that failed keeps its state and can be tried again.
func (a *Adapter) CompleteAllocation(ids []QueueID) []Status {
	statuses := make([]Status, len(ids))
	for i, id := range ids {
		statuses[i] = a.complete(id)
	}
	return statuses
}

func (a *Adapter) complete(id QueueID) Status {
	a.mu.Lock()
	q := a.queues[id]
	if q == nil {
		a.mu.Unlock()
		return StatusInvalidParameter
	}
	if _, ok := q.state.next(evComplete); !ok {
		a.mu.Unlock()
		return StatusInvalidParameter
	}
	m, areas := q.params.NIC.memory()
	if m == nil {
		a.mu.Unlock()
		return StatusResources
	}
	mem, err := allocate(id, m, areas)
	m.Unref() // the views keep it
	if err != nil {
		a.mu.Unlock()
		return StatusResources
	}
	q.memory = mem
	ok := q.move(evComplete, "complete") == nil
	a.unlockAndTell(q)
	if !ok {
		return StatusFailure
	}
	return StatusSuccess
}

// Remake allocates the memory of a completed queue anew after the NIC's Map or
// its rings changed: the new views are made before the old ones go, so an
// error leaves the queue as it was. Without a Map the queue keeps its state and
// has no memory. A queue that was not completed is left alone.
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

// FreeQueue takes a queue back (OID_RECEIVE_FILTER_FREE_QUEUE). Its filters
// must have been cleared. No delivery begins for it any more; when those under
// way have ended, EventDMAStopped is told, and when all its NBLs are back its
// memory is freed and its id may be given out again. ctx bounds the wait for
// the workers; when it ends the queue stays in StopDMA and FreeQueue may not
// be called again, only waited for by Halt.
func (a *Adapter) FreeQueue(ctx context.Context, id QueueID) error {
	a.mu.Lock()
	q := a.queues[id]
	if q == nil {
		a.mu.Unlock()
		return fmt.Errorf("queues: free: no queue %d: %w", id, StatusInvalidParameter)
	}
	if err := q.move(evFree, "free"); err != nil {
		a.mu.Unlock()
		return err
	}
	q.params.NIC.queue.CompareAndSwap(q, nil)
	a.unlockAndTell(q)

	// Receive NBLs live inside a delivery only, so the safe point that ends
	// every delivery is also the one that brings the NBLs back.
	if err := a.quiesce(ctx); err != nil {
		return fmt.Errorf("queues: free: queue %d: workers did not leave it: %w", id, err)
	}
	a.mu.Lock()
	if err := q.move(evDMAStopped, "free"); err != nil {
		a.mu.Unlock()
		return err
	}
	a.mu.Unlock()
	a.onEvent(Event{Kind: EventDMAStopped, Queue: id, VM: q.params.VMName, State: Freeing})

	a.mu.Lock()
	err := q.memory.free()
	err = errors.Join(err, q.move(evFreed, "free"))
	delete(a.queues, id)
	a.unlockAndTell(q)
	return err
}

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

// EnumQueues lists the queues in order of their ids
// (OID_RECEIVE_FILTER_ENUM_QUEUES). Queue 0 is first.
func (a *Adapter) EnumQueues() []QueueInfo {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := []QueueInfo{a.queue0Info()}
	for _, q := range a.queues {
		list = append(list, q.info())
	}
	slices.SortFunc(list, func(x, y QueueInfo) int { return int(x.ID) - int(y.ID) })
	return list
}

func (a *Adapter) queue0Info() QueueInfo {
	info := QueueInfo{Name: "default", State: Paused, Accounts: a.arena.Accounts()}
	if a.queue0.Load() {
		info.State = Running
	}
	return info
}
