package worker

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestVisitsAreRoundRobinWithABudget(t *testing.T) {
	w := startWorker(t, Options{Batch: 17})
	var order []int
	record := false
	tasks := make([]*fake, 3)
	for i := range tasks {
		tasks[i] = &fake{onPoll: func(*Context) bool {
			if record && len(order) < 300 {
				order = append(order, i)
			}
			return i == 1 // one is always busy, two never
		}}
		mustAdd(t, w, tasks[i], Poll)
	}
	if err := w.Do(soon(t), func(*Context) { record = true }); err != nil {
		t.Fatal(err)
	}
	within(t, "300 visits", func() bool {
		n := 0
		if err := w.Do(soon(t), func(*Context) { n = len(order) }); err != nil {
			t.Fatal(err)
		}
		return n == 300
	})
	for i := 0; i+3 <= len(order); i++ {
		turn := slices.Sorted(slices.Values(order[i : i+3]))
		if !slices.Equal(turn, []int{0, 1, 2}) {
			t.Fatalf("visits %d to %d were of tasks %v, want each once", i, i+2, order[i:i+3])
		}
	}
	for i, f := range tasks {
		if got := f.budget.Load(); got != 17 {
			t.Errorf("task %d got a budget of %d, want 17", i, got)
		}
	}
}

func TestIdleTaskSleepsWithoutWakeUps(t *testing.T) {
	w := startWorker(t, Options{Spin: time.Microsecond})
	f := newFake(t)
	mustAdd(t, w, f, Adaptive)
	within(t, "sleep", asleep(w))
	before, polls := w.Stats(), f.polls.Load()
	time.Sleep(100 * time.Millisecond)
	if after := w.Stats(); after != before {
		t.Errorf("the worker did not sleep on: before %+v, after %+v", before, after)
	}
	if got := f.polls.Load(); got != polls {
		t.Errorf("a sleeping task was visited %d times", got-polls)
	}
	f.give()
	within(t, "the work to be taken", func() bool { return f.took.Load() == 1 })
	within(t, "sleep again", asleep(w))
}

// Nor does the watchdog wake anybody when all sleep. It is there again when one
// wakes, however often that is.
func TestWatchdogRests(t *testing.T) {
	g := startGroup(t, Options{Workers: 2})
	f := newFake(t)
	mustAdd(t, g.workers[1], f, Interrupt)
	for round := range int64(3) {
		ticks := uint64(0)
		// A signal may wake a worker, and so the watchdog: not again and again.
		within(t, "the watchdog to rest", func() bool {
			ticks = g.bell.ticks.Load()
			time.Sleep(5 * watchTick)
			return g.bell.ticks.Load() == ticks
		})
		f.give()
		within(t, "the work to be taken", func() bool { return f.took.Load() == round+1 })
		within(t, "looks", func() bool { return g.bell.ticks.Load() > ticks })
	}
}

func TestModes(t *testing.T) {
	t.Run("interrupt arms at the first visit that finds nothing", func(t *testing.T) {
		w := startWorker(t, Options{Spin: time.Hour})
		f := newFake(t)
		mustAdd(t, w, f, Interrupt)
		within(t, "sleep", asleep(w))
		if p, a := f.polls.Load(), f.arms.Load(); p != 1 || a != 1 {
			t.Errorf("%d polls and %d arms before sleep, want 1 and 1", p, a)
		}
		f.give()
		within(t, "work taken", func() bool { return f.took.Load() == 1 })
		within(t, "sleep", func() bool { return asleep(w)() && f.arms.Load() == 2 })
		if p := f.polls.Load(); p != 3 { // one more with the work, one without
			t.Errorf("%d polls, want 3", p)
		}
	})
	t.Run("poll never arms", func(t *testing.T) {
		w := startWorker(t, Options{Spin: time.Nanosecond})
		f := newFake(t)
		mustAdd(t, w, f, Poll)
		within(t, "visits", func() bool { return f.polls.Load() > 1000 })
		if a, s := f.arms.Load(), w.Stats(); a != 0 || s.Sleeps > 1 {
			t.Errorf("%d arms, %d sleeps; want none after the task came", a, s.Sleeps)
		}
	})
	t.Run("adaptive polls before it arms", func(t *testing.T) {
		w := startWorker(t, Options{Spin: time.Hour})
		f := newFake(t)
		mustAdd(t, w, f, Adaptive)
		within(t, "visits", func() bool { return f.polls.Load() > 1000 })
		if a := f.arms.Load(); a != 0 {
			t.Errorf("%d arms within an hour's spin", a)
		}
	})
	t.Run("no descriptor means poll", func(t *testing.T) {
		w := startWorker(t, Options{})
		f := new(fake)
		mustAdd(t, w, f, Interrupt)
		within(t, "visits", func() bool { return f.polls.Load() > 1000 })
		if a := f.arms.Load(); a != 0 {
			t.Errorf("%d arms of a task without a kick", a)
		}
	})
}

func TestSpinEndsOnTheClockOfTheRounds(t *testing.T) {
	const spin = 1000
	e := &entry{fd: 3, mode: Adaptive, idleSince: -1, arrivals: new(Arrivals)}
	e.arrivals.begin(spin)
	steps := []struct {
		now  int64
		want bool
	}{{5000, false}, {5999, false}, {6000, true}, {9000, true}}
	for _, s := range steps {
		if got := e.idle(s.now); got != s.want {
			t.Errorf("idle at %d = %v, want %v", s.now, got, s.want)
		}
	}
	e.busy(9001) // a busy visit starts over
	if e.idle(9001) {
		t.Error("armed at the first idle visit after a busy one")
	}
}

func TestPinnedWorker(t *testing.T) {
	w := startWorker(t, Options{CPUs: []int{0}})
	var status []byte
	var err error
	if e := w.Do(soon(t), func(*Context) { status, err = os.ReadFile("/proc/thread-self/status") }); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "Cpus_allowed_list:\t0\n") {
		t.Errorf("the worker's thread is not bound to CPU 0:\n%s", status)
	}
}

func TestLoopDoesNotAllocate(t *testing.T) {
	w := newWorker(0, Options{Batch: 64, Spin: 1}, new(newBell()))
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	defer w.close()
	f, busy := newFake(t), &fake{onPoll: func(*Context) bool { return true }}
	for _, task := range []*fake{f, busy} {
		if err := w.add(task, Interrupt, task.FD()); err != nil {
			t.Fatal(err)
		}
	}
	e := newEvent(t)
	round := func() {
		w.safePoint()
		w.visit()
		f.give()
		if err := w.look(); err != nil {
			t.Fatal(err)
		}
		w.ctx.Call(e)
		w.wake.Signal()
		if err := w.sleep(); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(1000, round); n != 0 {
		t.Errorf("%v allocations per round with a visit, a wake-up, a call and a sleep, want 0", n)
	}
	if f.took.Load() == 0 || f.arms.Load() == 0 {
		t.Error("the task was never woken")
	}
}
