package queues

import (
	"fmt"
	"slices"
)

// AnyVLAN as a Filter's VLAN matches frames of every VLAN and untagged ones.
const AnyVLAN uint16 = 0xffff

// SetFilter sends a destination's frames to a queue
// (OID_RECEIVE_FILTER_SET_FILTER). It takes effect at once on a queue that has
// memory. Only the address of one station can be filtered, and on each queue
// once: the forwarding table has one entry for it, which the first of two
// clears would remove. On several queues it can; the switch decides.
func (a *Adapter) SetFilter(id QueueID, f Filter) (FilterID, error) {
	if f.MAC[0]&1 != 0 || f.MAC == [6]byte{} {
		return 0, fmt.Errorf("queues: set filter: %x is not the address of one station, and queues take no others: %w", f.MAC, StatusInvalidParameter)
	}
	if f.VLAN > 4094 && f.VLAN != AnyVLAN {
		return 0, fmt.Errorf("queues: set filter: VLAN %d; 0 to 4094 exist: %w", f.VLAN, StatusInvalidParameter)
	}
	a.mu.Lock()
	q := a.queues[id]
	if q == nil {
		a.mu.Unlock()
		return 0, fmt.Errorf("queues: set filter: no queue %d: %w", id, StatusInvalidParameter)
	}
	if slices.ContainsFunc(q.filters, func(have FilterInfo) bool { return have.Filter == f }) {
		a.mu.Unlock()
		return 0, fmt.Errorf("queues: set filter: queue %d has the filter %x, VLAN %d already: %w", id, f.MAC, f.VLAN, StatusInvalidParameter)
	}
	if err := q.move(evSetFilter, "set filter"); err != nil {
		a.mu.Unlock()
		return 0, err
	}
	a.nextFilter++
	info := FilterInfo{ID: a.nextFilter, Filter: f}
	q.filters = append(q.filters, info)
	q.params.Steering.Set(f.VLAN, f.MAC, id)
	a.unlockAndTell(q)
	return info.ID, nil
}

// ClearFilter removes a filter (OID_RECEIVE_FILTER_CLEAR_FILTER). Without
// filters a queue indicates nothing. StatusFileNotFound: the queue has no such
// filter.
func (a *Adapter) ClearFilter(id QueueID, filter FilterID) error {
	a.mu.Lock()
	q := a.queues[id]
	if q == nil {
		a.mu.Unlock()
		return fmt.Errorf("queues: clear filter: no queue %d: %w", id, StatusInvalidParameter)
	}
	at := slices.IndexFunc(q.filters, func(f FilterInfo) bool { return f.ID == filter })
	if at < 0 {
		a.mu.Unlock()
		return fmt.Errorf("queues: clear filter: queue %d has no filter %d: %w", id, filter, StatusFileNotFound)
	}
	e := evClearNotLast
	if len(q.filters) == 1 {
		e = evClearLast
	}
	if err := q.move(e, "clear filter"); err != nil {
		a.mu.Unlock()
		return err
	}
	gone := q.filters[at]
	q.filters = slices.Delete(q.filters, at, at+1)
	q.params.Steering.Clear(gone.VLAN, gone.MAC)
	a.unlockAndTell(q)
	return nil
}

// EnumFilters lists a queue's filters (OID_RECEIVE_FILTER_ENUM_FILTERS).
func (a *Adapter) EnumFilters(id QueueID) ([]FilterInfo, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.queues[id]
	if q == nil {
		return nil, fmt.Errorf("queues: enum filters: no queue %d: %w", id, StatusInvalidParameter)
	}
	if err := q.move(evEnumFilters, "enum filters"); err != nil {
		return nil, err
	}
	return slices.Clone(q.filters), nil
}

// ClearFilters removes all filters of a queue; a queue without any is left as
// it is.
func (a *Adapter) ClearFilters(id QueueID) error {
	list, err := a.EnumFilters(id)
	if err != nil {
		return err
	}
	for _, f := range list {
		if err := a.ClearFilter(id, f.ID); err != nil {
			return err
		}
	}
	return nil
}
