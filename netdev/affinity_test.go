package netdev_test

import (
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"

	"vhostnet/netdev"
	"vhostnet/queues"
	"vhostnet/vhostuser/vutest"
)

// Claim 61: a queue moves between workers under load, again and again; no frame
// is lost, doubled or overtaken.
func TestClaim61_MoveUnderLoad(t *testing.T) {
	r := newRig(t, 3, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	exchange(t, b, a, 0, frame(macA, macB, 60, 0))
	control := r.adapter.Bind("control")
	id := r.queueOf("a")

	carryWhile(t, r, a, b, 6000, func(n int) error {
		return control.SetQueueParameters(id, queues.QueueChange{Flags: queues.AffinityChanged, Affinity: 1 << (n % 3)})
	})
	for i := range 3 {
		r.must(control.SetQueueParameters(id, queues.QueueChange{Flags: queues.AffinityChanged, Affinity: 1 << i}))
		for w, worker := range r.group.Workers() {
			polls := worker.Stats().Tasks
			if want := map[bool]bool{true: true}[w == i]; want && polls == 0 {
				t.Errorf("moved to worker %d, which polls nothing", i)
			}
		}
	}
	r.must(control.Close(context.Background()))
}

// queueOf is the queue of a port.
func (r *rig) queueOf(port string) queues.QueueID {
	r.t.Helper()
	for _, q := range r.adapter.EnumQueues() {
		if q.VMName == port {
			return q.ID
		}
	}
	r.t.Fatalf("port %s has no queue", port)
	return 0
}

// Moves meet everything that a session does to its rings.
func TestMoveMeetsTheSession(t *testing.T) {
	r := newRig(t, 2, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	b := r.connect("b", vutest.Options{})
	var stop atomic.Bool
	done := make(chan struct{})
	p := r.devices["a"].QueueParameters().Placement
	go func() {
		defer close(done)
		for i := 0; !stop.Load(); i++ {
			if err := p.Move(i % 2); err != nil || p.Worker() != i%2 {
				t.Errorf("moved to %d: %v, on %d", i%2, err, p.Worker())
			}
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range 5 {
		a := r.connect("a", vutest.Options{Pairs: 2})
		pingPong(t, a, b)
		r.must(a.Enable(ctx, 0, false))
		r.must(a.Enable(ctx, 0, true))
		pingPong(t, a, b)
		r.must(a.Stop(ctx))
		r.start(a)
		pingPong(t, a, b)
		plugged, err := a.AddMemory(ctx, 2<<20)
		r.must(err)
		pingPong(t, a, b)
		r.must(a.RemoveMemory(ctx, plugged))
		a.Disconnect()
	}
	stop.Store(true)
	<-done
	for _, worker := range []int{-1, 2} {
		if err := p.Move(worker); err == nil {
			t.Errorf("moved to worker %d of 2", worker)
		}
	}
}

// On a manual port the queue is the control API's: the session starts and stops
// rings, and the queue's states are what the API asked for.
func TestManualQueue(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA, Queue: netdev.QueueManual}, netdev.Options{Name: "b", MAC: macB})
	control := r.adapter.Bind("control")
	d := r.devices["a"]
	id, err := control.AllocateQueue(d.QueueParameters())
	r.must(err)
	if s := control.CompleteAllocation([]queues.QueueID{id, 99}); s[0] != queues.StatusResources || s[1] != queues.StatusInvalidParameter {
		t.Errorf("completed without a VM: %v", s)
	}
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	pingPong(t, a, b) // by queue 0's way
	f, err := control.SetFilter(id, queues.Filter{MAC: macA})
	r.must(err)
	if s := control.CompleteAllocation([]queues.QueueID{id, 99}); s[0] != queues.StatusSuccess || s[1] != queues.StatusInvalidParameter {
		t.Errorf("completed: %v", s)
	}
	r.wantAccounts(id, a, 2)
	pingPong(t, a, b)
	want := []string{"1:Allocated", "1:Set", "1:Running"}
	r.wantIndicated("a", want...)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r.must(a.Stop(ctx))
	r.start(a)
	pingPong(t, a, b)
	a.Disconnect()
	r.waitFor("the queue's memory to go with the VM", func() bool { return len(r.adapter.EnumQueues()[1].Accounts) == 0 })
	r.wantIndicated("a", want...)
	a = r.connect("a", vutest.Options{})
	r.wantAccounts(id, a, 2)
	pingPong(t, a, b)

	r.must(control.ClearFilter(id, f))
	if err := control.FreeQueue(ctx, id); err != nil {
		t.Error(err)
	}
	r.wantIndicated("a", append(want, "1:Paused", "1:StopDMA", "1:DMAStopped", "1:Undefined")...)
	pingPong(t, a, b)
	if err := control.FreeQueue(ctx, id); !errors.Is(err, queues.StatusInvalidParameter) {
		t.Errorf("freed twice: %v", err)
	}
}

// On an auto port others add filters of their own, which go with the queue.
func TestOthersFiltersOnASessionsQueue(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	control := r.adapter.Bind("control")
	id := r.queueOf("a")
	_, err := control.SetFilter(id, queues.Filter{MAC: macC})
	r.must(err)
	exchange(t, b, a, 0, frame(macC, macB, 60, 1), frame(macA, macB, 60, 2))
	if err := control.FreeQueue(context.Background(), id); !errors.Is(err, queues.StatusInvalidParameter) {
		t.Errorf("the session's queue freed by another: %v", err)
	}
	a.Disconnect()
	r.waitFor("the queue to be freed", func() bool { return len(r.adapter.EnumQueues()) == 2 })
}

// carryWhile sends frames from a to b, of which each has to come and none to
// overtake another, while change is called again and again, with 0, 1, 2 and so on.
func carryWhile(t *testing.T, r *rig, a, b *vutest.FrontEnd, frames int, change func(n int) error) {
	t.Helper()
	var stop atomic.Bool
	changed := make(chan int, 1)
	go func() {
		n := 0
		for ; !stop.Load(); n++ {
			if err := change(n); err != nil {
				t.Error(err)
				break
			}
		}
		changed <- n
	}()
	const batch = 20
	for n := 0; n < frames && !t.Failed(); n += batch {
		var list []vutest.Frame
		for i := range batch {
			list = append(list, frame(macB, macA, 60+(n+i)%1400, uint32(n+i)))
		}
		r.must(a.Send(0, list...))
		for i := range batch {
			got, err := b.Recv(0, patience)
			r.must(err)
			if number := binary.BigEndian.Uint32(got.Data[14:]); number != uint32(n+i) {
				t.Fatalf("frame %d came in the place of %d", number, n+i)
			}
		}
		r.must(a.WaitSent(0))
	}
	stop.Store(true)
	if n := <-changed; n < 10 {
		t.Errorf("it changed %d times only", n)
	}
	if got := r.devices["b"].Snapshot().RxFrames; got != uint64(frames) || r.drops() != 0 {
		t.Errorf("%d frames arrived of %d; %s", got, frames, r.counters())
	}
}
