package worker

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
)

// BenchmarkVisit is what the loop adds to a visit: a task that is busy with
// nothing.
func BenchmarkVisit(b *testing.B) {
	for _, tasks := range []int{1, 16} {
		b.Run(map[int]string{1: "one task", 16: "16 tasks"}[tasks], func(b *testing.B) {
			w := newWorker(0, Options{Batch: 64, Spin: 1}, new(newBell()))
			if err := w.open(); err != nil {
				b.Fatal(err)
			}
			defer w.close()
			for range tasks {
				if err := w.add(new(nothing), Poll, -1); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				w.safePoint()
				w.visit()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*tasks), "ns/visit")
		})
	}
}

type nothing struct{ visits int }

func (n *nothing) Poll(*Context, int) bool { n.visits++; return true }
func (n *nothing) Arm() bool               { return false }
func (n *nothing) FD() int                 { return -1 }

// BenchmarkCall is a call with its note for the watchdog, against the signal
// alone.
func BenchmarkCall(b *testing.B) {
	e, c := newEvent(b), NewTestContext()
	b.Run("signal alone", func(b *testing.B) {
		for b.Loop() {
			e.Signal()
		}
	})
	b.Run("noted", func(b *testing.B) {
		for b.Loop() {
			c.Call(e)
		}
	})
}

// BenchmarkWakeUp is a kick to a sleeping task and its answer, against two
// threads with an eventfd each.
func BenchmarkWakeUp(b *testing.B) {
	b.Run("worker", func(b *testing.B) {
		w := startWorker(b, Options{})
		answer := blockingEvent(b)
		f := newFake(b)
		f.onPoll = func(*Context) bool {
			if f.took.Swap(0) == 0 {
				return false
			}
			signal(b, answer)
			return true
		}
		mustAdd(b, w, f, Interrupt)
		within(b, "sleep", asleep(w))
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		b.ReportAllocs()
		for b.Loop() {
			f.work.Add(1)
			f.kick.Signal()
			await(b, answer)
		}
	})
	b.Run("two threads", func(b *testing.B) {
		ping, pong := blockingEvent(b), blockingEvent(b)
		var stop atomic.Bool
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			runtime.LockOSThread()
			for {
				await(b, ping)
				if stop.Load() {
					return
				}
				signal(b, pong)
			}
		}()
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for b.Loop() {
			signal(b, ping)
			await(b, pong)
		}
		stop.Store(true)
		signal(b, ping)
		<-ended
	})
}

// BenchmarkDo is a command to a sleeping worker and its answer.
func BenchmarkDo(b *testing.B) {
	w := startWorker(b, Options{})
	ctx := soon(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Do(ctx, func(*Context) {}); err != nil {
			b.Fatal(err)
		}
	}
}

func blockingEvent(b *testing.B) int {
	b.Helper()
	fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC, 0)
	if errno != 0 {
		b.Fatal(errno)
	}
	b.Cleanup(func() { _ = syscall.Close(int(fd)) })
	return int(fd)
}

func signal(b *testing.B, fd int) {
	if _, err := syscall.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		b.Error(err)
	}
}

func await(b *testing.B, fd int) {
	var buf [8]byte
	if _, err := syscall.Read(fd, buf[:]); err != nil {
		b.Error(err)
	}
}
