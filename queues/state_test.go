package queues

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"testing"
)

// published is the state table of NDIS ("Virtual Machine Queue States"): a row
// per event, a column per state, the state that follows or nothing when the
// event is invalid.
const published = `
event                          | Undefined | Allocated | Set       | Running | Paused  | StopDMA | Freeing
ALLOCATE_QUEUE                 | Allocated |           |           |         |         |         |
QUEUE_PARAMETERS               |           | Allocated | Set       | Running | Paused  |         |
SET_FILTER                     |           | Set       | Set       | Running | Running |         |
CLEAR_FILTER, last             |           |           | Allocated | Paused  |         |         |
CLEAR_FILTER, not last         |           |           | Set       | Running |         |         |
ENUM_FILTERS                   |           | Allocated | Set       | Running | Paused  |         |
FILTER PARAMETERS              |           |           | Set       | Running |         |         |
ALLOCATION_COMPLETE            |           | Paused    | Running   |         |         |         |
FREE_QUEUE                     |           | StopDMA   |           |         | StopDMA |         |
DMA stopped, status sent       |           |           |           |         |         | Freeing |
all NBLs back, resources freed |           |           |           |         |         |         | Undefined`

// eventNames are the events by their names in the published table.
var eventNames = map[string]event{
	"ALLOCATE_QUEUE": evAllocate, "QUEUE_PARAMETERS": evParameters, "SET_FILTER": evSetFilter,
	"CLEAR_FILTER, last": evClearLast, "CLEAR_FILTER, not last": evClearNotLast, "ENUM_FILTERS": evEnumFilters, "FILTER PARAMETERS": evFilterInfo,
	"ALLOCATION_COMPLETE": evComplete, "FREE_QUEUE": evFree,
	"DMA stopped, status sent": evDMAStopped, "all NBLs back, resources freed": evFreed,
}

// publishedTable is the published table: nextOf[event][state], "" for invalid.
func publishedTable(t *testing.T) map[string]map[string]string {
	t.Helper()
	return parseTable(t, published)
}

// Every pair of a state and an event leads where NDIS says.
func TestClaim45_StateTable(t *testing.T) {
	table := publishedTable(t)
	if len(table) != int(numEvents) || len(eventNames) != int(numEvents) {
		t.Fatalf("%d events are published, %d have names, %d exist", len(table), len(eventNames), numEvents)
	}
	for name, e := range eventNames {
		if len(table[name]) != int(numStates) {
			t.Fatalf("%s: %d states of %d", name, len(table[name]), numStates)
		}
		for s := range numStates {
			q := Queue{id: 1, state: s}
			q.running.Store(s == Running)
			err := q.move(e, "test")
			want := table[name][s.String()]
			if want == "" {
				if !errors.Is(err, StatusInvalidParameter) || q.state != s || q.running.Load() != (s == Running) {
					t.Errorf("%s in %s: %v, now %s, running %v; want a refusal without effect", name, s, err, q.state, q.running.Load())
				}
				continue
			}
			if err != nil || q.state.String() != want || q.running.Load() != (want == "Running") {
				t.Errorf("%s in %s: %v, now %s, running %v; want %s", name, s, err, q.state, q.running.Load(), want)
			}
		}
	}
	for _, e := range []event{numEvents, 200} {
		if to, ok := Running.next(e); ok || to != Running {
			t.Errorf("event %d leads to %s, %v", e, to, ok)
		}
	}
	if to, ok := State(200).next(evFree); ok || to.String() != "invalid" {
		t.Errorf("state 200 leads to %s, %v", to, ok)
	}
}

// verbs are the events that somebody can ask an Adapter for. They answer what
// became of the request.
var verbs = map[string]func(a *Binding, id QueueID) error{
	"SET_FILTER": func(a *Binding, id QueueID) error {
		_, err := a.SetFilter(id, Filter{MAC: [6]byte{2, 0, 0, 0, 0, 9}})
		return err
	},
	"CLEAR_FILTER": func(a *Binding, id QueueID) error {
		return a.ClearFilter(id, 1)
	},
	"ENUM_FILTERS": func(a *Binding, id QueueID) error {
		_, err := a.a.EnumFilters(id)
		return err
	},
	"ALLOCATION_COMPLETE": func(a *Binding, id QueueID) error {
		if s := a.CompleteAllocation([]QueueID{id})[0]; s != StatusSuccess {
			return s
		}
		return nil
	},
	"FREE_QUEUE": func(a *Binding, id QueueID) error {
		return a.FreeQueue(context.Background(), id)
	},
}

// inState is an Adapter whose queue 1 is in a state and has so many filters.
// let lets a queue that is on its way out go on.
func inState(t *testing.T, want State, filters int) (r *rig, let func()) {
	t.Helper()
	r = newRig(t, Options{})
	if want == Undefined {
		return r, func() {}
	}
	n := r.newNIC("web", 1)
	n.SetMemory(newMap(t, 1<<16))
	id := r.allocate(n)
	for i := range filters {
		_, err := r.SetFilter(id, Filter{MAC: [6]byte{2, 0, 0, 0, 0, byte(i + 1)}})
		must(t, err)
	}
	if want != Allocated && want != Set {
		if s := r.CompleteAllocation([]QueueID{id})[0]; s != StatusSuccess {
			t.Fatal(s)
		}
	}
	let = func() { r.free(id) }
	if want == StopDMA || want == Freeing {
		there, leave := make(chan struct{}), make(chan struct{})
		hold := func() { close(there); <-leave }
		if want == StopDMA {
			r.quiesce = func(context.Context) error { hold(); return nil }
		} else {
			r.onEvent = func(e Event) {
				if e.Kind == EventDMAStopped {
					hold()
				}
			}
		}
		done := make(chan error, 1)
		go func() { done <- r.FreeQueue(context.Background(), id) }()
		<-there
		let = func() {
			close(leave)
			must(t, <-done)
		}
	}
	if got := r.state(id); got != want {
		t.Fatalf("the queue is %s, want %s", got, want)
	}
	return r, let
}

// Each verb, in each state that a queue can be in, leads where NDIS says or is
// refused without any effect.
func TestClaim45_VerbsInEveryState(t *testing.T) {
	table := publishedTable(t)
	for s := range numStates {
		least, most := 0, 0
		if s == Set || s == Running {
			least, most = 1, 2
		}
		for filters := least; filters <= most; filters++ {
			for name, verb := range verbs {
				tryVerb(t, table, s, filters, name, verb)
			}
		}
	}
}

func tryVerb(t *testing.T, table map[string]map[string]string, s State, filters int, name string, verb func(*Binding, QueueID) error) {
	t.Helper()
	r, let := inState(t, s, filters)
	const id = QueueID(1)
	before, entries := r.EnumQueues(), maps.Clone(r.steering)
	r.told()

	err := verb(r.Binding, id)
	row := name
	if name == "CLEAR_FILTER" {
		row = map[int]string{0: "CLEAR_FILTER, last", 1: "CLEAR_FILTER, last", 2: "CLEAR_FILTER, not last"}[filters]
	}
	want := table[row][s.String()]
	if want == "" {
		status := StatusInvalidParameter
		if name == "CLEAR_FILTER" && s != Undefined {
			status = StatusFileNotFound // a queue without filters has not that one
		}
		if !errors.Is(err, status) {
			t.Errorf("%s in %s: %v, want %s", row, s, err, status)
		}
		if after := r.EnumQueues(); !reflect.DeepEqual(before, after) {
			t.Errorf("%s in %s was refused, but has changed\n%v to\n%v", row, s, before, after)
		}
		if events := r.told(); len(events) > 0 || !maps.Equal(entries, r.steering) {
			t.Errorf("%s in %s was refused, but events %v and entries %v came of it", row, s, events, r.steering)
		}
		let()
		return
	}
	if name == "FREE_QUEUE" { // goes on to the end
		if events := r.told(); !slices.Equal(events, []string{"StopDMA", "DMA stopped", "Undefined"}) {
			t.Errorf("%s in %s: events %v", row, s, events)
		}
		want = "Undefined"
	}
	if got := r.state(id); err != nil || got.String() != want {
		t.Errorf("%s in %s: %v, now %s, want %s", row, s, err, got, want)
	}
	if name != "FREE_QUEUE" {
		if events := r.told(); len(events) > 1 || (len(events) == 1) != (want != s.String()) {
			t.Errorf("%s from %s to %s: events %v", row, s, want, events)
		}
		let()
	}
}
