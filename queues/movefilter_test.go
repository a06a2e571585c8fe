package queues

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// journal is a Steering that notes what it is told, for a port.
type journal struct {
	port  string
	calls *[]string
}

func (j journal) Set(_ uint16, _ [6]byte, _ QueueID, order uint32) {
	*j.calls = append(*j.calls, "set "+j.port)
	if order == 0 {
		*j.calls = append(*j.calls, "without an order")
	}
}

func (j journal) Clear(uint16, [6]byte) { *j.calls = append(*j.calls, "clear "+j.port) }

// Claim 70: a filter is at its new queue before it leaves the old one, and the
// old one runs until no worker is on the way to it.
func TestClaim70_MoveFilter(t *testing.T) {
	r := newRig(t, Options{})
	var calls []string
	queue := func(name string) QueueID {
		t.Helper()
		n := r.newNIC(name, 1)
		n.SetMemory(newMap(t, 1<<16))
		id, err := r.AllocateQueue(QueueParameters{VMName: name, NIC: n, Steering: journal{name, &calls}})
		must(t, err)
		if s := r.CompleteAllocation([]QueueID{id})[0]; s != StatusSuccess {
			t.Fatal(s)
		}
		return id
	}
	old, next := queue("old"), queue("next")
	f, err := r.SetFilter(old, filterOf(1))
	must(t, err)
	calls = nil
	r.told()
	r.quiesce = func(context.Context) error {
		calls = append(calls, "quiesce")
		if r.state(old) != Running || r.state(next) != Running || !r.queues[old].running.Load() {
			t.Errorf("while frames are on their way, the queues are %s and %s", r.state(old), r.state(next))
		}
		if list, _ := r.EnumFilters(old); len(list) != 0 {
			t.Errorf("the filter is at both: %v", list)
		}
		return nil
	}
	must(t, r.MoveFilter(context.Background(), f, old, next))
	if want := []string{"set next", "clear old", "quiesce"}; !slices.Equal(calls, want) {
		t.Errorf("the table is told %v, want %v", calls, want)
	}
	if got := r.told(); !slices.Equal(got, []string{"Running", "Paused"}) {
		t.Errorf("events %v", got)
	}
	if info, id, err := r.FilterParametersOf(f); err != nil || id != next || info.Filter != filterOf(1) {
		t.Errorf("filter %d: %+v of queue %d, %v", f, info, id, err)
	}

	// Another filter keeps the old queue running, and what goes wrong changes
	// nothing.
	g, err := r.SetFilter(next, filterOf(2))
	must(t, err)
	r.quiesce = func(context.Context) error { return nil }
	must(t, r.MoveFilter(context.Background(), f, next, old))
	if r.state(old) != Running || r.state(next) != Running {
		t.Errorf("the queues are %s and %s", r.state(old), r.state(next))
	}
	set := r.allocate(r.newNIC("set", 1))
	same, err := r.SetFilter(old, filterOf(2))
	must(t, err)
	other := r.Bind("other")
	before := r.EnumQueues()
	for what, err := range map[string]error{
		"to itself":                 r.MoveFilter(context.Background(), g, next, next),
		"from where it is not":      r.MoveFilter(context.Background(), f, next, old),
		"to a queue without memory": r.MoveFilter(context.Background(), g, next, set),
		"to no queue":               r.MoveFilter(context.Background(), g, next, 99),
		"to queue 0":                r.MoveFilter(context.Background(), g, next, 0),
		"to one that has it":        r.MoveFilter(context.Background(), same, old, next),
		"by another":                other.MoveFilter(context.Background(), g, next, old),
	} {
		if s := StatusOf(err); s != StatusInvalidParameter && s != StatusFileNotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
	if after := r.EnumQueues(); !slices.EqualFunc(before, after, func(x, y QueueInfo) bool { return x.State == y.State && x.Filters == y.Filters }) {
		t.Errorf("refused, but\n%v became\n%v", before, after)
	}

	// The wait is given up: the filter has moved all the same.
	must(t, r.ClearFilter(old, same))
	r.quiesce = func(context.Context) error { return context.Canceled }
	if err := r.MoveFilter(context.Background(), f, old, next); !errors.Is(err, context.Canceled) || r.state(old) != Paused {
		t.Errorf("given up: %v, the old queue is %s", err, r.state(old))
	}
	r.quiesce = func(context.Context) error { return nil }
	for _, id := range []QueueID{old, next, set} {
		r.free(id)
	}
}

// A queue whose filter is moving away may be given another and lose it
// meanwhile.
func TestMoveFilterMeetsOthers(t *testing.T) {
	r := newRig(t, Options{})
	old, next := r.complete("old"), r.complete("next")
	f, err := r.SetFilter(old, filterOf(1))
	must(t, err)
	r.quiesce = func(context.Context) error {
		g, err := r.SetFilter(old, filterOf(2))
		must(t, err)
		must(t, r.ClearFilter(old, g))
		if r.state(old) != Running {
			t.Errorf("frames are on their way to a queue that is %s", r.state(old))
		}
		if err := r.FreeQueue(context.Background(), old); StatusOf(err) != StatusInvalidParameter {
			t.Errorf("freed meanwhile: %v", err)
		}
		return nil
	}
	must(t, r.MoveFilter(context.Background(), f, old, next))
	if r.state(old) != Paused {
		t.Errorf("the old queue is %s", r.state(old))
	}
	r.quiesce = func(context.Context) error { return nil }
	r.free(old)
	r.free(next)
}
