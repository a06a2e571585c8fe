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

// Claim 2: QUEUE_ALLOCATION_COMPLETE triggers the allocation. Before it the
// queue has no bytes, whatever else happened; after it it has.
func TestClaim02_CompleteAllocatesMemory(t *testing.T) {
	r := newRig(t, Options{})
	n := r.newNIC("web", 1)
	n.SetMemory(newMap(t, 1<<16))
	id := r.allocate(n)
	_, err := r.SetFilter(id, filterOf(1))
	must(t, err)
	must(t, r.Remake(id))
	if got := r.accounts(id); got != "" {
		t.Errorf("before it is completed the queue has %s", got)
	}
	if s := r.CompleteAllocation([]QueueID{id})[0]; s != StatusSuccess {
		t.Fatal(s)
	}
	if got := r.accounts(id); got != allocated {
		t.Errorf("completed, the queue has %q, want %q", got, allocated)
	}
	r.free(id)
}

// Claim 3: queue 0's memory is allocated at initialize, before any verb.
// Claim 18: and freed in halt, at no other time.
func TestClaim18_MemoryOfQueue0(t *testing.T) {
	r := newRig(t, Options{Workers: 3})
	want := "receive 4*" + fmt.Sprint((3*nbl.SoftenerBytes+defaultHeldBytes)/4)
	has := func(when string) {
		t.Helper()
		if got := r.accounts(0); got != want {
			t.Errorf("%s: queue 0 has %q, want %q", when, got, want)
		}
	}
	has("initialized")
	r.free(r.complete("web"))
	has("a queue came and went")
	must(t, r.Reset(context.Background()))
	must(t, r.Pause(context.Background()))
	has("paused")
	must(t, r.Restart())
	r.Bind("other").Close(context.Background())
	has("restarted")
	must(t, r.Pause(context.Background()))
	must(t, r.Halt())
	if got := r.accounts(0); got != "" {
		t.Errorf("halted, queue 0 still has %s", got)
	}
}

// Claim 4: a live queue grows as often as rings and memory come; a freed one
// does not.
func TestClaim04_Growth(t *testing.T) {
	r := newRig(t, Options{})
	n := r.newNIC("web", 1)
	m := newMap(t, 1<<16)
	n.SetMemory(m)
	id := r.allocate(n)
	if s := r.CompleteAllocation([]QueueID{id})[0]; s != StatusSuccess {
		t.Fatal(s)
	}
	for i := range 5 {
		n.NoteRing(i, areas(t, m, 2))
		must(t, r.Remake(id))
		if got, want := r.accounts(id), fmt.Sprintf("other %d*64, ", 2*(i+1))+allocated; got != want {
			t.Errorf("with %d rings: %s, want %s", i+1, got, want)
		}
	}
	r.free(id)
	must(t, r.Remake(id))
	if got := r.accounts(id); got != "no queue" {
		t.Errorf("freed, and grown: %s", got)
	}
}

// Claim 6: memory is allocated for a queue that exists.
func TestClaim06_UnknownQueue(t *testing.T) {
	r := newRig(t, Options{})
	if got := r.CompleteAllocation([]QueueID{7, 0})[:]; got[0] != StatusInvalidParameter || got[1] != StatusInvalidParameter {
		t.Errorf("memory for queues 7 and 0: %v", got)
	}
}

// Claim 17: a queue's memory is freed inside FREE_QUEUE: it is there until the
// packets are back, and its count is 0 when the verb returns.
func TestClaim17_MemoryIsFreedInFreeQueue(t *testing.T) {
	r, _, id := freeRig(t)
	held, err := r.Holder().Hold(hostPacket(t), id)
	must(t, err)
	done := make(chan error, 1)
	stopped := make(chan struct{})
	r.onEvent = func(e Event) {
		if e.Kind == EventDMAStopped {
			close(stopped)
		}
	}
	go func() { done <- r.FreeQueue(context.Background(), id) }()
	<-stopped
	if got := r.accounts(id); got != allocated {
		t.Errorf("DMA stopped, a packet out: %s", got)
	}
	must(t, r.Holder().Return(held))
	must(t, <-done)
	if got := r.accounts(id); got != "no queue" {
		t.Errorf("freed, and it has %s", got)
	}
}

// hostPacket is a packet of this process.
func hostPacket(t testing.TB) *nbl.List {
	t.Helper()
	l := new(nbl.List)
	if r := l.FromBytes(ethernet(100, 1), 1); r != metrics.ReasonNone {
		t.Fatal(r)
	}
	return l
}

// Claim 20: the receive pools are made with the NIC, before a queue, a ring or a
// frame is there. Claim 21: and what a delivery uses comes from them.
func TestClaim21_IndicationsComeFromThePool(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	pool := v.nic.rings[0].pool
	if pool == nil || pool.Out() != 0 {
		t.Fatal("the NIC's pool is not there, or in use")
	}
	v.post(repeat(4, 2000)...)
	lists := s.send(plain(60, 61)...)
	taken := make([]*nbl.List, burstFrames)
	if n := pool.Get(taken); n != burstFrames {
		t.Fatalf("%d Lists of %d", n, burstFrames)
	}
	pool.Put(taken)
	if n := r.deliver(v.nic, lists); n != 2 {
		t.Errorf("accepted %d", n)
	}
	for i, l := range bursts.Get(r.ctx).receive[:2] {
		if !slices.Contains(taken, l) || l.Length != uint32(60+i) {
			t.Errorf("delivery %d was indicated by a List that is not the pool's, or says %d bytes", i, l.Length)
		}
	}
	v.expect(whole(ethernet(60, 0), ethernet(61, 1))...)
}

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

// Claim 61, the verb: only what is flagged changes; a move that fails changes
// nothing; what cannot change is refused.
func TestClaim61_QueueParameters(t *testing.T) {
	r := newRig(t, Options{Workers: 4})
	n := r.newNIC("web", 1)
	p := &placing{}
	id, err := r.AllocateQueue(QueueParameters{
		VMName: "web", QueueName: "q", NIC: n, Steering: r.steering, Placement: p,
		Affinity: 0b1100, SuggestedBuffers: 100, Flags: PerQueueIndication,
	})
	must(t, err)
	if p.worker != 2 {
		t.Errorf("allocated on worker %d, want the lowest of the mask, 2", p.worker)
	}
	all := QueueChange{Affinity: 1, SuggestedBuffers: 7, QueueName: "other"}
	step := func(flags QueueFlags, want string) {
		t.Helper()
		c := all
		c.Flags = flags
		must(t, r.SetQueueParameters(id, c))
		got, err := r.GetQueueParameters(id)
		must(t, err)
		if have := fmt.Sprintf("%#x %s %d %#x on %d", uint32(got.Flags), got.QueueName, got.SuggestedBuffers, got.Affinity, p.worker); have != want {
			t.Errorf("flags %#x: %s, want %s", uint32(flags), have, want)
		}
	}
	step(0, "0x1 q 100 0xc on 2")
	step(PerQueueIndication|LookaheadSplit, "0x1 q 100 0xc on 2") // without FlagsChanged
	step(NameChanged, "0x1 other 100 0xc on 2")
	step(SuggestedBuffersChanged, "0x1 other 7 0xc on 2")
	step(FlagsChanged|LookaheadSplit, "0x2 other 7 0xc on 2")
	step(AffinityChanged, "0x2 other 7 0x1 on 0")
	for what, c := range map[string]struct {
		change QueueChange
		want   Status
	}{
		"no such worker":    {QueueChange{Flags: AffinityChanged, Affinity: 1 << 4}, StatusInvalidParameter},
		"a long name":       {QueueChange{Flags: NameChanged, QueueName: string(make([]byte, 257))}, StatusInvalidParameter},
		"unknown flags":     {QueueChange{Flags: FlagsChanged | 4}, StatusInvalidParameter},
		"coalescing":        {QueueChange{Flags: CoalescingChanged}, StatusNotSupported},
		"QoS":               {QueueChange{Flags: QoSChanged | NameChanged, QueueName: "x"}, StatusNotSupported},
		"an unknown change": {QueueChange{Flags: 0x80000000}, StatusNotSupported},
	} {
		if err := r.SetQueueParameters(id, c.change); StatusOf(err) != c.want {
			t.Errorf("%s: %v, want %s", what, err, c.want)
		}
	}
	p.err = errors.New("no room")
	all.Affinity = 2
	err = r.SetQueueParameters(id, QueueChange{Flags: AffinityChanged | NameChanged, Affinity: 2, QueueName: "x"})
	if StatusOf(err) != StatusResources || !errors.Is(err, p.err) {
		t.Errorf("a move that fails: %v", err)
	}
	step(0, "0x2 other 7 0x1 on 0")
	p.err = nil
	p.during = func() {
		if err := r.SetQueueParameters(id, QueueChange{Flags: AffinityChanged, Affinity: 8}); StatusOf(err) != StatusResources {
			t.Errorf("moved while it moves: %v", err)
		}
	}
	step(AffinityChanged, "0x2 other 7 0x2 on 1")
	r.free(id)
	if _, err := r.GetQueueParameters(id); StatusOf(err) != StatusInvalidParameter {
		t.Errorf("parameters of a queue that is gone: %v", err)
	}
	for what, p := range map[string]QueueParameters{
		"a lookahead":       {LookaheadSize: 128},
		"flags of a change": {Flags: NameChanged},
		"a worker too high": {Affinity: 16, Placement: p},
		"a long VM name":    {VMName: string(make([]byte, 257))},
		"a long queue name": {QueueName: string(make([]byte, 257))},
	} {
		p.NIC, p.Steering = n, r.steering
		if _, err := r.AllocateQueue(p); StatusOf(err) != StatusInvalidParameter {
			t.Errorf("allocated with %s: %v", what, err)
		}
	}
	if _, err := r.AllocateQueue(QueueParameters{NIC: n, Steering: r.steering, Affinity: 1}); StatusOf(err) != StatusNotSupported {
		t.Errorf("an affinity that nobody can follow: %v", err)
	}
	_, err = r.AllocateQueue(QueueParameters{NIC: n, Steering: r.steering, Affinity: 1, Placement: &placing{err: errors.New("no")}})
	if StatusOf(err) != StatusResources || len(r.EnumQueues()) != 1 {
		t.Errorf("allocated where it cannot go: %v, %d queues", err, len(r.EnumQueues()))
	}
}

// Claim 62: enumerations agree with each other and with what was set, no worker
// is asked for them, and an array that is too short is told its length.
func TestClaim62_Enumerations(t *testing.T) {
	r := newRig(t, Options{})
	r.quiesce = func(context.Context) error { t.Error("a worker was asked"); return nil }
	id := r.complete("web")
	for i := range 3 {
		_, err := r.SetFilter(id, filterOf(byte(i+1)))
		must(t, err)
	}
	var wrong *LengthError
	if _, err := r.QueuesInto(make([]QueueInfo, 1)); !errors.As(err, &wrong) || wrong.Needed != 2 || wrong.Have != 1 || StatusOf(err) != StatusInvalidLength {
		t.Errorf("2 queues into 1: %v", err)
	}
	if _, err := r.FiltersInto(id, nil); !errors.As(err, &wrong) || wrong.Needed != 3 || StatusOf(err) != StatusInvalidLength {
		t.Errorf("3 filters into none: %v", err)
	}
	infos, filters := make([]QueueInfo, 5), make([]FilterInfo, 3)
	if n, err := r.QueuesInto(infos); n != 2 || err != nil || infos[1].Filters != 3 || infos[1].State != Running {
		t.Errorf("%d queues, %v: %+v", n, err, infos[1])
	}
	if n, err := r.FiltersInto(id, filters); n != 3 || err != nil {
		t.Errorf("%d filters, %v", n, err)
	}
	if _, err := r.FiltersInto(9, filters); StatusOf(err) != StatusInvalidParameter {
		t.Errorf("filters of no queue: %v", err)
	}
	for _, f := range filters {
		if info, of, err := r.FilterParametersOf(f.ID); err != nil || of != id || info.Filter != f.Filter || r.steering[f.Filter] != id {
			t.Errorf("filter %d: %+v of %d, %v", f.ID, info, of, err)
		}
	}
	for _, f := range []FilterID{0, 99} {
		if _, _, err := r.FilterParametersOf(f); StatusOf(err) != StatusInvalidParameter {
			t.Errorf("filter %d: %v", f, err)
		}
	}
	must(t, r.ClearFilters(id))
	if got := r.EnumQueues()[1]; got.Filters != 0 || got.State.Operational() != OperationalPaused {
		t.Errorf("cleared: %+v", got)
	}
	r.quiesce = func(context.Context) error { return nil }
	r.free(id)
}

// Claim 63: what can be done and what is switched on are told apart, and the
// verbs go by the latter. Queue 0 is not counted.
func TestClaim63_Capabilities(t *testing.T) {
	hardware := func(o Options) Capabilities { return newRig(t, o).HardwareCapabilities() }
	all := hardware(Options{MaxQueues: 5})
	if all.NumQueues != 5 || all.MaxMACHeaderFilters < all.NumQueues || all.SupportedFilterTests != FilterTestEqual ||
		all.SupportedMACHeaderFields != MACFieldDest|MACFieldVLAN || all.SupportedQueueProperties&(PropertyVMQueue|PropertyDynamicAffinity) != PropertyVMQueue|PropertyDynamicAffinity {
		t.Errorf("%+v", all)
	}
	r := newRig(t, Options{MaxQueues: 5, DisableVLANFilters: true})
	if r.HardwareCapabilities() != all || r.CurrentCapabilities().SupportedMACHeaderFields != MACFieldDest || r.CurrentCapabilities().NumQueues != 5 {
		t.Errorf("without VLAN filters: %+v", r.CurrentCapabilities())
	}
	id := r.allocate(r.newNIC("web", 1))
	if _, err := r.SetFilter(id, Filter{filterOf(1).MAC, 7}); StatusOf(err) != StatusNotSupported {
		t.Errorf("a VLAN filter that is switched off: %v", err)
	}
	_, err := r.SetFilter(id, filterOf(1))
	must(t, err)
	r.free(id)

	r = newRig(t, Options{MaxQueues: 5, DisableVMQ: true})
	if filters, queues := r.GlobalParameters(); r.HardwareCapabilities() != all || r.CurrentCapabilities() != (Capabilities{}) || filters != 0 || queues != 0 {
		t.Errorf("without queues: %+v", r.CurrentCapabilities())
	}
	if _, err := r.AllocateQueue(QueueParameters{NIC: r.newNIC("x", 1), Steering: r.steering}); StatusOf(err) != StatusNotSupported {
		t.Errorf("a queue though they are switched off: %v", err)
	}
	r = newRig(t, Options{})
	if filters, queues := r.GlobalParameters(); r.CurrentCapabilities() != r.HardwareCapabilities() || filters != FilterTypeVMQueue || queues != QueueTypeVMQueue {
		t.Errorf("by default %+v", r.CurrentCapabilities())
	}
}
