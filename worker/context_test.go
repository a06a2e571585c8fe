package worker

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vhostnet/internal/sys"
)

func TestSlots(t *testing.T) {
	made := 0
	numbers := NewSlot(func() *int { made++; return new(int) })
	names := NewSlot(func() *string { return new(string) })
	a, b := NewTestContext(), NewTestContext()
	*names.Get(a) = "a"
	*numbers.Get(a) = 1
	*numbers.Get(b) = 2
	if *numbers.Get(a) != 1 || *numbers.Get(b) != 2 || *names.Get(a) != "a" || *names.Get(b) != "" {
		t.Error("slots or contexts are mixed up")
	}
	if made != 2 {
		t.Errorf("made %d numbers for 2 contexts", made)
	}
	if n := testing.AllocsPerRun(100, func() { *numbers.Get(a)++ }); n != 0 {
		t.Errorf("Get allocates %v times", n)
	}
}

func TestSlotOnWorkers(t *testing.T) {
	g := startGroup(t, Options{Workers: 2})
	slot := NewSlot(func() *int { return new(int) })
	for _, w := range g.Workers() {
		for range 3 {
			if err := w.Do(soon(t), func(c *Context) { *slot.Get(c) += 1 + c.Worker() }); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, w := range g.Workers() {
		got := 0
		if err := w.Do(soon(t), func(c *Context) { got = *slot.Get(c) }); err != nil {
			t.Fatal(err)
		}
		if want := 3 * (1 + i); got != want {
			t.Errorf("worker %d counted %d, want %d", i, got, want)
		}
	}
}

func TestTestContextClock(t *testing.T) {
	c := NewTestContext()
	if c.Worker() != -1 || c.Now() <= 0 {
		t.Errorf("worker %d, now %d", c.Worker(), c.Now())
	}
	c.SetNow(42)
	if c.Now() != 42 {
		t.Errorf("now %d, want 42", c.Now())
	}
	defer func() {
		if recover() == nil {
			t.Error("the clock of a worker's Context could be set")
		}
	}()
	(&Context{worker: 0}).SetNow(1)
}

func TestCallSignals(t *testing.T) {
	c := NewTestContext()
	if !c.Call(nil) {
		t.Error("a call that the front-end does not want is not a failure")
	}
	e := newEvent(t)
	for range 2 {
		if !c.Call(e) {
			t.Error("Call = false on a live event")
		}
	}
	if got := readCount(t, e.FD()); got != 2 {
		t.Errorf("the event counts %d, want 2", got)
	}
	e.Kill()
	if c.Call(e) {
		t.Error("Call = true on a dead event")
	}
}

func readCount(t testing.TB, fd int) (n uint64) {
	t.Helper()
	b := make([]byte, 8)
	if _, err := syscall.Read(fd, b); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		n |= uint64(b[i]) << (8 * i)
	}
	return n
}

func TestCallMark(t *testing.T) {
	var n callNote
	var m callMark
	a, b := newEvent(t), newEvent(t)
	look := func(want *sys.Event, wantFirst bool) {
		t.Helper()
		if e, first := m.look(&n); e != want || first != wantFirst {
			t.Fatalf("look = %p, %v; want %p, %v", e, first, want, wantFirst)
		}
	}
	looks := func(count int) {
		t.Helper()
		for range count {
			look(nil, false)
		}
	}
	looks(2 * stuckTicks) // in no call at all
	n.enter(a)
	looks(stuckTicks - 1)
	look(a, true)
	look(a, false) // once is reported, every time is killed
	n.leave()
	looks(stuckTicks)
	n.enter(a) // the same event again is another call
	looks(stuckTicks - 1)
	n.leave()
	n.enter(b)
	looks(stuckTicks - 1)
	look(b, true)
	for range 3 * stuckTicks { // calls that pass are never reported
		n.leave()
		n.enter(a)
		look(nil, false)
	}
}

// TestV76_WatchdogFreesABlockedCall plays the front-end that clears O_NONBLOCK
// and fills the eventfd between the worker's look and its write.
func TestV76_WatchdogFreesABlockedCall(t *testing.T) {
	t.Run("at once", func(t *testing.T) { blockedCall(t, false) })
	t.Run("after a rest", func(t *testing.T) { blockedCall(t, true) })
}

func blockedCall(t *testing.T, rested bool) {
	stuck := make(chan *sys.Event, 1)
	w := startWorker(t, Options{OnStuck: func(e *sys.Event) { stuck <- e }})
	neighbour := newFake(t)
	mustAdd(t, w, neighbour, Interrupt)
	if rested {
		within(t, "the watchdog to rest", w.bell.resting.Load)
	}

	fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC, 0) // blocking
	if errno != 0 {
		t.Fatal(errno)
	}
	e := eventFrom(t, int(fd))
	caller := &fake{}
	var calls, dead atomic.Int64
	caller.onPoll = func(c *Context) bool {
		if dead.Load() == 0 && !c.Call(e) {
			dead.Add(1)
		}
		calls.Add(1)
		return true
	}
	mustAdd(t, w, caller, Poll)
	release := attack(t, int(fd), &calls, &dead)

	select {
	case got := <-stuck:
		if got != e {
			t.Errorf("OnStuck was told %p, want %p", got, e)
		}
	case <-time.After(patience):
		t.Fatal("the watchdog saw nothing")
	}
	within(t, "the call to fail", func() bool { return dead.Load() == 1 })
	// The worker is back: the neighbour is served, the event stays dead.
	neighbour.give()
	within(t, "the neighbour's work", func() bool { return neighbour.took.Load() == 1 })
	if e.Signal() {
		t.Error("a killed event could be signalled")
	}
	release()
	select {
	case <-stuck:
		t.Error("OnStuck was told twice for one call")
	default:
	}
}

// attack fills the eventfd whenever it is empty and empties it as long as the
// worker makes progress, so that the worker's write ends up waiting for ever.
func attack(t *testing.T, fd int, calls, dead *atomic.Int64) (release func()) {
	t.Helper()
	var stop atomic.Bool
	var filler, drainer sync.WaitGroup
	filler.Go(func() {
		full := []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		for !stop.Load() && dead.Load() == 0 {
			_, _ = syscall.Write(fd, full) // waits until the counter is 0
		}
	})
	drainer.Go(func() {
		buf := make([]byte, 8)
		seen, since := int64(-1), time.Now()
		for !stop.Load() && dead.Load() == 0 {
			if n := calls.Load(); n != seen {
				seen, since = n, time.Now()
			}
			if time.Since(since) > 10*time.Millisecond {
				runtime.Gosched()
				continue // it waits: leave it so
			}
			if readable(fd) {
				_, _ = syscall.Read(fd, buf)
			}
		}
	})
	return func() {
		stop.Store(true)
		drainer.Wait()
		// The filler may wait in its write: empty the counter until it is out.
		out := make(chan struct{})
		go func() { filler.Wait(); close(out) }()
		buf := make([]byte, 8)
		for {
			select {
			case <-out:
				return
			default:
			}
			if readable(fd) {
				_, _ = syscall.Read(fd, buf)
			}
		}
	}
}

// readable asks without waiting whether fd can be read.
func readable(fd int) bool {
	var set syscall.FdSet
	set.Bits[fd/64] |= 1 << (fd % 64)
	n, err := syscall.Select(fd+1, &set, nil, nil, &syscall.Timeval{})
	return err == nil && n == 1
}

// TestFaultIsAPanicOnAWorker: guest memory whose file was cut off is a panic
// that the task recovers, not the end of the process.
func TestFaultIsAPanicOnAWorker(t *testing.T) {
	w := startWorker(t, Options{})
	mem := cutMemory(t)
	var recovered any
	err := w.Do(soon(t), func(*Context) {
		defer func() { recovered = recover() }()
		mem[0]++
	})
	if err != nil {
		t.Fatal(err)
	}
	if fault, ok := recovered.(interface{ Addr() uintptr }); !ok {
		t.Errorf("recovered %v, want a memory fault with its address", recovered)
	} else if fault.Addr() == 0 {
		t.Error("the fault has no address")
	}
}

// cutMemory maps a page of a file that has become empty.
func cutMemory(t *testing.T) []byte {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "mem")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	page := os.Getpagesize()
	if err := file.Truncate(int64(page)); err != nil {
		t.Fatal(err)
	}
	mem, err := syscall.Mmap(int(file.Fd()), 0, page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(mem) })
	if err := file.Truncate(0); err != nil {
		t.Fatal(err)
	}
	return mem
}
