package queues

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/virtqueue/vqtest"
)

// Claim 46: queue ids and filter ids are unique on the adapter. An id is given
// out again only when its queue is Undefined; a filter's never.
func TestClaim46_Ids(t *testing.T) {
	r := newRig(t, Options{})
	web, db := r.complete("web"), r.complete("db")
	one, err := r.SetFilter(web, filterOf(1))
	must(t, err)
	two, err := r.SetFilter(db, filterOf(1))
	must(t, err)
	zero, err := r.SetDefaultFilter(filterOf(2), r.steering)
	must(t, err)
	must(t, r.ClearFilter(web, one))
	three, err := r.SetFilter(web, filterOf(1))
	must(t, err)
	if got := []FilterID{one, two, zero, three}; !slices.Equal(got, []FilterID{1, 2, 3, 4}) {
		t.Errorf("filters %v", got)
	}
	must(t, r.ClearFilter(web, three))
	held, err := r.Holder().Hold(hostPacket(t), web)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.FreeQueue(ctx, web); !errors.Is(err, context.Canceled) {
		t.Errorf("freed while a packet is out: %v", err)
	}
	if got := r.state(web); got != Freeing {
		t.Errorf("the queue is %s", got)
	}
	n := r.newNIC("next", 1)
	if next := r.allocate(n); next == web {
		t.Error("the id was given out again before the queue was Undefined")
	} else {
		r.free(next)
	}
	must(t, r.Holder().Return(held))
	must(t, r.FreeQueue(context.Background(), web))
	if next := r.allocate(n); next != web {
		t.Errorf("id %d, want %d again", next, web)
	} else {
		r.free(next)
	}
	must(t, r.ClearFilter(0, zero))
	r.free(db)
}

// Claim 47: queue 0 is there from the start, is not allocated, completed,
// changed nor freed, and takes anybody's filters.
func TestClaim47_Queue0(t *testing.T) {
	r := newRig(t, Options{})
	if got := r.state(0); got != Running {
		t.Errorf("queue 0 is %s", got)
	}
	for name, verb := range verbs {
		err := verb(r.Binding, 0)
		switch name {
		case "CLEAR_FILTER":
			if !errors.Is(err, StatusFileNotFound) {
				t.Errorf("%s of queue 0: %v", name, err)
			}
		case "ENUM_FILTERS":
			must(t, err)
		default:
			if !errors.Is(err, StatusInvalidParameter) {
				t.Errorf("%s of queue 0: %v", name, err)
			}
		}
	}
	if err := r.SetQueueParameters(0, QueueChange{Flags: NameChanged}); !errors.Is(err, StatusInvalidParameter) {
		t.Errorf("parameters of queue 0: %v", err)
	}
	if _, err := r.SetDefaultFilter(filterOf(1), nil); !errors.Is(err, StatusInvalidParameter) {
		t.Errorf("a filter to nowhere: %v", err)
	}
	one, err := r.SetDefaultFilter(filterOf(1), r.steering)
	must(t, err)
	other := r.Bind("other")
	two, err := other.SetDefaultFilter(filterOf(2), r.steering)
	must(t, err)
	if id, ok := r.steering[filterOf(2)]; !ok || id != 0 {
		t.Errorf("entries %v", r.steering)
	}
	if err := r.ClearFilter(0, two); !errors.Is(err, StatusInvalidParameter) {
		t.Errorf("another's filter on queue 0 cleared: %v", err)
	}
	if list, err := r.EnumFilters(0); err != nil || len(list) != 2 || list[1].Owner != "other" || r.EnumQueues()[0].Filters != 2 {
		t.Errorf("filters of queue 0: %+v, %v", list, err)
	}
	must(t, other.Close(context.Background()))
	must(t, r.ClearFilter(0, one))
	if len(r.steering) != 0 || r.state(0) != Running {
		t.Errorf("entries %v, queue 0 is %s", r.steering, r.state(0))
	}
}

// Claim 48: only who allocated a queue changes and frees it and sets filters on
// it, unless it is Shared; only who set a filter clears it.
func TestClaim48_Ownership(t *testing.T) {
	r := newRig(t, Options{Workers: 2})
	other := r.Bind("other")
	mine := r.complete("mine")
	p, err := r.GetQueueParameters(mine)
	must(t, err)
	p.Shared, p.NIC = true, r.newNIC("shared", 1)
	p.NIC.SetMemory(newMap(t, 1<<16))
	moved := &placing{}
	p.Placement = moved
	shared, err := r.AllocateQueue(p)
	must(t, err)
	r.CompleteAllocation([]QueueID{shared})
	f, err := r.SetFilter(mine, filterOf(1))
	must(t, err)

	before := r.EnumQueues()
	for what, err := range map[string]error{
		"a filter set":    second(other.SetFilter(mine, filterOf(2))),
		"its filter gone": other.ClearFilter(mine, f),
		"its filters":     other.ClearFilters(mine),
		"freed":           other.FreeQueue(context.Background(), mine),
		"completed":       other.CompleteAllocation([]QueueID{mine})[0],
		"renamed":         other.SetQueueParameters(mine, QueueChange{Flags: NameChanged, QueueName: "x"}),
		"moved":           other.SetQueueParameters(mine, QueueChange{Flags: AffinityChanged, Affinity: 1}),
		"shared, freed":   other.FreeQueue(context.Background(), shared),
		"shared, renamed": other.SetQueueParameters(shared, QueueChange{Flags: NameChanged | AffinityChanged, QueueName: "x"}),
		"shared, cleared": other.ClearFilters(shared),
	} {
		if StatusOf(err) != StatusInvalidParameter {
			t.Errorf("%s by another: %v", what, err)
		}
	}
	if after := r.EnumQueues(); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("refused, but\n%v became\n%v", before, after)
	}
	theirs, err := other.SetFilter(shared, filterOf(3))
	must(t, err)
	must(t, other.SetQueueParameters(shared, QueueChange{Flags: AffinityChanged, Affinity: 2}))
	if moved.worker != 1 {
		t.Errorf("moved to worker %d", moved.worker)
	}
	if err := r.ClearFilter(shared, theirs); StatusOf(err) != StatusInvalidParameter {
		t.Errorf("another's filter cleared by the queue's owner: %v", err)
	}
	if got := other.EnumOwnQueues(); len(got) != 0 {
		t.Errorf("own queues of another: %v", got)
	}
	if got := r.EnumOwnQueues(); len(got) != 2 || got[0].Owner != "test" {
		t.Errorf("own queues: %v", got)
	}
	must(t, other.ClearFilter(shared, theirs))
	must(t, r.Binding.Close(context.Background()))
	if got := r.EnumQueues(); len(got) != 1 {
		t.Errorf("left after the binding was closed: %v", got)
	}
}

func second[T any](_ T, err error) error { return err }

// placing notes where it was moved to, or refuses.
type placing struct {
	worker int
	err    error
	during func()
}

func (p *placing) Worker() int { return p.worker }

func (p *placing) Move(worker int) error {
	if p.during != nil {
		p.during()
	}
	if p.err == nil {
		p.worker = worker
	}
	return p.err
}

// Claim 50: an element that is wrong is INVALID_PARAMETER, and the batch goes on.
func TestClaim50_WrongElements(t *testing.T) {
	r := newRig(t, Options{})
	good, done, leaving := r.newNIC("good", 1), r.complete("done"), r.complete("leaving")
	good.SetMemory(newMap(t, 1<<16))
	id := r.allocate(good)
	entered, leave := make(chan struct{}), make(chan struct{})
	r.quiesce = func(context.Context) error { close(entered); <-leave; return nil }
	freed := make(chan error, 1)
	go func() { freed <- r.FreeQueue(context.Background(), leaving) }()
	<-entered
	got := r.CompleteAllocation([]QueueID{99, done, id, id, leaving, 0})
	bad := StatusInvalidParameter
	if want := []Status{bad, bad, StatusSuccess, bad, bad, bad}; !slices.Equal(got, want) {
		t.Errorf("statuses %v, want %v", got, want)
	}
	close(leave)
	must(t, <-freed)
	r.quiesce = func(context.Context) error { return nil }
	if r.state(id) != Paused || r.state(done) != Paused {
		t.Errorf("the queues are %s and %s", r.state(id), r.state(done))
	}
	r.free(id)
	r.free(done)
}

// Claim 53: frames for a queue without filters are dropped and counted, and do
// not come when a filter is set later.
func TestClaim53_NothingIsKeptForLater(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.nic.SetMemory(v.Mem)
	id := r.allocate(v.nic)
	r.CompleteAllocation([]QueueID{id})
	v.post(repeat(8, 2000)...)
	lists := s.send(plain(60, 61, 62)...)
	for _, l := range lists {
		l.QueueID = id
	}
	if n := r.deliver(v.nic, lists); n != 3 {
		t.Fatalf("accepted %d", n)
	}
	_, err := r.SetFilter(id, filterOf(1))
	must(t, err)
	if n := r.deliver(v.nic, nil); n != 0 {
		t.Errorf("accepted %d of none", n)
	}
	v.expect()
	v.counted(0, map[metrics.Reason]int{metrics.ReasonNotRunning: 3})
	r.free(id)
}

// Claim 54: the last filter's end leads Running to Paused and Set to Allocated,
// says nothing of DMA, and when it returns no delivery of the queue goes on.
func TestClaim54_LastFilterCleared(t *testing.T) {
	r := newRig(t, Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.nic.SetMemory(v.Mem)
	id := r.allocate(v.nic)
	f, err := r.SetFilter(id, filterOf(1))
	must(t, err)
	must(t, r.ClearFilter(id, f))
	if got := r.told(); !slices.Equal(got, []string{"Allocated", "Set", "Allocated"}) {
		t.Errorf("events %v", got)
	}
	f, err = r.SetFilter(id, filterOf(1))
	must(t, err)
	r.CompleteAllocation([]QueueID{id})
	r.told()

	// A worker is in the middle of a burst that let the queue's frames in.
	ring := &v.nic.rings[0]
	ring.mu.Lock()
	done := make(chan error, 1)
	go func() { done <- r.ClearFilter(id, f) }()
	for r.state(id) == Running {
		select {
		case err := <-done:
			t.Fatalf("the verb returned, %v, while the queue runs", err)
		default:
		}
	}
	for range 100_000 {
		select {
		case err := <-done:
			t.Fatalf("the verb returned, %v, while a burst of the queue is under way", err)
		default:
		}
	}
	ring.mu.Unlock()
	must(t, <-done)
	if got := r.told(); !slices.Equal(got, []string{"Paused"}) {
		t.Errorf("events %v", got)
	}
	r.free(id)
}

// Claim 55: FREE needs a queue without filters; it works from Allocated and
// from Paused; DMA is said to have stopped exactly once, before the wait for
// packets, however often the verb is given up and asked for again.
func TestClaim55_DMAStoppedOnce(t *testing.T) {
	r, _, id := freeRig(t)
	f, err := r.SetFilter(id, filterOf(1))
	must(t, err)
	if err := r.FreeQueue(context.Background(), id); StatusOf(err) != StatusInvalidParameter {
		t.Errorf("freed with a filter: %v", err)
	}
	must(t, r.ClearFilter(id, f))
	set := r.allocate(r.newNIC("set", 1))
	f, err = r.SetFilter(set, filterOf(2))
	must(t, err)
	if err := r.FreeQueue(context.Background(), set); StatusOf(err) != StatusInvalidParameter {
		t.Errorf("freed in Set: %v", err)
	}
	must(t, r.ClearFilter(set, f))
	must(t, r.FreeQueue(context.Background(), set))
	r.told()

	held, err := r.Holder().Hold(hostPacket(t), id)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	fail := r.quiesce
	r.quiesce = func(ctx context.Context) error { return ctx.Err() }
	for range 2 { // workers do not leave
		if err := r.FreeQueue(ctx, id); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
	}
	if got := r.told(); !slices.Equal(got, []string{"StopDMA"}) {
		t.Errorf("events %v", got)
	}
	r.quiesce = fail
	for range 2 { // workers leave, a packet is out
		if err := r.FreeQueue(ctx, id); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
	}
	if got := r.told(); !slices.Equal(got, []string{"DMA stopped"}) {
		t.Errorf("events %v", got)
	}
	must(t, r.Holder().Return(held))
	must(t, r.FreeQueue(context.Background(), id))
	if got := r.told(); !slices.Equal(got, []string{"Undefined"}) {
		t.Errorf("events %v", got)
	}
}

// Claim 57: FREE pends while packets of the queue are out, and ends with the last
// one, in whatever order they come back; packets of other queues do not matter.
func TestClaim57_FreeWaitsForPackets(t *testing.T) {
	r, _, id := freeRig(t)
	var held []*nbl.List
	for range 5 {
		l, err := r.Holder().Hold(hostPacket(t), id)
		must(t, err)
		held = append(held, l)
	}
	foreign, err := r.Holder().Hold(hostPacket(t), id+1)
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- r.FreeQueue(context.Background(), id) }()
	for r.state(id) != Freeing {
		select {
		case err := <-done:
			t.Fatalf("freed with packets out: %v", err)
		default:
		}
	}
	for _, i := range []int{3, 0, 4, 1, 2} {
		if got := r.state(id).String() + " " + r.accounts(id); got != "Freeing "+allocated {
			t.Errorf("before the last is back: %s", got)
		}
		must(t, r.Holder().Return(held[i]))
	}
	must(t, <-done)
	must(t, r.Holder().Return(foreign))
}

// Claim 60: an id of a queue that is gone, or of another NIC, is as good as 0.
func TestClaim60_StaleQueueID(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	former := r.allocate(v.nic)
	r.free(former)
	other := r.allocate(r.newNIC("other", 1)) // has the id now, and does not run
	v.post(2000, 2000)
	lists := s.send(plain(60, 61)...)
	lists[0].QueueID, lists[1].QueueID = former, 4711
	if n := r.deliver(v.nic, lists); n != 2 {
		t.Fatalf("accepted %d", n)
	}
	v.expect(whole(ethernet(60, 0), ethernet(61, 1))...)
	r.free(other)
}
