package queues

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// freeRig is an Adapter with a completed queue, and how it is to be found.
func freeRig(t *testing.T) (r *rig, n *NIC, id QueueID) {
	t.Helper()
	r = newRig(t, Options{})
	n = r.newNIC("web", 1)
	n.SetMemory(newMap(t, 1<<16))
	id = r.allocate(n)
	if s := r.CompleteAllocation([]QueueID{id})[0]; s != StatusSuccess {
		t.Fatal(s)
	}
	r.told()
	return r, n, id
}

const allocated = "receive 1*65536, xmit 1*65536"

// FREE_QUEUE waits for the workers. Until they have left, the queue has its
// memory and its id.
func TestFreeWaitsForWorkers(t *testing.T) {
	r, n, id := freeRig(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	r.quiesce = func(context.Context) error {
		close(entered)
		<-leave
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- r.FreeQueue(context.Background(), id) }()
	<-entered
	if n.queue.Load() != nil {
		t.Error("deliveries that begin now still find the queue")
	}
	if got := r.state(id).String() + " " + r.accounts(id); got != "StopDMA "+allocated {
		t.Errorf("the queue is %s", got)
	}
	if err := r.FreeQueue(context.Background(), id); !errors.Is(err, StatusInvalidParameter) {
		t.Errorf("freed twice: %v", err)
	}
	second := r.allocate(n)
	if second == id {
		t.Error("the id was given out again")
	}
	if events := r.told(); !slices.Equal(events, []string{"StopDMA", "Allocated"}) {
		t.Errorf("events %v", events)
	}
	close(leave)
	must(t, <-done)
	if events := r.told(); !slices.Equal(events, []string{"DMA stopped", "Undefined"}) {
		t.Errorf("events %v", events)
	}
	if q := n.queue.Load(); q == nil || q.id != second {
		t.Error("the NIC's next queue went with the former")
	}
	if again := r.allocate(n); again != id {
		t.Errorf("the free id %d was not given out again but %d", id, again)
	}
	r.quiesce = func(context.Context) error { return nil }
	r.free(id)
	r.free(second)
}

// Filters have to be cleared first.
func TestFreeRefusedWithFilters(t *testing.T) {
	r, n, id := freeRig(t)
	_, err := r.SetFilter(id, filterOf(1))
	must(t, err)
	r.told()
	r.quiesce = func(context.Context) error {
		t.Error("the workers were asked to leave")
		return nil
	}
	if err := r.FreeQueue(context.Background(), id); !errors.Is(err, StatusInvalidParameter) {
		t.Errorf("%v", err)
	}
	if got := r.state(id).String() + " " + r.accounts(id); got != "Running "+allocated || n.queue.Load() == nil || len(r.steering) != 1 {
		t.Errorf("refused, but the queue is %s, entries %v", got, r.steering)
	}
	if events := r.told(); len(events) > 0 {
		t.Errorf("events %v", events)
	}
	r.quiesce = func(context.Context) error { return nil }
	r.free(id)
}

// The one DMA-stopped event comes when the workers have left and before the
// memory is freed; no lock is held meanwhile.
func TestFreeOrder(t *testing.T) {
	r, _, id := freeRig(t)
	var order []string
	r.quiesce = func(context.Context) error {
		order = append(order, "quiesce "+r.state(id).String()+" "+r.accounts(id))
		return nil
	}
	r.onEvent = func(e Event) {
		order = append(order, map[EventKind]string{EventState: "event", EventDMAStopped: "DMA stopped"}[e.Kind]+" "+r.state(id).String()+" "+r.accounts(id))
		if e.Queue != id || e.VM != "web" || e.State != r.state(id) {
			t.Errorf("event %+v", e)
		}
	}
	must(t, r.FreeQueue(context.Background(), id))
	want := []string{
		"event StopDMA " + allocated,
		"quiesce StopDMA " + allocated,
		"DMA stopped Freeing " + allocated,
		"event Undefined no queue",
	}
	if !slices.Equal(order, want) {
		t.Errorf("order\n%q, want\n%q", order, want)
	}
}

// When the wait ends the queue stays as it is: what a worker may still write to
// is not freed. Halt names it.
func TestFreeGivenUp(t *testing.T) {
	r, n, id := freeRig(t)
	ctx, cancel := context.WithCancel(context.Background())
	r.quiesce = func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	if err := r.FreeQueue(ctx, id); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the end of the context", err)
	}
	if got := r.state(id).String() + " " + r.accounts(id); got != "StopDMA "+allocated {
		t.Errorf("the queue is %s", got)
	}
	if events := r.told(); !slices.Equal(events, []string{"StopDMA"}) {
		t.Errorf("events %v", events)
	}
	if next := r.allocate(n); next == id {
		t.Error("the id was given out again")
	} else {
		r.quiesce = func(context.Context) error { return nil }
		r.free(next)
	}
	r.left = true
}

// A queue that was never completed has nothing to free but its id.
func TestFreeOfAllocatedQueue(t *testing.T) {
	r := newRig(t, Options{})
	id := r.allocate(r.newNIC("web", 1))
	must(t, r.FreeQueue(context.Background(), id))
	if events := r.told(); !slices.Equal(events, []string{"Allocated", "StopDMA", "DMA stopped", "Undefined"}) {
		t.Errorf("events %v", events)
	}
}

// The former queue of a NIC goes without the next one.
func TestFreeOfFormerQueue(t *testing.T) {
	r, n, former := freeRig(t)
	next := r.allocate(n)
	r.free(former)
	if q := n.queue.Load(); q == nil || q.id != next {
		t.Errorf("the NIC's queue is %v, want queue %d", q, next)
	}
	r.free(next)
	if q := n.queue.Load(); q != nil {
		t.Errorf("the NIC still has queue %d", q.id)
	}
}

// A Binding that closes goes on with a FREE_QUEUE that was given up.
func TestCloseGoesOnWithFree(t *testing.T) {
	r := newRig(t, Options{})
	id := r.complete("web")
	held, err := r.Holder().Hold(hostPacket(t), id)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.FreeQueue(ctx, id); !errors.Is(err, context.Canceled) {
		t.Fatalf("freed while a packet is out: %v", err)
	}
	must(t, r.Holder().Return(held))
	must(t, r.Binding.Close(context.Background()))
	if n := len(r.EnumQueues()); n != 1 {
		t.Errorf("%d queues are left", n)
	}
}
