package worker

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

func TestQuiesceDoesNotWakeSleepers(t *testing.T) {
	g := startGroup(t, Options{Workers: 2})
	for _, w := range g.Workers() {
		within(t, "sleep", asleep(w))
	}
	before := g.Workers()[0].Stats()
	for range 100 {
		if err := g.Quiesce(soon(t)); err != nil {
			t.Fatal(err)
		}
	}
	if after := g.Workers()[0].Stats(); after != before {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

func TestQuiesceBeforeRun(t *testing.T) {
	g, err := NewGroup(Options{Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Quiesce(context.Background()); err != nil {
		t.Errorf("Quiesce = %v: who does not run holds nothing", err)
	}
}

func TestQuiesceWaitsForAVisit(t *testing.T) {
	g := startGroup(t, Options{Workers: 2})
	gate := make(chan struct{})
	f := &fake{onPoll: func(*Context) bool { <-gate; return false }}
	mustAdd(t, g.Workers()[1], f, Poll)
	within(t, "the visit", func() bool { return f.polls.Load() == 1 })

	short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := g.Quiesce(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Quiesce during a visit = %v, want the context's error", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- g.Quiesce(soon(t)) }()
	close(gate)
	if err := <-ended; err != nil {
		t.Errorf("Quiesce = %v", err)
	}
}

// TestQuiesceIsAGracePeriod: what is unlinked is poisoned after Quiesce, and no
// worker may see the poison: neither one that runs nor one that goes to sleep
// or wakes at that moment.
func TestQuiesceIsAGracePeriod(t *testing.T) {
	type object struct{ poisoned bool }
	var shared atomic.Pointer[object]
	shared.Store(new(object))
	look := func(*Context) bool {
		o := shared.Load()
		for range 20 {
			if o.poisoned { // the race detector checks the same thing
				t.Error("a worker used an object after its grace period")
			}
		}
		return false
	}
	g := startGroup(t, Options{Workers: 3})
	mustAdd(t, g.Workers()[0], &fake{onPoll: look}, Poll)
	sleepers := []*fake{newFake(t), newFake(t)}
	for i, f := range sleepers {
		f.onPoll = look
		mustAdd(t, g.Workers()[1+i], f, Interrupt)
	}
	for i := range 5000 {
		sleepers[i%2].kick.Signal()
		old := shared.Swap(new(object))
		if err := g.Quiesce(soon(t)); err != nil {
			t.Fatal(err)
		}
		old.poisoned = true
	}
}
