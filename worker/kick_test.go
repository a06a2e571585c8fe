package worker

import (
	"fmt"
	"strconv"
	"syscall"
	"testing"
	"time"

	"vhostnet/internal/sys"
)

func TestKickBetweenArmAndSleepIsNotLost(t *testing.T) {
	w := startWorker(t, Options{})
	f := newFake(t)
	f.onArm = func() bool {
		if f.arms.Load() <= 1000 {
			f.work.Add(1) // comes after Arm's last look, so there is a kick
			f.kick.Signal()
		}
		return false
	}
	mustAdd(t, w, f, Interrupt)
	within(t, "1000 pieces of work", func() bool { return f.took.Load() == 1000 })
}

func TestMoreWorkAtArmMeansAnotherPoll(t *testing.T) {
	w := startWorker(t, Options{})
	f := newFake(t)
	f.onArm = func() bool {
		if f.arms.Load() > 1000 {
			return false
		}
		f.work.Add(1) // no kick: Arm saw it itself
		return true
	}
	mustAdd(t, w, f, Interrupt)
	within(t, "sleep", asleep(w))
	if got := f.took.Load(); got != 1000 {
		t.Errorf("took %d, want 1000", got)
	}
}

// TestV75_NoLostWakeUp: the peer kicks only when asked, as a ring with
// suppression does, and waits for each piece to be taken.
func TestV75_NoLostWakeUp(t *testing.T) {
	const cycles = 100_000
	w := startWorker(t, Options{})
	f := newFake(t)
	mustAdd(t, w, f, Interrupt)
	slept := w.Stats().Sleeps
	for i := range int64(cycles) {
		if i%4 == 0 { // also hit the way into sleep, not only sleep itself
			within(t, "sleep", asleep(w))
		}
		f.give()
		within(t, fmt.Sprintf("piece %d", i), func() bool { return f.took.Load() > i })
	}
	t.Logf("%d pieces, %d sleeps", cycles, w.Stats().Sleeps-slept)
	if got := w.Stats().Sleeps - slept; got < cycles/4 {
		t.Errorf("%d sleeps, want at least %d", got, cycles/4)
	}
}

func TestSleepingTasksAreWokenPastActiveOnes(t *testing.T) {
	for _, busy := range []bool{true, false} {
		t.Run("neighbour busy "+strconv.FormatBool(busy), func(t *testing.T) {
			w := startWorker(t, Options{})
			mustAdd(t, w, &fake{onPoll: func(*Context) bool { return busy }}, Poll)
			sleepers := make([]*fake, 100)
			for i := range sleepers {
				sleepers[i] = newFake(t)
				mustAdd(t, w, sleepers[i], Interrupt)
			}
			for i, f := range sleepers {
				within(t, "arming", func() bool { return f.armed.Load() })
				before := sleepers[0].polls.Load()
				f.give()
				within(t, "the work of a sleeper", func() bool { return f.took.Load() == 1 })
				if i > 0 && sleepers[0].polls.Load() != before {
					t.Fatal("a sleeper was visited for another's kick")
				}
				within(t, "sleep", func() bool { return f.armed.Load() })
			}
		})
	}
}

// TestV76_KickThatIsAlwaysReadable: no kick descriptor can keep a worker awake
// by being readable, only by being written.
func TestV76_KickThatIsAlwaysReadable(t *testing.T) {
	cases := map[string]func(t *testing.T) *sys.Event{
		"semaphore with a huge count": func(t *testing.T) *sys.Event {
			const semaphore = 1
			fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, semaphore, 0)
			if errno != 0 {
				t.Fatal(errno)
			}
			writeCount(t, int(fd), 1<<63)
			return eventFrom(t, int(fd))
		},
		"pipe without a writer": func(t *testing.T) *sys.Event {
			var p [2]int
			if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			e := eventFrom(t, p[0])
			if err := syscall.Close(p[1]); err != nil {
				t.Fatal(err)
			}
			return e
		},
	}
	for name, kick := range cases {
		t.Run(name, func(t *testing.T) {
			w := startWorker(t, Options{Spin: time.Microsecond})
			f := &fake{kick: kick(t)}
			mustAdd(t, w, f, Adaptive)
			// The descriptor is readable when it is added: one wake-up.
			within(t, "sleep", func() bool { return asleep(w)() && f.arms.Load() >= 1 })
			rest(t, w)
		})
	}
}

// rest checks that w comes to rest: of ten looks, two in a row see no round.
func rest(t *testing.T, w *Worker) {
	t.Helper()
	for range 10 {
		before := w.Stats()
		time.Sleep(20 * time.Millisecond)
		if w.Stats() == before {
			return
		}
	}
	t.Error("the worker does not come to rest")
}

func TestPipeKicks(t *testing.T) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(p[1]) }()
	w := startWorker(t, Options{})
	f := &fake{kick: eventFrom(t, p[0])}
	mustAdd(t, w, f, Interrupt)
	// More kicks than a pipe holds: they get through because Arm drains it.
	for i := range int64(20_000) {
		f.work.Add(1)
		if _, err := syscall.Write(p[1], make([]byte, 8)); err != nil {
			t.Fatalf("kick %d: %v", i, err)
		}
		within(t, "the work", func() bool { return f.took.Load() > i })
		within(t, "sleep", asleep(w))
	}
}

func eventFrom(t testing.TB, fd int) *sys.Event {
	t.Helper()
	e, err := sys.EventFrom(sys.OwnFD(fd))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func writeCount(t testing.TB, fd int, n uint64) {
	t.Helper()
	b := make([]byte, 8)
	for i := range b {
		b[i] = byte(n >> (8 * i))
	}
	if _, err := syscall.Write(fd, b); err != nil {
		t.Fatal(err)
	}
}
