package queues

import (
	"context"
	"fmt"
	"slices"
)

// FilterID names a filter on its adapter, from 1 up. None is given out twice.
type FilterID uint32

// AnyVLAN as a Filter's VLAN matches frames of every VLAN and untagged ones.
const AnyVLAN uint16 = 0xffff

// Filter is a destination: a MAC address, and a VLAN or AnyVLAN. VLAN 0 is
// untagged frames and those whose tag has no VLAN.
type Filter struct {
	MAC  [6]byte
	VLAN uint16
}

// FilterInfo is a filter as ENUM_FILTERS tells it (NDIS_RECEIVE_FILTER_INFO).
type FilterInfo struct {
	ID FilterID
	Filter
	Owner string // the binding that set it

	owner    *Binding
	steering Steering // of queue 0's filters
}

// Check refuses filters that no queue can have.
func (f Filter) Check() error {
	if f.MAC[0]&1 != 0 || f.MAC == [6]byte{} {
		return fmt.Errorf("queues: set filter: %x is not the address of one station, and queues take no others: %w", f.MAC, StatusInvalidParameter)
	}
	if f.VLAN > 4094 && f.VLAN != AnyVLAN {
		return fmt.Errorf("queues: set filter: VLAN %d; 0 to 4094 exist: %w", f.VLAN, StatusInvalidParameter)
	}
	return nil
}

// SetFilter sends a destination's frames to a queue
// (OID_RECEIVE_FILTER_SET_FILTER). It takes effect at once on a queue that has
// memory; until then the frames go queue 0's way. Only the address of one
// station can be filtered, and on each queue once: the forwarding table has one
// entry for it, which the first of two clears would remove. On several queues
// it can; the lowest FilterID counts.
func (b *Binding) SetFilter(id QueueID, f Filter) (FilterID, error) {
	a := b.a
	if err := f.Check(); err != nil {
		return 0, err
	}
	a.mu.Lock()
	q, err := a.lookup(id, "set filter")
	if err == nil {
		err = q.ownedBy(b, true, "set filter")
	}
	if err == nil {
		err = a.canSet(q, f)
	}
	if err == nil {
		err = q.move(evSetFilter, "set filter")
	}
	if err != nil {
		a.mu.Unlock()
		return 0, err
	}
	info := a.addFilter(q, f, b)
	if q.state == Running {
		q.steer(info)
	}
	a.unlockAndTell(q)
	return info.ID, nil
}

// SetDefaultFilter fixes a destination to a port by queue 0's way: a filter on
// queue 0, which anybody may set. to is the port's.
func (b *Binding) SetDefaultFilter(f Filter, to Steering) (FilterID, error) {
	a := b.a
	if err := f.Check(); err != nil {
		return 0, err
	}
	if to == nil {
		return 0, fmt.Errorf("queues: set filter: queue 0 serves every port, so a filter on it needs a Steering: %w", StatusInvalidParameter)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.ready("set filter"); err != nil {
		return 0, err
	}
	if err := a.canSet(a.zero, f); err != nil {
		return 0, err
	}
	info := a.addFilter(a.zero, f, b)
	a.zero.filters[len(a.zero.filters)-1].steering = to
	to.Set(f.VLAN, f.MAC, 0, uint32(info.ID))
	return info.ID, nil
}

// canSet refuses a filter that the queue has, that is one too many, or that
// needs what is switched off. The caller holds mu.
func (a *Adapter) canSet(q *Queue, f Filter) error {
	if slices.ContainsFunc(q.filters, func(have FilterInfo) bool { return have.Filter == f }) {
		return fmt.Errorf("queues: set filter: queue %d has the filter %x, VLAN %d already: %w", q.id, f.MAC, f.VLAN, StatusInvalidParameter)
	}
	if a.vlanOff && f.VLAN != 0 && f.VLAN != AnyVLAN {
		return fmt.Errorf("queues: set filter: VLAN %d; tests of the VLAN are switched off: %w", f.VLAN, StatusNotSupported)
	}
	if a.filters == maxFilters {
		return fmt.Errorf("queues: set filter: all %d filters are in use: %w", maxFilters, StatusResources)
	}
	return nil
}

// addFilter gives a queue a filter under the next id. The caller holds mu.
func (a *Adapter) addFilter(q *Queue, f Filter, b *Binding) FilterInfo {
	a.nextFilter++
	a.filters++
	info := FilterInfo{ID: a.nextFilter, Filter: f, Owner: b.name, owner: b}
	q.filters = append(q.filters, info)
	return info
}

// ClearFilter removes a filter that the Binding has set
// (OID_RECEIVE_FILTER_CLEAR_FILTER). Without filters a queue indicates nothing:
// when it returns, no frame of the queue is being copied any more.
// StatusFileNotFound: the queue has no such filter.
func (b *Binding) ClearFilter(id QueueID, filter FilterID) error {
	return b.a.clearFilter(id, filter, b)
}

// clearFilter is ClearFilter for b, nil: for the adapter itself.
func (a *Adapter) clearFilter(id QueueID, filter FilterID, b *Binding) error {
	a.mu.Lock()
	q, at, err := a.clearable(id, filter, b)
	if err == nil && id != 0 {
		err = q.clear(at)
	} else if err == nil {
		gone := q.filters[at]
		gone.steering.Clear(gone.VLAN, gone.MAC)
		q.filters = slices.Delete(q.filters, at, at+1)
	}
	if err != nil {
		a.mu.Unlock()
		return err
	}
	a.filters--
	if id == 0 {
		a.mu.Unlock()
		return nil
	}
	stopped := q.state == Paused
	nic := q.params.NIC
	a.unlockAndTell(q)
	if stopped {
		nic.fence()
	}
	return nil
}

// clearable is a filter that b may clear, and its queue.
func (a *Adapter) clearable(id QueueID, filter FilterID, b *Binding) (*Queue, int, error) {
	if err := a.ready("clear filter"); err != nil {
		return nil, 0, err
	}
	q := a.queueOr0(id)
	if q == nil {
		return nil, 0, noQueue(id, "clear filter")
	}
	at := q.find(filter)
	if at < 0 {
		return nil, 0, fmt.Errorf("queues: clear filter: queue %d has no filter %d: %w", id, filter, StatusFileNotFound)
	}
	if b != nil && q.filters[at].owner != b {
		return nil, 0, fmt.Errorf("queues: clear filter: filter %d was set by %s, not by %s: %w", filter, q.filters[at].Owner, b.name, StatusInvalidParameter)
	}
	return q, at, nil
}

// clear takes the filter at a place out of the queue.
func (q *Queue) clear(at int) error {
	gone := q.filters[at]
	steered := q.state == Running
	if err := q.move(q.clearEvent(), "clear filter"); err != nil {
		return err
	}
	q.filters = slices.Delete(q.filters, at, at+1)
	if steered && q.state == Running {
		q.params.Steering.Clear(gone.VLAN, gone.MAC)
	}
	return nil
}

// ClearFilters removes all filters of one of the Binding's own queues, whoever
// set them; a queue without any is left as it is.
func (b *Binding) ClearFilters(id QueueID) error {
	a := b.a
	a.mu.Lock()
	q, err := a.lookup(id, "clear filters")
	if err == nil {
		err = q.ownedBy(b, false, "clear filters")
	}
	a.mu.Unlock()
	if err != nil {
		return err
	}
	return a.clearAll(id, nil)
}

// clearAll clears the filters of a queue that b has set, nil: all.
func (a *Adapter) clearAll(id QueueID, b *Binding) error {
	list, err := a.EnumFilters(id)
	if err != nil && b != nil {
		return nil // it is on its way out, without filters
	}
	if err != nil {
		return err
	}
	for _, f := range list {
		if b != nil && f.owner != b {
			continue
		}
		if err := a.clearFilter(id, f.ID, nil); err != nil {
			return err
		}
	}
	return nil
}

// MoveFilter moves a filter from one queue to another
// (OID_RECEIVE_FILTER_MOVE_FILTER; NDIS moves it between virtual ports). Both
// have memory, and the Binding may set filters on the other. The forwarding
// table changes in one step: each frame finds the one queue or the other. The
// former goes on taking frames that were on their way to it until the workers
// have passed, for which it waits; ctx bounds that. The FilterID stays.
func (b *Binding) MoveFilter(ctx context.Context, filter FilterID, source, dest QueueID) error {
	a := b.a
	a.mu.Lock()
	from, to, err := b.moveFilter(filter, source, dest)
	if err != nil {
		a.mu.Unlock()
		return err
	}
	a.unlockAndTell(to)
	err = a.quiesce(ctx)
	a.mu.Lock()
	e := from.clearEvent()
	from.leaving--
	if moveErr := from.move(e, "move filter"); moveErr != nil {
		a.mu.Unlock()
		return moveErr
	}
	a.unlockAndTell(from)
	if err != nil {
		return fmt.Errorf("queues: move filter: frames may still be on their way to queue %d: %w", source, err)
	}
	return nil
}

// moveFilter is the step itself. The caller holds mu.
func (b *Binding) moveFilter(filter FilterID, source, dest QueueID) (from, to *Queue, err error) {
	a := b.a
	from, at, err := a.clearable(source, filter, b)
	if err != nil {
		return nil, nil, err
	}
	if to, err = a.lookup(dest, "move filter"); err != nil {
		return nil, nil, err
	}
	if err := to.ownedBy(b, true, "move filter"); err != nil {
		return nil, nil, err
	}
	moved := from.filters[at]
	if from == to || source == 0 || from.params.NIC == to.params.NIC || from.state != Running || to.state != Running && to.state != Paused {
		return nil, nil, fmt.Errorf("queues: move filter: from queue %d (%s) to %d (%s); both need memory, and NICs of their own: %w",
			source, from.state, dest, to.state, StatusInvalidParameter)
	}
	if slices.ContainsFunc(to.filters, func(have FilterInfo) bool { return have.Filter == moved.Filter }) {
		return nil, nil, fmt.Errorf("queues: move filter: queue %d has the filter already: %w", dest, StatusInvalidParameter)
	}
	if err := to.move(evSetFilter, "move filter"); err != nil {
		return nil, nil, err
	}
	to.filters = append(to.filters, moved)
	to.steer(moved) // of two equals the later counts: from here on they are to's
	from.filters = slices.Delete(from.filters, at, at+1)
	from.leaving++
	from.params.Steering.Clear(moved.VLAN, moved.MAC)
	return from, to, nil
}
