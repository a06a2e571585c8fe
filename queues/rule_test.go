package queues

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// The delivery rule: a frame of a filter needs the NIC's own queue Running,
// every other frame queue 0, whatever the other of the two is.
func TestDeliveryRule(t *testing.T) {
	const own, stale = 1, 7
	for _, tt := range []struct {
		name    string
		state   State // of the NIC's own queue
		queue0  bool
		queueID QueueID
		want    metrics.Reason
	}{
		{"own queue, running", Running, true, own, metrics.ReasonNone},
		{"own queue, running, without queue 0", Running, false, own, metrics.ReasonNone},
		{"own queue, paused", Paused, true, own, metrics.ReasonNotRunning},
		{"own queue, set", Set, true, own, metrics.ReasonNotRunning},
		{"own queue, allocated", Allocated, true, own, metrics.ReasonNotRunning},
		{"own queue, freed", Undefined, true, own, metrics.ReasonNone},
		{"own queue, freed, without queue 0", Undefined, false, own, metrics.ReasonNotRunning},
		{"queue 0", Running, true, 0, metrics.ReasonNone},
		{"queue 0, own paused", Paused, true, 0, metrics.ReasonNone},
		{"queue 0, own allocated", Allocated, true, 0, metrics.ReasonNone},
		{"queue 0, without it", Running, false, 0, metrics.ReasonNotRunning},
		{"another's queue", Running, true, stale, metrics.ReasonNone},
		{"another's queue, own paused", Paused, true, stale, metrics.ReasonNone},
		{"another's queue, without queue 0", Running, false, stale, metrics.ReasonNotRunning},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Options{})
			s := r.newSender(vqtest.Options{})
			v := r.newReceiver(vqtest.Options{Features: plainRx})
			v.nic.SetMemory(v.Mem)
			id := r.allocate(v.nic)
			if tt.state == Running || tt.state == Set {
				_, err := r.SetFilter(id, filterOf(1))
				must(t, err)
			}
			if tt.state == Running || tt.state == Paused {
				r.CompleteAllocation([]QueueID{id})
			}
			if tt.state == Undefined {
				r.free(id)
			} else {
				defer r.free(id)
			}
			if got := r.state(id); got != tt.state || id != own {
				t.Fatalf("queue %d is %s", id, got)
			}
			r.queue0.Store(tt.queue0)
			v.post(2000, 2000)
			lists := s.send(plain(60)...)
			lists[0].QueueID = tt.queueID
			if n := r.deliver(v.nic, lists); n != 1 {
				t.Fatalf("accepted %d", n)
			}
			if tt.want == metrics.ReasonNone {
				v.expect(whole(ethernet(60, 0))...)
				v.counted(1, nil)
				return
			}
			v.expect()
			v.counted(0, map[metrics.Reason]int{tt.want: 1})
		})
	}
}

// Each frame of a batch takes its own way.
func TestDeliveryRuleInBatch(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	id := r.allocate(v.nic)
	v.post(repeat(6, 2000)...)
	lists := s.send(plain(60, 61, 62, 63)...)
	lists[1].QueueID, lists[3].QueueID = id, id
	if n := r.deliver(v.nic, lists); n != 4 {
		t.Fatalf("accepted %d", n)
	}
	v.expect(whole(ethernet(60, 0), ethernet(62, 2))...)
	v.counted(2, map[metrics.Reason]int{metrics.ReasonNotRunning: 2})
	r.free(id)
}

// A driver that was told an MTU gets no longer frame, except for one that is to
// be segmented; a tag is not counted.
func TestMTU(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	const gso = virtio.NetGuestCsum | virtio.NetGuestTSO4
	all := []packet{
		{frame: ethernet(1514, 0)},
		{frame: ethernet(1518, 1)},
		{frame: ethernet(1519, 2)},
		{checksumHeader(), tcp4(1500, 3)},
		{tso(1448), tcp4(9000, 4)},
	}
	for _, tt := range []struct {
		at   Attributes
		want []packet
	}{
		{Attributes{plainRx | gso | virtio.NetMTU, 1500}, []packet{all[0], all[1], all[4]}},
		{Attributes{plainRx | gso | virtio.NetMTU, 0}, all},
		{Attributes{plainRx | gso, 1500}, all},
	} {
		v := r.newReceiver(vqtest.Options{Features: tt.at.Features})
		state, _ := v.nic.StopRx(0)
		v.restart(state, tt.at)
		v.post(repeat(8, 10000)...)
		if n := r.deliver(v.nic, s.send(all...)); n != len(all) {
			t.Fatalf("accepted %d", n)
		}
		v.expect(tt.want...)
		v.counted(len(tt.want), map[metrics.Reason]int{metrics.ReasonMTU: len(all) - len(tt.want)})
	}
}

// A ring that is not there, not enabled or parked takes frames away, and says
// why; the setting of enabled outlives the ring.
func TestRingNotReady(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.post(repeat(8, 2000)...)
	drops := map[metrics.Reason]int{}
	try := func(what string, reason metrics.Reason) {
		t.Helper()
		if n := r.deliver(v.nic, s.send(plain(60, 61)...)); n != 2 {
			t.Fatalf("%s: accepted %d", what, n)
		}
		if reason != metrics.ReasonNone {
			drops[reason] += 2
		}
		v.counted(int(v.nic.counters.RxFrames.Value()), drops)
	}
	v.nic.EnableRx(0, false)
	try("disabled", metrics.ReasonDisabled)
	state, ok := v.nic.StopRx(0)
	if !ok || state != at(0) {
		t.Errorf("stopped at %v, %v", state, ok)
	}
	try("stopped", metrics.ReasonStopped)
	if _, ok := v.nic.StopRx(0); ok {
		t.Error("stopped twice")
	}
	v.restart(state, Attributes{Features: plainRx})
	try("started, still disabled", metrics.ReasonDisabled)
	v.nic.EnableRx(0, true)
	v.expect()
	try("enabled", metrics.ReasonNone)
	v.expect(whole(ethernet(60, 0), ethernet(61, 1))...)

	// Replaced, it goes on where the former ring stood.
	must(t, v.nic.ReplaceRx(0, func(s virtqueue.State) (*virtqueue.Queue, error) {
		if s != at(2) {
			t.Errorf("the ring stands at %v", s)
		}
		return v.remake(s)
	}))
	try("replaced", metrics.ReasonNone)
	v.expect(whole(ethernet(60, 0), ethernet(61, 1))...)

	refused := errors.New("refused")
	if err := v.nic.ReplaceRx(0, func(virtqueue.State) (*virtqueue.Queue, error) { return nil, refused }); !errors.Is(err, refused) {
		t.Errorf("replacing fails with %v", err)
	}
	try("not replaced", metrics.ReasonStopped)
	if err := v.nic.ReplaceRx(0, nil); err == nil || !strings.Contains(err.Error(), "has no ring") {
		t.Errorf("replacing nothing: %v", err)
	}
	v.restart(at(4), Attributes{Features: plainRx})
	must(t, v.nic.ReplaceRx(0, func(virtqueue.State) (*virtqueue.Queue, error) { return nil, nil }))
	try("parked", metrics.ReasonStopped)
	v.expect()
	if events := r.told(); len(events) > 0 {
		t.Errorf("events %v", events)
	}
}

// V49: a receive chain with something for the device to read breaks its ring.
// The owner is told once, without a lock; a new start heals it.
func TestV49_ReadableReceiveBuffer(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	for _, request := range []vqtest.Request{
		{Out: [][]byte{make([]byte, 2000)}},
		{Out: [][]byte{make([]byte, 12)}, In: []int{2000}},
	} {
		v := r.newReceiver(vqtest.Options{Features: mergeable})
		var events []Event
		r.onEvent = func(e Event) {
			if !v.nic.rings[0].mu.TryLock() {
				t.Error("told with the ring's lock held")
			} else {
				v.nic.rings[0].mu.Unlock()
			}
			events = append(events, e)
		}
		v.post(2000)
		_, err := v.Driver.Add(request)
		must(t, err)
		v.Driver.Publish()
		v.written = v.changed()
		for range 2 {
			if n := r.deliver(v.nic, s.send(plain(60, 61, 62)...)); n != 3 {
				t.Fatalf("accepted %d", n)
			}
		}
		v.expect() // not the first frame either: nothing of the burst
		v.counted(0, map[metrics.Reason]int{metrics.ReasonBroken: 6})
		if len(events) != 1 || events[0].Kind != EventBroken || events[0].VM != "web" || events[0].Ring != 0 || !errors.Is(events[0].Err, errReadable) {
			t.Errorf("events %+v", events)
		}
		if !v.nic.RxBroken(0) || !errors.Is(v.Queue.Broken(), errReadable) || signals(t, v.Err) != 1 {
			t.Error("the ring is not broken, or its err descriptor was not signalled once")
		}
		state, ok := v.nic.StopRx(0)
		if !ok || state != at(0) || v.nic.RxBroken(0) {
			t.Errorf("stopped at %v, %v, broken %v", state, ok, v.nic.RxBroken(0))
		}
		r.onEvent = nil
	}
}

// A ring that makes no sense is broken in the same way.
func TestBrokenRing(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	id := r.allocate(v.nic)
	r.told()
	v.Driver.PutRaw([]vqtest.RawDesc{{Addr: 1 << 60, Len: 64, Flags: vqtest.FlagWrite}}) // nobody's memory
	for range 2 {
		if n := r.deliver(v.nic, s.send(plain(60)...)); n != 1 {
			t.Fatalf("accepted %d", n)
		}
	}
	v.counted(0, map[metrics.Reason]int{metrics.ReasonBroken: 2})
	if events := r.told(); !slices.Equal(events, []string{"broken 0"}) || !v.nic.RxBroken(0) {
		t.Errorf("events %v", events)
	}
	r.free(id)
}

// V76: a call descriptor that the watchdog had to kill ends its ring, but not
// one that has taken its place meanwhile.
func TestV76_DeadCallDescriptor(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.post(repeat(4, 2000)...)
	v.Call.Kill()
	if n := r.deliver(v.nic, s.send(plain(60)...)); n != 1 {
		t.Fatalf("accepted %d", n)
	}
	v.expect(whole(ethernet(60, 0))...) // was published before the call
	if n := r.deliver(v.nic, s.send(plain(60)...)); n != 1 {
		t.Fatalf("accepted %d", n)
	}
	v.counted(1, map[metrics.Reason]int{metrics.ReasonBroken: 1})
	if events := r.told(); !slices.Equal(events, []string{"broken 0"}) || !errors.Is(v.Queue.Broken(), errCallBlocked) {
		t.Errorf("events %v, broken %v", events, v.Queue.Broken())
	}
	v.nic.rings[0].breakCaller(v.Call)
	if events := r.told(); len(events) > 0 {
		t.Errorf("told again: %v", events)
	}
	next := r.attach(v.nic, 0, vqtest.Options{Features: plainRx})
	v.nic.rings[0].breakCaller(v.Call)
	if events := r.told(); len(events) > 0 || next.Queue.Broken() != nil || v.nic.RxBroken(0) {
		t.Errorf("the next ring was ended for the former's call: events %v", events)
	}
	v.nic.StopRx(0)
	v.nic.rings[0].breakCaller(v.Call) // nothing is there
}

// While somebody else holds the lock, or the session waits for it, nothing is
// accepted and nothing is counted.
func TestLockHeldElsewhere(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.post(2000, 2000)
	lists := s.send(plain(60, 61)...)
	ring := &v.nic.rings[0]
	ring.mu.Lock()
	if n, _ := v.nic.Deliver(r.ctx, lists); n != 0 {
		t.Errorf("accepted %d under another's lock", n)
	}
	ring.mu.Unlock()
	ring.stopping.Store(true)
	if n, _ := v.nic.Deliver(r.ctx, lists); n != 0 {
		t.Errorf("accepted %d while the session waits", n)
	}
	ring.stopping.Store(false)
	v.expect()
	v.counted(0, nil)
	if n := r.deliver(v.nic, lists); n != 2 {
		t.Errorf("accepted %d afterwards", n)
	}
	v.expect(whole(ethernet(60, 0), ethernet(61, 1))...)
	if n := r.deliver(v.nic, nil); n != 0 {
		t.Errorf("accepted %d of no frames", n)
	}
}

// A defect of this program goes on as a panic, but leaves the lock behind.
func TestDefectReleasesTheLock(t *testing.T) {
	r := newRig(t, Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.post(2000)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
		if !v.nic.rings[0].mu.TryLock() {
			t.Error("the lock is held")
		}
		v.nic.rings[0].mu.Unlock()
	}()
	v.nic.Deliver(r.ctx, []*nbl.List{{Buffer: nbl.Buffer{Length: 100}}}) // without memory
}
