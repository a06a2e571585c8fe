package queues

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtqueue/vqtest"
	"vhostnet/worker"
)

// Claim 56: two workers deliver all the time by the queue's way. Once DMA is
// said to have stopped not a byte of the guest's memory changes: neither a
// buffer nor the ring.
func TestClaim56_NothingIsWrittenAfterDMAStopped(t *testing.T) {
	g := workers(t)
	r := newRig(t, Options{Workers: 2, Quiesce: g.Quiesce})
	r.queue0.Store(false) // there is no other way
	for range 5 {
		v := r.newReceiver(vqtest.Options{Features: mergeable, Memory: 1 << 20})
		v.nic.SetMemory(v.Mem)
		id := r.allocate(v.nic)
		f, err := r.SetFilter(id, filterOf(1))
		must(t, err)
		r.CompleteAllocation([]QueueID{id})
		v.post(repeat(250, 3100)...)
		all := v.Driver.At(vqtest.PairGPA, v.opts.Memory)
		before, after := make([]byte, all.Len()), make([]byte, all.Len())

		var stop, stopped atomic.Bool
		var sending sync.WaitGroup
		var late atomic.Uint64
		for i, w := range g.Workers() {
			s := newSource(uint16(i))
			sending.Go(func() {
				for !stop.Load() {
					err := w.Do(context.Background(), func(c *worker.Context) {
						s.toQueue(c, v.nic, id)
					})
					if err != nil {
						t.Error(err)
					}
					if stopped.Load() {
						late.Add(1)
					}
				}
			})
		}
		r.onEvent = func(e Event) {
			if e.Kind == EventDMAStopped {
				all.CopyTo(before, 0)
				stopped.Store(true)
			}
		}
		for v.nic.counters.RxFrames.Value() == 0 {
			runtime.Gosched()
		}
		must(t, r.ClearFilter(id, f))
		must(t, r.FreeQueue(context.Background(), id))
		for late.Load() < 20 {
			runtime.Gosched()
		}
		stop.Store(true)
		sending.Wait()
		all.CopyTo(after, 0)
		for i := range before {
			if before[i] != after[i] {
				t.Fatalf("byte %d of the guest's memory changed after DMA had stopped", i)
			}
		}
	}
	r.queue0.Store(true)
}

// toQueue delivers a batch by a queue's way, whatever becomes of it.
func (s *source) toQueue(c *worker.Context, n *NIC, id QueueID) {
	for i, l := range s.lists {
		s.serial++
		l.FromBytes(numbered(s.bytes[i], s.id, s.seq), s.serial)
		l.QueueID = id
		s.seq++
	}
	if err := sharedmem.Guard(func() error { n.Deliver(c, s.lists); return nil }); err != nil {
		panic(err)
	}
}

// Claim 71: what the ring is and what the queue is are independent, and both
// must allow a frame: the ring started and enabled, and the queue of its way
// Running.
func TestClaim71_RingStatesAndQueueStates(t *testing.T) {
	type ringState struct{ started, enabled bool }
	for _, state := range []State{Undefined, Allocated, Set, Running, Paused} {
		for _, ring := range []ringState{{false, false}, {false, true}, {true, false}, {true, true}} {
			for _, own := range []bool{false, true} {
				name := fmt.Sprintf("queue %s, ring %+v, own way %v", state, ring, own)
				want := metrics.ReasonNone
				switch {
				case !ring.started:
					want = metrics.ReasonStopped
				case !ring.enabled:
					want = metrics.ReasonDisabled
				case own && state != Running && state != Undefined:
					want = metrics.ReasonNotRunning
				}
				if err := tryRing(t, state, ring.started, ring.enabled, own, want); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

func tryRing(t *testing.T, state State, started, enabled, own bool, want metrics.Reason) error {
	t.Helper()
	r := newRig(t, Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.nic.SetMemory(v.Mem)
	v.post(2000)
	id := r.allocate(v.nic)
	if state == Set || state == Running {
		_, err := r.SetFilter(id, filterOf(1))
		must(t, err)
	}
	if state == Running || state == Paused {
		r.CompleteAllocation([]QueueID{id})
	}
	if state == Undefined {
		r.free(id)
	} else {
		defer r.free(id)
	}
	v.nic.EnableRx(0, enabled)
	if !started {
		v.nic.StopRx(0)
	}
	if got := r.state(id); got != state {
		return fmt.Errorf("the queue is %s", got)
	}
	l := hostPacket(t)
	if own {
		l.QueueID = id
	}
	if n := r.deliver(v.nic, []*nbl.List{l}); n != 1 {
		return fmt.Errorf("accepted %d", n)
	}
	drops := v.nic.counters.Drops.Snapshot()
	if delivered := v.nic.counters.RxFrames.Value() == 1; delivered != (want == metrics.ReasonNone) || !delivered && drops[want] != 1 {
		return errors.New("delivered " + fmt.Sprint(delivered) + ", drops " + drops.String() + ", want " + want.String())
	}
	return nil
}
