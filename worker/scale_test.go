package worker

import "testing"

// manyTasks are the rings of a host with thousands of ports.
const manyTasks = 2000

// Tasks that sleep cost the loop nothing: not in its rounds, and not when another
// one is woken. Each kick costs its own task two visits, of which the second finds
// nothing, however many there are.
func TestThousandsOfTasksSleep(t *testing.T) {
	w := startWorker(t, Options{})
	sleepers := make([]*fake, manyTasks)
	for i := range sleepers {
		sleepers[i] = newFake(t)
		mustAdd(t, w, sleepers[i], Interrupt)
	}
	visits := func() (n int64) {
		for _, f := range sleepers {
			n += f.polls.Load()
		}
		return n
	}
	within(t, "sleep", asleep(w))
	began, rounds := visits(), w.Stats().Rounds
	if began != manyTasks {
		t.Errorf("%d tasks were visited %d times before they slept, want each once", manyTasks, began)
	}
	const kicks = 200
	for i := range kicks {
		f := sleepers[i*(manyTasks/kicks)]
		f.give()
		within(t, "the work of a sleeper", func() bool { return f.took.Load() == 1 })
		within(t, "sleep", func() bool { return asleep(w)() && f.arms.Load() == 2 })
	}
	if n := visits() - began; n != 2*kicks {
		t.Errorf("%d kicks took %d visits, want %d", kicks, n, 2*kicks)
	}
	// A signal may wake the worker now and then.
	if n := w.Stats().Rounds - rounds; n > 4*kicks {
		t.Errorf("%d kicks took %d rounds", kicks, n)
	}
	busy := &fake{onPoll: func(*Context) bool { return true }}
	mustAdd(t, w, busy, Poll)
	within(t, "visits of a task that is busy", func() bool { return busy.polls.Load() > 10_000 })
	if n := visits() - began; n != 2*kicks {
		t.Errorf("beside a busy task the sleepers were visited %d times", n-2*kicks)
	}
}
