package worker

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestNewGroupRefuses(t *testing.T) {
	cases := []struct {
		o    Options
		want string // part of the error
	}{
		{Options{Workers: -1}, "-1 workers"},
		{Options{Workers: maxWorkers + 1}, "1025 workers"},
		{Options{Workers: 2, CPUs: []int{0}}, "1 CPUs are named for 2 workers"},
		{Options{CPUs: []int{0, -2}}, "CPU -2"},
		{Options{CPUs: []int{3, 3}}, "CPU 3 is named for two"},
		{Options{Spin: -1}, "spin of -1ns"},
		{Options{Spin: 2 * time.Hour}, "spin of 2h0m0s"},
		{Options{Batch: -4}, "batch of -4"},
	}
	for _, c := range cases {
		if _, err := NewGroup(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("NewGroup(%+v) = %v, want an error with %q", c.o, err, c.want)
		}
	}
}

func TestNewGroupDefaults(t *testing.T) {
	g, err := NewGroup(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(g.Workers()), max(1, runtime.NumCPU()/2); got != want {
		t.Errorf("%d workers, want %d", got, want)
	}
	g, err = NewGroup(Options{CPUs: []int{4, 2, 0}})
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range g.Workers() {
		if w.Index() != i || w.cpu != 4-2*i || w.batch != defaultBatch || w.spin != int64(defaultSpin) {
			t.Errorf("worker %d is %d on CPU %d with batch %d and spin %d", i, w.Index(), w.cpu, w.batch, w.spin)
		}
	}
}

func TestAddAndRemoveRefuse(t *testing.T) {
	w := startWorker(t, Options{})
	f := newFake(t)
	mustAdd(t, w, f, Interrupt)
	file, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	cases := []struct {
		name string
		err  error
		want string
	}{
		{"nil", w.Add(soon(t), nil, Poll), "cannot be told"},
		{"a value that cannot be compared", w.Add(soon(t), incomparable{}, Poll), "cannot be told"},
		{"an unknown mode", w.Add(soon(t), newFake(t), numModes), "mode 3 is unknown"},
		{"a second time", w.Add(soon(t), f, Interrupt), errKnown.Error()},
		{"another task's descriptor", w.Add(soon(t), &fake{kick: f.kick}, Interrupt), "cannot be waited for"},
		{"a file", w.Add(soon(t), fdTask{fd: int(file.Fd())}, Adaptive), "cannot be waited for"},
		{"remove of a stranger", w.Remove(soon(t), newFake(t)), errUnknown.Error()},
	}
	for _, c := range cases {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.name, c.err, c.want)
		}
	}
	if n := w.Stats().Tasks; n != 1 {
		t.Errorf("%d tasks after refusals, want 1", n)
	}
}

type fdTask struct{ fd int }

func (fdTask) Poll(*Context, int) bool { return false }
func (fdTask) Arm() bool               { return false }
func (f fdTask) FD() int               { return f.fd }

type incomparable struct{ _ []int }

func (incomparable) Poll(*Context, int) bool { return false }
func (incomparable) Arm() bool               { return false }
func (incomparable) FD() int                 { return -1 }

func TestRemovedTaskIsNotTouched(t *testing.T) {
	for _, sleeping := range []bool{false, true} {
		w := startWorker(t, Options{})
		mustAdd(t, w, new(fake), Poll) // keeps the worker in rounds
		for range 200 {
			f := newFake(t)
			mode := Adaptive
			if sleeping {
				mode = Interrupt
			}
			mustAdd(t, w, f, mode)
			within(t, "a visit", func() bool { return f.polls.Load() > 0 && (!sleeping || f.armed.Load()) })
			if err := w.Remove(soon(t), f); err != nil {
				t.Fatal(err)
			}
			polls, arms := f.polls.Load(), f.arms.Load()
			f.kick.Signal()
			rounds := w.Stats().Rounds
			within(t, "more rounds", func() bool { return w.Stats().Rounds > rounds+10 })
			if f.polls.Load() != polls || f.arms.Load() != arms {
				t.Fatal("the worker touched a removed task")
			}
			f.kick.Close()
		}
		if n := w.Stats().Tasks; n != 1 {
			t.Errorf("%d tasks left, want 1", n)
		}
		if n := len(w.tasks); n != 1 {
			t.Errorf("%d entries left, want 1", n)
		}
	}
}

func TestRemoveAfterTheDescriptorWasClosed(t *testing.T) {
	w := startWorker(t, Options{})
	f := newFake(t)
	mustAdd(t, w, f, Interrupt)
	f.kick.Close()
	err := w.Remove(soon(t), f)
	if err == nil || !strings.Contains(err.Error(), "was closed before") {
		t.Errorf("Remove = %v, want an error that says so", err)
	}
	if err := w.Remove(soon(t), f); !errors.Is(err, errUnknown) {
		t.Errorf("a second Remove = %v, want %v: the first has removed", err, errUnknown)
	}
}

func TestDoRunsBetweenVisitsInOrder(t *testing.T) {
	w := startWorker(t, Options{})
	inVisit := false
	mustAdd(t, w, &fake{onPoll: func(*Context) bool {
		inVisit = true
		runtime.Gosched()
		inVisit = false
		return true
	}}, Poll)
	const senders, each = 4, 500
	last := make([]int, senders)
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				err := w.Do(soon(t), func(c *Context) {
					if inVisit {
						t.Error("a function ran inside a visit")
					}
					if c.Worker() != 0 || c.Now() <= 0 {
						t.Errorf("worker %d, now %d", c.Worker(), c.Now())
					}
					if last[s] != i {
						t.Errorf("sender %d: function %d ran after %d others", s, i, last[s])
					}
					last[s]++
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestMailboxOrderAndClose(t *testing.T) {
	var m mailbox
	cmds := make([]*command, 5)
	for i := range cmds {
		cmds[i] = &command{}
		if !m.push(cmds[i]) || !m.pending() {
			t.Fatal("push")
		}
	}
	c := m.take()
	for i := range cmds {
		if c != cmds[i] {
			t.Fatalf("command %d is out of order", i)
		}
		c = c.next
	}
	if c != nil || m.pending() {
		t.Error("more than was pushed")
	}
	m.push(cmds[0])
	if m.close() != cmds[0] || m.close() != nil || m.push(cmds[1]) {
		t.Error("a closed mailbox holds or takes commands")
	}
}

// TestDoToASleeperIsNotLost sends commands just when the worker goes to sleep.
func TestDoToASleeperIsNotLost(t *testing.T) {
	w := startWorker(t, Options{})
	ran := 0
	for i := range 20_000 {
		if i%2 == 0 {
			within(t, "sleep", asleep(w))
		}
		if err := w.Do(soon(t), func(*Context) { ran++ }); err != nil {
			t.Fatalf("command %d: %v", i, err)
		}
	}
	if ran != 20_000 {
		t.Errorf("%d of 20000 functions ran", ran)
	}
}

func TestCommandsEndWithTheirContext(t *testing.T) {
	g, err := NewGroup(Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	w := g.Workers()[0]
	ended, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	var ran atomic.Int64
	if err := w.Do(ended, func(*Context) { ran.Add(1) }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Do before Run = %v, want the context's error", err)
	}
	if err := w.Add(ended, newFake(t), Poll); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Add with an ended context = %v, want its error", err)
	}

	stop := runGroup(t, g)
	if err := w.Do(soon(t), func(*Context) {}); err != nil {
		t.Fatal(err)
	}
	if n, tasks := ran.Load(), w.Stats().Tasks; n != 0 || tasks != 0 {
		t.Errorf("given-up commands ran: %d functions, %d tasks", n, tasks)
	}

	// A worker that is held in a visit: commands can be given up.
	gate := make(chan struct{})
	f := &fake{onPoll: func(*Context) bool { <-gate; return false }}
	mustAdd(t, w, f, Poll)
	within(t, "the visit", func() bool { return f.polls.Load() == 1 })
	short, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := w.Remove(short, f); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Remove from a held worker = %v, want the context's error", err)
	}
	close(gate)
	if err := w.Remove(soon(t), f); err != nil {
		t.Errorf("Remove again = %v", err)
	}
	stop()
}

func TestStoppedGroup(t *testing.T) {
	g, err := NewGroup(Options{Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	stop := runGroup(t, g)
	w, f := g.Workers()[1], newFake(t)
	mustAdd(t, w, f, Interrupt)
	within(t, "sleep", asleep(w))
	stop()
	for name, err := range map[string]error{
		"Add":    w.Add(context.Background(), newFake(t), Poll),
		"Remove": w.Remove(context.Background(), f),
		"Do":     w.Do(context.Background(), func(*Context) { t.Error("ran") }),
	} {
		if !errors.Is(err, ErrStopped) {
			t.Errorf("%s on a stopped worker = %v, want ErrStopped", name, err)
		}
	}
	if err := g.Quiesce(context.Background()); err != nil {
		t.Errorf("Quiesce = %v: who has stopped holds nothing", err)
	}
	if err := g.Run(context.Background()); err == nil {
		t.Error("a Group ran twice")
	}
}

func TestStopAnswersWhatIsWaiting(t *testing.T) {
	for range 50 {
		g, err := NewGroup(Options{Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		stop := runGroup(t, g)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					ran := false
					err := g.Workers()[0].Do(soon(t), func(*Context) { ran = true })
					if err == nil && ran {
						continue
					}
					if !errors.Is(err, ErrStopped) || ran {
						t.Errorf("Do = %v, ran %v", err, ran)
					}
					return
				}
			})
		}
		stop()
		wg.Wait()
	}
}

func TestRunFailsWhenAWorkerCannotBePinned(t *testing.T) {
	g, err := NewGroup(Options{CPUs: []int{0, 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(soon(t)); err == nil || !strings.Contains(err.Error(), "CPU 1048576") {
		t.Errorf("Run = %v, want an error that names the CPU", err)
	}
	for _, w := range g.Workers() {
		if err := w.Do(context.Background(), func(*Context) {}); !errors.Is(err, ErrStopped) {
			t.Errorf("Do = %v, want ErrStopped", err)
		}
	}
}

func TestPickSpreads(t *testing.T) {
	g := startGroup(t, Options{Workers: 3})
	for range 9 {
		mustAdd(t, g.Pick(), newFake(t), Interrupt)
	}
	var last *fake
	for _, w := range g.Workers() {
		if n := w.Stats().Tasks; n != 3 {
			t.Errorf("worker %d has %d tasks, want 3", w.Index(), n)
		}
	}
	last = newFake(t)
	w := g.Pick()
	mustAdd(t, w, last, Interrupt)
	for range 3 {
		if g.Pick() == w {
			t.Error("picked the worker with the most tasks")
		}
	}
}

func TestLifecycleLeavesNothing(t *testing.T) {
	var before counts
	before.take()
	for range 30 {
		g, err := NewGroup(Options{Workers: 3})
		if err != nil {
			t.Fatal(err)
		}
		stop := runGroup(t, g)
		mustAdd(t, g.Workers()[0], newFake(t), Interrupt)
		mustAdd(t, g.Workers()[1], new(fake), Poll)
		stop()
	}
	before.fds += 30 // the kicks, which t.Cleanup closes
	if err := before.settle(); err != nil {
		t.Error(err)
	}
}

func TestRaiseProcs(t *testing.T) {
	old := runtime.GOMAXPROCS(0)
	restore := RaiseProcs(3)
	if got := runtime.GOMAXPROCS(0); got != old+3 {
		t.Errorf("GOMAXPROCS = %d, want %d", got, old+3)
	}
	restore()
	if got := runtime.GOMAXPROCS(0); got != old {
		t.Errorf("GOMAXPROCS = %d after restore, want %d", got, old)
	}
}
