package netdev

import (
	"errors"
	"testing"

	"vhostnet/metrics"
	"vhostnet/queues"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// A Map that the queue cannot allocate from is refused, and nobody keeps it:
// the device goes on with the one before.
func TestMemoryRefused(t *testing.T) {
	l := newLab(t)
	p, other := l.pair(), l.pair()
	l.session(p.Mem)
	l.must(l.d.StartRing(0, p.Queue))

	budget, err := sharedmem.NewBudget(sharedmem.DefaultLimits())
	l.must(err)
	refused, err := sharedmem.NewMap(other.Mem.Regions(), sharedmem.MapOptions{Owner: "test", Budget: budget.Port()})
	l.must(err)
	// A ring that is noted in a Map and lies in another makes the allocation fail.
	l.d.nic.SetMemory(refused)
	l.d.nic.NoteRing(3, p.Queue.Areas())
	l.d.nic.SetMemory(p.Mem)
	if err := l.d.Memory(refused); !errors.Is(err, queues.StatusResources) {
		t.Fatalf("Memory = %v, want an error with %v", err, queues.StatusResources)
	}
	l.d.nic.NoteRing(3, nil)
	refused.Unref() // as the session does
	if bytes, _ := budget.Spent(); bytes != 0 {
		t.Errorf("%d bytes of the refused Map are still mapped", bytes)
	}
	l.wantQueue(queues.Running, sharedmem.Receive, p.Mem.Size())
	l.wantQueue(queues.Running, sharedmem.Other, areas(p.Queue))
	l.d.StopRing(0)
	l.must(p.Restart(nil))
	l.must(l.d.StartRing(0, p.Queue)) // in the Map before
	l.wantQueue(queues.Running, sharedmem.Other, areas(p.Queue))
	l.d.Disconnected()
}

// A start that fails leaves the ring to the session and the device as it was,
// whichever step failed.
func TestStartRingFails(t *testing.T) {
	l := newLab(t)
	p, first := l.pair(), l.pair()
	tryStart := func(what string) {
		t.Helper()
		if err := l.d.StartRing(1, p.Queue); err == nil {
			t.Fatalf("%s: the ring started", what)
		}
		if p.Queue.Mem() == nil {
			t.Errorf("%s: the device closed a ring that is not its own", what)
		}
		if l.d.Snapshot().Rings[1].Started {
			t.Errorf("%s: the ring counts as started", what)
		}
	}

	l.session(nil)
	tryStart("no memory")
	l.wantQueue(queues.Allocated, sharedmem.Other, 0)

	l.must(l.d.Memory(p.Mem))
	p.Kick.Close() // its number names nothing that can be waited for
	tryStart("no kick")
	l.wantQueue(queues.Paused, sharedmem.Other, 0)

	l.must(first.Restart(nil))
	l.must(l.d.Memory(first.Mem))
	l.must(l.d.StartRing(0, first.Queue))
	if err := l.d.StartRing(1, p.Queue); err == nil {
		t.Error("the ring started in memory that is not the guest's")
	}
	l.wantQueue(queues.Running, sharedmem.Other, areas(first.Queue))
	l.d.Disconnected()
	l.d.freeing.Wait()
	if q, ok := l.queue(); ok {
		t.Errorf("queue %d is %v after the session", q.ID, q.State)
	}
}

// A queue whose allocation was never completed is freed with its session, too.
func TestQueueOfAFailedStartIsFreed(t *testing.T) {
	l := newLab(t)
	l.session(nil)
	l.must(l.d.setFilters()) // what a start had done when it failed
	l.wantQueue(queues.Set, sharedmem.Receive, 0)
	l.d.Disconnected()
	l.d.freeing.Wait()
	if q, ok := l.queue(); ok {
		t.Errorf("queue %d is %v after the session", q.ID, q.State)
	}
}

// When a ring cannot be replaced it is stopped, and what was made in its place
// is closed.
func TestReplaceRingFails(t *testing.T) {
	errNo := errors.New("no")
	for i, direction := range []string{"receive", "transmit"} {
		t.Run(direction, func(t *testing.T) {
			l := newLab(t)
			p := l.pair()
			l.session(p.Mem)
			start := func() {
				t.Helper()
				l.must(p.Restart(nil))
				l.must(l.d.StartRing(i, p.Queue))
			}
			ended := func(what string) {
				t.Helper()
				s := l.d.Snapshot().Rings[i]
				if s.Started || s.Broken {
					t.Errorf("%s: the ring is %+v", what, s)
				}
				l.wantQueue(queues.Paused, sharedmem.Receive, p.Mem.Size())
				if state := l.d.StopRing(i); state != (virtqueue.State{}) {
					t.Errorf("%s: the ring could be stopped: %+v", what, state)
				}
			}

			calls := 0
			start()
			err := l.d.ReplaceRing(i, func(virtqueue.State) (*virtqueue.Queue, error) { calls++; return nil, errNo })
			if !errors.Is(err, errNo) || p.Queue.Mem() != nil {
				t.Errorf("ReplaceRing = %v, the ring before is given up: %t", err, p.Queue.Mem() == nil)
			}
			ended("refused")

			start()
			l.must(l.d.ReplaceRing(i, func(virtqueue.State) (*virtqueue.Queue, error) { calls++; return nil, nil }))
			ended("parked")

			if err := l.d.ReplaceRing(i, func(virtqueue.State) (*virtqueue.Queue, error) { calls++; return nil, nil }); err == nil {
				t.Error("a ring that is not started could be replaced")
			}
			if calls != 2 {
				t.Errorf("%d Queues were asked for, want 2", calls)
			}
			l.d.Disconnected()
		})
	}
}

// A ring that was replaced goes on where it was, and calls once: what the one
// before was about to signal is not lost.
func TestReplaceRing(t *testing.T) {
	for i, direction := range []string{"receive", "transmit"} {
		t.Run(direction, func(t *testing.T) {
			l := newLab(t)
			p := l.pair()
			l.session(p.Mem)
			l.must(l.d.StartRing(i, p.Queue))
			if n := signals(t, p.Call); n != 1 {
				t.Errorf("the start was followed by %d calls, want one", n)
			}
			for range 3 {
				before := p.Queue
				l.must(l.d.ReplaceRing(i, func(s virtqueue.State) (*virtqueue.Queue, error) {
					err := p.Restart(&s)
					return p.Queue, err
				}))
				if before.Mem() != nil || p.Queue.Mem() == nil {
					t.Error("the ring before is not given up, or the one in its place is")
				}
				if n := signals(t, p.Call); n != 1 {
					t.Errorf("a change was followed by %d calls, want one", n)
				}
				l.wantQueue(queues.Running, sharedmem.Other, areas(p.Queue))
			}
			l.d.Disconnected()
		})
	}
}

// A broken ring that is replaced, or stopped and started, is as new.
func TestBrokenRingIsForgotten(t *testing.T) {
	l := newLab(t)
	p := l.pair()
	l.session(p.Mem)
	setAvail := func(idx uint16) error {
		return sharedmem.Guard(func() error { p.Driver.SetAvailIdx(idx); return nil })
	}
	broken := func() bool { return l.d.Snapshot().Rings[1].Broken }
	l.must(setAvail(100)) // of 16 entries
	l.must(l.d.StartRing(1, p.Queue))
	l.wait("the ring to be found broken", broken)
	l.must(l.d.ReplaceRing(1, func(s virtqueue.State) (*virtqueue.Queue, error) {
		err := setAvail(0)
		return p.Queue, errors.Join(err, p.Restart(&s))
	}))
	if broken() {
		t.Error("a ring that was replaced counts as broken")
	}
	l.must(setAvail(100))
	p.Kick.Signal()
	l.wait("the ring to be found broken again", broken)
	state := l.d.StopRing(1)
	l.must(errors.Join(setAvail(0), p.Restart(&state)))
	l.must(l.d.StartRing(1, p.Queue))
	if broken() {
		t.Error("a ring that was started again counts as broken")
	}
	l.d.Disconnected()
}

// Each ring adds its areas to the queue's memory.
func TestFurtherRings(t *testing.T) {
	l := newLab(t)
	p := l.pair()
	l.session(p.Mem)
	l.d.Negotiated(virtio.Version1 | virtio.NetCtrlVQ | virtio.NetMQ)
	for i := range l.d.Rings() { // all in the same place, which nobody uses
		c, err := p.Config()
		l.must(err)
		c.Index, c.Kick = i, nil
		l.must(sharedmem.Guard(func() error {
			q, err := virtqueue.New(c, p.Mem)
			if err != nil {
				return err
			}
			return l.d.StartRing(i, q)
		}))
		l.wantQueue(queues.Running, sharedmem.Other, uint64(i+1)*areas(p.Queue))
	}
	l.d.Disconnected()
}

// What a ring holds when it is disabled, stopped or replaced is dropped,
// counted and given back before the call returns. A ring that is disabled is
// not written to: its memory may serve another purpose by then.
func TestNothingIsHeldBack(t *testing.T) {
	for reason, end := range map[metrics.Reason]func(d *Device) error{
		metrics.ReasonDisabled: func(d *Device) error { d.EnableRing(1, false); return nil },
		metrics.ReasonStopped:  func(d *Device) error { d.StopRing(1); return nil },
	} {
		t.Run(reason.String(), func(t *testing.T) {
			const frames = 5
			l := newLab(t)
			p := l.pair()
			l.must(sharedmem.Guard(func() error {
				for range frames {
					if _, err := p.Driver.Add(frameTo(neverMAC)); err != nil {
						return err
					}
				}
				p.Driver.Publish()
				return nil
			}))
			l.session(p.Mem)
			l.must(l.d.StartRing(1, p.Queue))
			if n := signals(t, p.Call); n != 1 {
				t.Errorf("%d calls at the start, want one", n)
			}
			l.wait("the frames to wait for their port", func() bool { return l.never.asked.Load() > 2 })
			l.must(end(l.d))
			if n := reaped(t, p.Driver); n != frames {
				t.Errorf("%d of %d chains came back", n, frames)
			}
			drops := l.d.Snapshot().Drops
			if drops[reason] != frames || drops.Total() != frames {
				t.Errorf("drops [%v], want %d as %v", drops, frames, reason)
			}
			if n := signals(t, p.Call); n != 1 {
				t.Errorf("%d calls for what came back, want one", n)
			}
			if reason == metrics.ReasonDisabled {
				want := virtqueue.State{Avail: frames, Used: frames}
				if got := l.d.StopRing(1); got != want {
					t.Errorf("the ring stands at %+v, want %+v", got, want)
				}
			}
			if n := reaped(t, p.Driver) + int(signals(t, p.Call)); n != 0 {
				t.Errorf("a ring that has ended was used %d times", n)
			}
			l.d.Disconnected()
		})
	}
}

// A ring that was remade, and that the worker cannot wait for, is closed.
func TestReplacedRingCannotBePolled(t *testing.T) {
	l := newLab(t)
	p := l.pair()
	l.session(p.Mem)
	l.must(l.d.StartRing(1, p.Queue))
	err := l.d.ReplaceRing(1, func(s virtqueue.State) (*virtqueue.Queue, error) {
		p.Kick.Close() // its number names nothing that can be waited for
		err := p.Restart(&s)
		return p.Queue, err
	})
	if err == nil || p.Queue.Mem() != nil {
		t.Errorf("ReplaceRing = %v, the ring in its place is closed: %t", err, p.Queue.Mem() == nil)
	}
	if l.d.Snapshot().Rings[1].Started || l.d.rings[1].task != nil {
		t.Error("the ring counts as started")
	}
	l.wantQueue(queues.Paused, sharedmem.Receive, p.Mem.Size())
	l.d.Disconnected()
}

// A ring that the worker cannot wait for when it is enabled is broken, and both
// owners are told: a front-end waits for nothing else.
func TestEnabledRingCannotBePolled(t *testing.T) {
	l := newLab(t)
	told := 0
	l.d.o.OnBroken = func(int, error) { told++ }
	p := l.pair()
	l.session(p.Mem)
	l.d.EnableRing(1, false)
	p.Kick.Close()
	l.must(l.d.StartRing(1, p.Queue))
	for range 2 {
		l.d.EnableRing(1, true)
		l.d.EnableRing(1, false)
	}
	if !l.d.Snapshot().Rings[1].Broken || told != 1 {
		t.Errorf("the ring is %+v, its owner was told %d times", l.d.Snapshot().Rings[1], told)
	}
	if n := signals(t, p.Err); n != 1 {
		t.Errorf("err was signalled %d times, want once", n)
	}
	if p.Queue.Mem() == nil {
		t.Error("the ring was closed")
	}
	l.d.Disconnected()
}
