package queues

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

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
