package queues

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Binding is one who asks for verbs: a session, the control API (NDIS: a
// protocol driver bound to the adapter). It owns the queues that it allocates
// and the filters that it sets; nobody else changes, frees or clears them,
// except where a queue is Shared. Its methods may be called from any goroutine
// but a worker's.
type Binding struct {
	a    *Adapter
	name string
}

// Bind makes a Binding. name is who it is, for lists and errors.
func (a *Adapter) Bind(name string) *Binding { return &Binding{a: a, name: name} }

// Name is who the Binding is.
func (b *Binding) Name() string { return b.name }

// Close takes back what is left of the Binding: its filters are cleared, its
// queues freed (NDIS: before NdisCloseAdapterEx returns). The error names what
// could not be freed within ctx.
func (b *Binding) Close(ctx context.Context) error {
	errs := []error{b.clearForeign()}
	for _, info := range b.EnumOwnQueues() {
		var err error
		if info.Filters > 0 { // one on its way out has none, and may not be asked for them
			err = b.a.clearAll(info.ID, nil)
		}
		if err == nil {
			err = b.FreeQueue(ctx, info.ID)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// clearForeign clears the Binding's filters on queues of others and on queue 0.
func (b *Binding) clearForeign() error {
	a := b.a
	a.mu.Lock()
	var ids []QueueID
	for _, id := range append([]QueueID{0}, slices.Sorted(maps.Keys(a.queues))...) {
		if q := a.queueOr0(id); q != nil && q.owner != b {
			ids = append(ids, id)
		}
	}
	a.mu.Unlock()
	var errs []error
	for _, id := range ids {
		errs = append(errs, a.clearAll(id, b))
	}
	return errors.Join(errs...)
}

// ownedBy refuses who may not change the queue; shared says that the change is
// one that a Shared queue allows.
func (q *Queue) ownedBy(b *Binding, shared bool, verb string) error {
	if q.owner == b || shared && q.params.Shared {
		return nil
	}
	return fmt.Errorf("queues: %s: queue %d belongs to %s, not to %s: %w", verb, q.id, q.owner.name, b.name, StatusInvalidParameter)
}

// AllocateQueue reserves a queue for a NIC (OID_RECEIVE_FILTER_ALLOCATE_QUEUE).
// It has no memory and no filters yet. StatusResources: there are no ids left;
// StatusNotSupported: queues are switched off; the NIC is served by queue 0
// then. A NIC may get its next queue before FreeQueue was called for the
// former, whose frames go queue 0's way then.
func (b *Binding) AllocateQueue(p QueueParameters) (QueueID, error) {
	a := b.a
	if err := p.check(a); err != nil {
		return 0, err
	}
	a.mu.Lock()
	q, err := b.allocate(p)
	if err != nil {
		a.mu.Unlock()
		return 0, err
	}
	a.unlockAndTell(q)
	if err := place(p.Placement, p.Affinity); err != nil {
		return 0, errors.Join(fmt.Errorf("queues: allocate: %w", errors.Join(StatusResources, err)), b.FreeQueue(context.Background(), q.id))
	}
	return q.id, nil
}

// allocate makes the queue. The caller holds mu.
func (b *Binding) allocate(p QueueParameters) (*Queue, error) {
	a := b.a
	if err := a.ready("allocate"); err != nil {
		return nil, err
	}
	if a.vmqOff {
		return nil, fmt.Errorf("queues: allocate: VM queues are switched off: %w", StatusNotSupported)
	}
	id := QueueID(1)
	for a.queues[id] != nil {
		id++
	}
	if int(id) > a.maxQueues {
		return nil, fmt.Errorf("queues: allocate: all %d queues are in use: %w", a.maxQueues, StatusResources)
	}
	q := &Queue{id: id, owner: b, params: p}
	if err := q.move(evAllocate, "allocate"); err != nil {
		return nil, err
	}
	a.queues[id] = q
	p.NIC.queue.Store(q)
	return q, nil
}

// CompleteAllocation ends a batch of allocations
// (OID_RECEIVE_FILTER_QUEUE_ALLOCATION_COMPLETE): memory is allocated for each
// queue; with filters it runs, without it pauses. Each id has its own status;
// one that failed keeps its state and can be tried again.
func (b *Binding) CompleteAllocation(ids []QueueID) []Status {
	statuses := make([]Status, len(ids))
	for i, err := range b.CompleteEach(ids) {
		statuses[i] = StatusOf(err)
	}
	return statuses
}

// CompleteEach is CompleteAllocation with an error for each queue that says why
// it failed; [StatusOf] is its status.
func (b *Binding) CompleteEach(ids []QueueID) []error {
	errs := make([]error, len(ids))
	for i, id := range ids {
		errs[i] = b.complete(id)
	}
	return errs
}

func (b *Binding) complete(id QueueID) error {
	a := b.a
	a.mu.Lock()
	q, err := a.lookup(id, "complete")
	if err == nil {
		err = q.ownedBy(b, false, "complete")
	}
	if err == nil {
		err = q.complete()
	}
	if err != nil {
		a.mu.Unlock()
		return err
	}
	a.unlockAndTell(q)
	return nil
}

// complete allocates the queue's memory. The caller holds the adapter's lock.
func (q *Queue) complete() error {
	if _, ok := q.state.next(evComplete); !ok {
		return q.move(evComplete, "complete")
	}
	m, areas := q.params.NIC.memory()
	if m == nil {
		return fmt.Errorf("queues: complete: NIC %s has no memory yet: %w", q.params.NIC.name, StatusResources)
	}
	mem, err := allocate(q.id, m, areas)
	m.Unref() // the views keep it
	if err != nil {
		return err
	}
	q.memory = mem
	return q.move(evComplete, "complete")
}

// EnumOwnQueues is EnumQueues for the Binding's own queues.
func (b *Binding) EnumOwnQueues() []QueueInfo {
	return slices.DeleteFunc(b.a.enum(b), func(i QueueInfo) bool { return i.ID == 0 })
}
