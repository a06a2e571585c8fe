package worker

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/internal/sys"
)

// patience bounds every wait; it is far beyond what a loaded machine needs.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	// A Group and a timer before the count, so that what the runtime keeps for
	// good (idle threads, its own poller) is there.
	before := counts{}
	time.Sleep(time.Millisecond)
	if err := runOnce(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	before.take()
	code := m.Run()
	if err := before.settle(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runOnce() error {
	g, err := NewGroup(Options{Workers: 2})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return g.Run(ctx)
}

// counts is what a process must not gather more and more of.
type counts struct{ goroutines, fds, threads int }

func (c *counts) take() {
	c.goroutines = runtime.NumGoroutine()
	c.fds = entries("/proc/self/fd")
	c.threads = entries("/proc/self/task")
}

// spareThreads is how many threads more than before the runtime may keep
// parked for its own system calls after many tests.
const spareThreads = 8

// settle waits until no more is there than c counted.
func (c *counts) settle() error {
	var now counts
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		now.take()
		if now.goroutines <= c.goroutines && now.fds <= c.fds && now.threads <= c.threads+spareThreads {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("leak: before %+v, now %+v", *c, now)
		}
	}
}

func entries(dir string) int {
	e, err := os.ReadDir(dir)
	if err != nil {
		panic(err)
	}
	return len(e)
}

// within waits for cond, or fails the test.
func within(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for: %s", what)
		}
	}
}

func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// startGroup runs a Group until the test ends, when it must stop without error.
func startGroup(t testing.TB, o Options) *Group {
	t.Helper()
	g, err := NewGroup(o)
	if err != nil {
		t.Fatal(err)
	}
	stop := runGroup(t, g)
	t.Cleanup(stop)
	return g
}

// runGroup runs g; stop ends it and waits.
func runGroup(t testing.TB, g *Group) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run = %v, want nil", err)
			}
		case <-time.After(patience):
			t.Error("Run did not return after its context had ended")
		}
	}
}

func startWorker(t testing.TB, o Options) *Worker {
	t.Helper()
	o.Workers = 1
	return startGroup(t, o).Workers()[0]
}

func newEvent(t testing.TB) *sys.Event {
	t.Helper()
	e, err := sys.NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// fake is a Task that counts. work is what Poll finds: it takes all of it.
type fake struct {
	kick  *sys.Event
	work  atomic.Int64
	armed atomic.Bool // the kicks of an honest peer are on

	polls, took, arms, budget atomic.Int64

	onPoll func(c *Context) (busy bool) // after the counting; nil: busy if work was there
	onArm  func() (more bool)           // nil: more if there is work
}

func (f *fake) Poll(c *Context, budget int) bool {
	f.polls.Add(1)
	f.budget.Store(int64(budget))
	n := f.work.Swap(0)
	if n != 0 {
		f.armed.Store(false)
		f.took.Add(n)
	}
	if f.onPoll != nil {
		return f.onPoll(c)
	}
	return n != 0
}

func (f *fake) Arm() bool {
	f.arms.Add(1)
	f.kick.Drain()
	if f.onArm != nil {
		return f.onArm()
	}
	f.armed.Store(true)
	return f.work.Load() != 0
}

func (f *fake) FD() int { return f.kick.FD() }

// give is the peer: work, then a kick if one is asked for.
func (f *fake) give() {
	f.work.Add(1)
	if f.armed.Load() {
		f.kick.Signal()
	}
}

func newFake(t testing.TB) *fake { return &fake{kick: newEvent(t)} }

func mustAdd(t testing.TB, w *Worker, task Task, m Mode) {
	t.Helper()
	if err := w.Add(soon(t), task, m); err != nil {
		t.Fatal(err)
	}
}

func asleep(w *Worker) func() bool { return func() bool { return w.Stats().Asleep } }
