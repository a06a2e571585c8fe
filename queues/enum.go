package queues

import (
	"fmt"
	"slices"
)

// EnumQueues lists all queues in order of their ids
// (OID_RECEIVE_FILTER_ENUM_QUEUES, as an application asks). Queue 0 is first.
// It answers from what the verbs have left; no worker is asked.
func (a *Adapter) EnumQueues() []QueueInfo { return a.enum(nil) }

// enum lists the queues of a Binding, nil: of all, and queue 0.
func (a *Adapter) enum(b *Binding) []QueueInfo {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := []QueueInfo{a.queue0Info()}
	for _, q := range a.queues {
		if b == nil || q.owner == b {
			list = append(list, q.info())
		}
	}
	slices.SortFunc(list, func(x, y QueueInfo) int { return int(x.ID) - int(y.ID) })
	return list
}

func (a *Adapter) queue0Info() QueueInfo {
	info := QueueInfo{Name: "default", State: Paused, Worker: -1, Filters: len(a.zero.filters)}
	if a.arena != nil {
		info.Accounts = a.arena.Accounts()
	}
	if a.queue0.Load() {
		info.State = Running
	}
	return info
}

// QueuesInto is EnumQueues into an array of the caller's. A *LengthError says
// how long it has to be; nothing is written then.
func (a *Adapter) QueuesInto(dst []QueueInfo) (n int, err error) {
	return into(dst, a.EnumQueues(), "enum queues")
}

// FiltersInto is EnumFilters into an array of the caller's, as QueuesInto.
func (a *Adapter) FiltersInto(id QueueID, dst []FilterInfo) (n int, err error) {
	list, err := a.EnumFilters(id)
	if err != nil {
		return 0, err
	}
	return into(dst, list, "enum filters")
}

func into[T any](dst, list []T, verb string) (int, error) {
	if len(dst) < len(list) {
		return 0, &LengthError{Verb: verb, Needed: len(list), Have: len(dst)}
	}
	return copy(dst, list), nil
}

// EnumFilters lists a queue's filters (OID_RECEIVE_FILTER_ENUM_FILTERS).
func (a *Adapter) EnumFilters(id QueueID) ([]FilterInfo, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.queueOr0(id)
	if q == nil {
		return nil, noQueue(id, "enum filters")
	}
	if id != 0 {
		if err := q.move(evEnumFilters, "enum filters"); err != nil {
			return nil, err
		}
	}
	return slices.Clone(q.filters), nil
}

// FilterParametersOf is one filter of whatever queue
// (OID_RECEIVE_FILTER_PARAMETERS).
func (a *Adapter) FilterParametersOf(filter FilterID) (FilterInfo, QueueID, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if q, at := a.findFilter(filter); q != nil {
		return q.filters[at], q.id, nil
	}
	return FilterInfo{}, 0, fmt.Errorf("queues: filter parameters: no filter %d: %w", filter, StatusInvalidParameter)
}

// findFilter is the queue that has a filter, and where; nil: none has. The
// caller holds mu.
func (a *Adapter) findFilter(filter FilterID) (*Queue, int) {
	if at := a.zero.find(filter); at >= 0 {
		return a.zero, at
	}
	for _, q := range a.queues {
		if at := q.find(filter); at >= 0 {
			return q, at
		}
	}
	return nil, -1
}

// lookup is a VM queue, for a verb. The caller holds mu.
func (a *Adapter) lookup(id QueueID, verb string) (*Queue, error) {
	if err := a.ready(verb); err != nil {
		return nil, err
	}
	q := a.queues[id]
	if q == nil {
		return nil, noQueue(id, verb)
	}
	return q, nil
}

// queueOr0 is a queue, or queue 0. The caller holds mu.
func (a *Adapter) queueOr0(id QueueID) *Queue {
	if id == 0 {
		return a.zero
	}
	return a.queues[id]
}

func noQueue(id QueueID, verb string) error {
	if id == 0 {
		return fmt.Errorf("queues: %s: queue 0 is the adapter's own: %w", verb, StatusInvalidParameter)
	}
	return fmt.Errorf("queues: %s: no queue %d: %w", verb, id, StatusInvalidParameter)
}
