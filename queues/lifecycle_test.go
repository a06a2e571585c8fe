package queues

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"

	"vhostnet/metrics"
	"vhostnet/virtqueue/vqtest"
)

// publishedAdapter is the table of NDIS ("Miniport Adapter States and
// Operations").
const publishedAdapter = `
event           | Halted       | Initializing | Paused     | Restarting | Running  | Pausing  | Shutdown
initialize      | Initializing |              |            |            |          |          |
initialized     |              | Paused       |            |            |          |          |
init failed     |              | Halted       |            |            |          |          |
restart         |              |              | Restarting |            |          |          |
restarted       |              |              |            | Running    |          |          |
restart failed  |              |              |            | Paused     |          |          |
pause           |              |              |            |            | Pausing  |          |
paused          |              |              |            |            |          | Paused   |
halt            |              |              | Halted     |            |          |          |
shutdown        |              |              | Shutdown   | Shutdown   | Shutdown | Shutdown |`

// Claim 64: every event in every state of the adapter leads where NDIS says, or
// is refused without effect.
func TestClaim64_AdapterTable(t *testing.T) {
	events := []string{"initialize", "initialized", "init failed", "restart", "restarted", "restart failed", "pause", "paused", "halt", "shutdown"}
	table := parseTable(t, publishedAdapter)
	if len(events) != int(numAdapterEvents) || len(table) != len(events) {
		t.Fatalf("%d events are published, %d have names, %d exist", len(table), len(events), numAdapterEvents)
	}
	for e, name := range events {
		for s := range numAdapterStates {
			a := &Adapter{state: s}
			err := a.enter(adapterEvent(e), "test")
			want, known := table[name][s.String()]
			if !known {
				t.Fatalf("%s in %s is not published", name, s)
			}
			if want == "" {
				if StatusOf(err) != StatusAdapterNotReady || a.state != s {
					t.Errorf("%s in %s: %v, now %s; want a refusal without effect", name, s, err, a.state)
				}
			} else if err != nil || a.state.String() != want {
				t.Errorf("%s in %s: %v, now %s, want %s", name, s, err, a.state, want)
			}
		}
	}
	if to, ok := AdapterState(99).next(adPause); ok || to.String() != "invalid" {
		t.Errorf("state 99 leads to %s, %v", to, ok)
	}
	if _, ok := AdapterRunning.next(numAdapterEvents); ok {
		t.Error("an event that does not exist is valid")
	}
}

// Claim 64: initialize ends Paused, where nothing passes but verbs do; restart
// lets frames pass, pause waits for what is under way and does not fail.
func TestClaim64_PauseAndRestart(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.nic.SetMemory(v.Mem)
	v.post(repeat(8, 2000)...)
	id := r.allocate(v.nic)
	_, err := r.SetFilter(id, filterOf(1))
	must(t, err)
	frames := func(wantDelivered bool) {
		t.Helper()
		before := v.nic.counters.Drops.Snapshot()[metrics.ReasonNotRunning]
		lists := s.send(plain(60, 61)...)
		lists[1].QueueID = id
		if n := r.deliver(v.nic, lists); n != 2 {
			t.Fatalf("accepted %d", n)
		}
		if wantDelivered {
			v.expect(whole(ethernet(60, 0), ethernet(61, 1))...)
			return
		}
		v.expect()
		if got := v.nic.counters.Drops.Snapshot()[metrics.ReasonNotRunning] - before; got != 2 {
			t.Errorf("%d frames were dropped, want both", got)
		}
	}
	fresh, err := NewAdapter(Options{Workers: 1, Quiesce: r.quiesce})
	must(t, err)
	if fresh.State() != AdapterPaused {
		t.Errorf("initialized, it is %s", fresh.State())
	}
	must(t, fresh.Halt())

	must(t, r.Pause(context.Background()))
	must(t, r.Pause(context.Background()))
	if err := r.Reset(context.Background()); err != nil {
		t.Errorf("reset while paused: %v", err)
	}
	if got := r.CompleteAllocation([]QueueID{id})[0]; got != StatusSuccess || r.state(id) != Running {
		t.Errorf("a verb while paused: %s, the queue is %s", got, r.state(id))
	}
	r.told()
	frames(false)
	must(t, r.Restart())
	if err := r.Restart(); StatusOf(err) != StatusAdapterNotReady {
		t.Errorf("restarted twice: %v", err)
	}
	frames(true)

	// A worker is still inside, and then a packet is held.
	held, err := r.Holder().Hold(hostPacket(t), id)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	asked := 0
	quiet := r.quiesce
	r.quiesce = func(ctx context.Context) error { asked++; return ctx.Err() }
	if err := r.Pause(ctx); StatusOf(err) != StatusPending || r.State() != AdapterPausing {
		t.Errorf("paused while a worker is inside: %v, %s", err, r.State())
	}
	frames(false)
	if err := r.Halt(); StatusOf(err) != StatusAdapterNotReady {
		t.Errorf("halted while it pauses: %v", err)
	}
	r.quiesce = quiet
	if err := r.Pause(ctx); StatusOf(err) != StatusPending || asked != 1 {
		t.Errorf("paused while a packet is held: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- r.Pause(context.Background()) }()
	must(t, r.Holder().Return(held))
	must(t, <-done)
	if got := r.told(); !slices.Equal(got, []string{"adapter Running", "adapter Pausing", "adapter Paused"}) {
		t.Errorf("events %v", got)
	}
	must(t, r.Restart())
	frames(true)
	r.free(id)
}

// Claim 65: whichever step of initialize fails, everything before it is given
// back, the last first, and the adapter is Halted.
func TestClaim65_InitializeFails(t *testing.T) {
	refused := errors.New("refused")
	before := measure()
	whole, err := newAdapter(Options{Workers: 3, Quiesce: func(context.Context) error { return nil }})
	must(t, err)
	steps := len(whole.steps())
	for fail := range steps {
		a, err := newAdapter(Options{Workers: 3, Quiesce: func(context.Context) error { return nil }})
		must(t, err)
		var order []string
		list := a.steps()
		for i := range list {
			s := list[i]
			list[i].take = func() error {
				if i == fail {
					return refused
				}
				order = append(order, fmt.Sprint("take ", i))
				return s.take()
			}
			list[i].give = func() error {
				order = append(order, fmt.Sprint("give ", i))
				return s.give()
			}
		}
		err = a.initialize(list)
		if !errors.Is(err, refused) || StatusOf(err) != StatusResources || a.State() != AdapterHalted {
			t.Errorf("step %d fails: %v, the adapter is %s", fail, err, a.State())
		}
		var want []string
		for i := range fail {
			want = append(want, fmt.Sprint("take ", i))
		}
		for i := fail - 1; i >= 0; i-- {
			want = append(want, fmt.Sprint("give ", i))
		}
		if !slices.Equal(order, want) {
			t.Errorf("step %d fails: %v, want %v", fail, order, want)
		}
		must(t, before.settle())
		must(t, a.initialize(a.steps())) // it can be tried again
		must(t, a.Halt())
	}
	must(t, before.settle())
}

// Claim 66: a reset ends a FREE_QUEUE that waits, refuses verbs meanwhile, and
// brings every filter into the forwarding table again.
func TestClaim66_Reset(t *testing.T) {
	r, _, id := freeRig(t)
	web := r.complete("web")
	_, err := r.SetFilter(web, filterOf(1))
	must(t, err)
	zero, err := r.SetDefaultFilter(filterOf(2), r.steering)
	must(t, err)
	want := maps.Clone(r.steering)
	clear(r.steering) // the hardware forgot
	held, err := r.Holder().Hold(hostPacket(t), id)
	must(t, err)
	freed := make(chan error, 1)
	go func() { freed <- r.FreeQueue(context.Background(), id) }()
	for r.state(id) != Freeing {
		runtime.Gosched()
	}
	r.quiesce = func(context.Context) error { // in the middle of the reset
		if _, err := r.SetFilter(web, filterOf(3)); StatusOf(err) != StatusResetInProgress {
			t.Errorf("a verb during a reset: %v", err)
		}
		return nil
	}
	must(t, r.Reset(context.Background()))
	if err := <-freed; StatusOf(err) != StatusRequestAborted {
		t.Errorf("the pending verb: %v", err)
	}
	if !maps.Equal(r.steering, want) {
		t.Errorf("entries %v, want %v", r.steering, want)
	}
	r.quiesce = func(context.Context) error { return nil }
	must(t, r.Holder().Return(held))
	must(t, r.FreeQueue(context.Background(), id))
	must(t, r.ClearFilter(0, zero))
	r.free(web)
}

// After a surprise removal nothing passes and nothing is left: filters are
// cleared, every queue is freed with its event, verbs are not accepted.
func TestSurpriseRemoval(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.nic.SetMemory(v.Mem)
	v.post(2000)
	id, other := r.allocate(v.nic), r.complete("other")
	_, err := r.SetFilter(id, filterOf(1))
	must(t, err)
	_, err = r.SetDefaultFilter(filterOf(2), r.steering)
	must(t, err)
	r.CompleteAllocation([]QueueID{id})
	r.told()
	must(t, r.SurpriseRemove(context.Background()))
	if got := r.told(); !slices.Equal(got, []string{"StopDMA", "DMA stopped", "Undefined", "StopDMA", "DMA stopped", "Undefined"}) {
		t.Errorf("events %v", got)
	}
	if len(r.steering) != 0 || len(r.EnumQueues()) != 1 {
		t.Errorf("left: entries %v, %d queues", r.steering, len(r.EnumQueues()))
	}
	if n := r.deliver(v.nic, s.send(plain(60)...)); n != 1 {
		t.Fatalf("accepted %d", n)
	}
	v.expect()
	for name, verb := range verbs {
		if err := verb(r.Binding, other); name != "ENUM_FILTERS" && StatusOf(err) != StatusNotAccepted {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.SurpriseRemove(context.Background()); StatusOf(err) != StatusNotAccepted {
		t.Errorf("removed twice: %v", err)
	}
	must(t, r.Halt())
	if got := r.accounts(0); got != "" {
		t.Errorf("halted, queue 0 has %s", got)
	}
	if err := r.Halt(); StatusOf(err) != StatusAdapterNotReady {
		t.Errorf("halted twice: %v", err)
	}
	if _, err := r.SetDefaultFilter(filterOf(2), r.steering); StatusOf(err) != StatusNotAccepted {
		t.Errorf("a verb after the end: %v", err)
	}
}

// A machine that goes down waits for nothing and frees nothing.
func TestShutdown(t *testing.T) {
	a, err := NewAdapter(Options{Workers: 1, Quiesce: func(context.Context) error { t.Error("it waits"); return nil }})
	must(t, err)
	must(t, a.Restart())
	a.Shutdown()
	a.Shutdown()
	if a.State() != AdapterShutdown || a.queue0.Load() || len(a.arena.Accounts()) == 0 {
		t.Errorf("%s, queue 0 %v, %v", a.State(), a.queue0.Load(), a.arena.Accounts())
	}
	if err := a.Halt(); StatusOf(err) != StatusAdapterNotReady {
		t.Errorf("halted after shutdown: %v", err)
	}
	if _, err := a.Bind("x").SetDefaultFilter(filterOf(1), steering{}); StatusOf(err) != StatusAdapterNotReady {
		t.Errorf("a verb: %v", err)
	}
	must(t, giveBack(a.steps()))
}

// parseTable is a published table: next[event][state], "" for invalid.
func parseTable(t *testing.T, text string) map[string]map[string]string {
	t.Helper()
	cells := func(line string) []string {
		list := strings.Split(line, "|")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		return list
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	states := cells(lines[0])[1:]
	table := map[string]map[string]string{}
	for _, line := range lines[1:] {
		row := cells(line)
		if len(row) != len(states)+1 {
			t.Fatalf("%q has %d columns", line, len(row))
		}
		table[row[0]] = map[string]string{}
		for i, s := range states {
			table[row[0]][s] = row[i+1]
		}
	}
	return table
}
