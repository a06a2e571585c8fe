package vhostuser

import (
	"fmt"
	"testing"

	"vhostnet/virtio"
)

// The start sequences of vhost-user front-ends, message for message as they
// are seen on the wire.

const guestFeatures = virtio.Version1 | virtio.EventIdx | virtio.IndirectDesc

const guestFeatureNames = "indirect_desc,event_idx,version_1"

// connectQEMU is what QEMU sends for each queue pair when it connects.
func (b *bench) connectQEMU(pairs int) {
	b.t.Helper()
	for pair := range pairs {
		if f := virtio.Features(b.number(GetFeatures)); f != stubFeatures|virtio.ProtocolFeatures|virtio.LogAll {
			b.t.Fatalf("features %s", f)
		}
		b.say(SetProtocolFeatures, U64(b.number(GetProtocolFeatures)).Marshal())
		if pair == 0 {
			if n := b.number(GetQueueNum); n != 4 {
				b.t.Fatalf("GET_QUEUE_NUM says %d, want the number of rings", n)
			}
		}
		if n := b.number(GetMaxMemSlots); n < 509 {
			b.t.Fatalf("GET_MAX_MEM_SLOTS says %d, automatic slots need 509", n)
		}
		if pair == 0 {
			b.say(SetOwner, nil)
		}
		b.number(GetFeatures)
		for i := 2 * pair; i < 2*pair+2; i++ {
			b.ok(SetVringCall, fdPayload(i), newFD(b.t))
			b.ok(SetVringErr, fdPayload(i), newFD(b.t))
		}
	}
	for i := range 2 * pairs { // the driver's reset, before any SET_FEATURES
		on := uint32(0)
		if i < 2 {
			on = 1
		}
		b.ok(SetVringEnable, state(i, on))
	}
	b.calls("enable 0 true", "enable 1 true")
}

// startQEMU is DRIVER_OK in QEMU, with memory slots.
func (b *bench) startQEMU(pairs int, g *guest, f virtio.Features, first bool) {
	b.t.Helper()
	b.ok(NetSetMTU, U64(1500).Marshal())
	for pair := range pairs {
		if pair == 0 {
			b.ok(SetVringEnable, state(0, 1))
			b.ok(SetVringEnable, state(1, 1))
		}
		b.ok(SetFeatures, U64(f|virtio.ProtocolFeatures).Marshal())
		b.ok(SetStatus, U64(b.number(GetStatus)|8).Marshal())
		if pair == 0 && first {
			b.ok(AddMemReg, SingleRegion{Region: g.region(0, guestSize/2)}.Marshal(), g.fd(b.t))
			b.ok(AddMemReg, SingleRegion{Region: g.region(guestSize/2, guestSize)}.Marshal(), g.fd(b.t))
		}
		for i := 2 * pair; i < 2*pair+2; i++ {
			b.say(SetVringNum, state(i, ringSize))
			b.say(SetVringBase, state(i, 0))
			b.say(SetVringAddr, addr(i).Marshal())
			b.ok(SetVringKick, fdPayload(i), newFD(b.t))
			b.ok(SetVringCall, fdPayload(i), newFD(b.t))
		}
	}
	b.ok(SetStatus, U64(15).Marshal())
	if s := b.number(GetStatus); s != 15 {
		b.t.Fatalf("GET_STATUS says %d, want 15", s)
	}
}

func TestSequenceQEMU(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.connectQEMU(2)
	b.startQEMU(2, g, guestFeatures, true)
	b.calls("mtu 1500", "negotiated "+guestFeatureNames, "memory 1", "memory 2",
		"start 0", "replace 0", "start 1", "replace 1", "start 2", "stop 2", "start 3", "stop 3")
	b.ok(SetVringEnable, state(2, 1)) // the guest's MQ command
	b.ok(SetVringEnable, state(3, 1))
	b.calls("enable 2 true", "start 2", "enable 3 true", "start 3")

	// The guest reboots: other features, the same memory, not sent again.
	for i := range 4 {
		if base := b.base(i); base != 0 {
			t.Fatalf("ring %d stopped at %d", i, base)
		}
	}
	b.ok(SetStatus, U64(0).Marshal())
	b.calls("stop 0", "stop 1", "stop 2", "stop 3")
	b.ok(SetVringEnable, state(2, 0))
	b.ok(SetVringEnable, state(3, 0))
	b.calls("enable 2 false", "enable 3 false")
	b.startQEMU(1, g, virtio.Version1, false)
	b.calls("mtu 1500", "negotiated version_1", "start 0", "replace 0", "start 1", "replace 1")
	b.close()
	b.calls("stop 0", "stop 1", "disconnected")
}

func TestSequenceVirtioUser(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	table := MemTable{Regions: []MemRegion{{GPA: guestUser, User: guestUser, Size: guestSize}}} // addresses are its own
	b.say(SetOwner, nil)
	b.number(GetFeatures)
	offered := Protocol(b.number(GetProtocolFeatures))
	b.say(SetProtocolFeatures, U64(offered&(ProtocolMQ|ProtocolReplyAck|ProtocolStatus)).Marshal())
	for i := range 4 {
		b.ok(SetVringCall, fdPayload(i), newFD(t))
	}
	b.ok(SetFeatures, U64(virtio.Version1|virtio.IndirectDesc|virtio.ProtocolFeatures).Marshal())
	b.ok(SetStatus, U64(11).Marshal())
	b.ok(SetMemTable, table.Marshal(), g.fd(t))
	b.calls("negotiated indirect_desc,version_1", "memory 1")
	for i := range 4 {
		b.ok(SetVringNum, state(i, ringSize))
		b.ok(SetVringBase, state(i, 0))
		b.ok(SetVringAddr, addr(i).Marshal())
		b.ok(SetVringKick, fdPayload(i), newFD(t))
	}
	b.ok(SetVringEnable, state(0, 1))
	b.ok(SetVringEnable, state(1, 1))
	b.calls("start 0", "start 1", "start 2", "start 3", "enable 0 true", "enable 1 true")

	// Memory is hot-plugged between two ENABLEs.
	b.ok(SetVringEnable, state(0, 0))
	b.ok(SetVringEnable, state(1, 0))
	more := MemTable{Regions: []MemRegion{table.Regions[0], {GPA: 1 << 40, User: 1 << 40, Size: 4096}}}
	b.ok(SetMemTable, more.Marshal(), g.fd(t), g.fd(t))
	b.ok(SetVringEnable, state(0, 1))
	b.ok(SetVringEnable, state(1, 1))
	b.calls("enable 0 false", "enable 1 false", "memory 2", "stop 0", "stop 1", "stop 2", "stop 3",
		"enable 0 true", "start 0", "enable 1 true", "start 1")

	for i := range 4 {
		b.ok(SetVringEnable, state(i, 0))
	}
	for i := range 4 {
		b.base(i)
	}
	b.calls("enable 0 false", "enable 1 false", "stop 0", "stop 1")
}

func TestSequenceCloudHypervisor(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.say(SetOwner, nil)
	b.number(GetFeatures)
	b.say(SetProtocolFeatures, U64(b.number(GetProtocolFeatures)&uint64(ProtocolMQ|ProtocolMemSlots|ProtocolReplyAck)).Marshal())
	b.number(GetQueueNum)
	b.ok(SetFeatures, U64(accepted).Marshal())
	b.ok(SetMemTable, MemTable{Regions: []MemRegion{g.region(0, guestSize/2)}}.Marshal(), g.fd(t))
	b.calls("negotiated "+guestFeatureNames, "memory 1")
	for i := range 4 {
		b.ok(SetVringNum, state(i, ringSize))
	}
	for i := range 4 {
		b.ok(SetVringAddr, addr(i).Marshal())
		b.ok(SetVringBase, state(i, 7))
		if i != 2 { // no call for a queue without a vector
			b.ok(SetVringCall, fdPayload(i), newFD(t))
		}
		b.ok(SetVringKick, fdPayload(i), newFD(t))
	}
	for i := range 4 {
		b.ok(SetVringEnable, state(i, 1))
	}
	b.calls("start 0", "start 1", "start 2", "start 3", "enable 0 true", "enable 1 true", "enable 2 true", "enable 3 true")

	// Hot-plug on top of the table.
	b.ok(AddMemReg, SingleRegion{Region: g.region(guestSize/2, guestSize)}.Marshal(), g.fd(t))
	b.calls("memory 2", "replace 0", "replace 1", "replace 2", "replace 3")

	// Pause and resume.
	b.ok(SetVringEnable, state(0, 0))
	b.ok(SetVringEnable, state(0, 1))
	b.calls("enable 0 false", "enable 0 true")
}

func TestSequenceCrosvm(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.say(SetOwner, nil)
	b.number(GetFeatures)
	b.say(SetProtocolFeatures, U64(b.number(GetProtocolFeatures)&uint64(ProtocolMQ|ProtocolReplyAck)).Marshal())
	b.number(GetQueueNum)
	for start := range 2 { // the second one after a reset, with SET_FEATURES left out
		if start == 0 {
			b.say(SetFeatures, U64(accepted).Marshal())
		}
		b.say(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(t))
		for i := range 2 {
			b.say(SetVringNum, state(i, ringSize))
			b.say(SetVringAddr, addr(i).Marshal())
			b.say(SetVringBase, state(i, 0))
			b.say(SetVringCall, fdPayload(i), newFD(t))
			b.say(SetVringKick, fdPayload(i), newFD(t))
			b.say(SetVringEnable, state(i, 1))
		}
		b.number(GetFeatures)
		if start == 0 {
			b.calls("negotiated "+guestFeatureNames, "memory 1", "start 0", "enable 0 true", "start 1", "enable 1 true")
		} else {
			b.calls("start 0", "enable 0 true", "start 1", "enable 1 true")
		}
		for i := range 2 {
			b.say(SetVringEnable, state(i, 0))
			b.base(i)
		}
		b.calls("enable 0 false", "stop 0", "enable 1 false", "stop 1")
	}
}

// Trap 7.28 and the reset of libkrun: rings are disabled and never stopped,
// SET_OWNER comes again, features may differ.
func TestSequenceLibkrun(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.number(GetFeatures)
	b.say(SetProtocolFeatures, U64(b.number(GetProtocolFeatures)&uint64(ProtocolMQ)).Marshal())
	b.number(GetQueueNum)
	activate := func(f virtio.Features) {
		b.say(SetOwner, nil)
		b.say(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(t))
		b.say(SetFeatures, U64(f|virtio.ProtocolFeatures).Marshal())
		for i := range 2 {
			b.say(SetVringNum, state(i, ringSize))
			b.say(SetVringBase, state(i, 0))
			b.say(SetVringAddr, addr(i).Marshal())
			b.say(SetVringKick, fdPayload(i), newFD(t))
			b.say(SetVringCall, fdPayload(i), newFD(t))
			b.say(SetVringEnable, state(i, 1))
		}
		b.number(GetFeatures)
	}
	reset := func() {
		b.say(SetVringEnable, state(0, 0))
		b.say(SetVringEnable, state(1, 0))
		b.number(GetFeatures)
		b.calls("enable 0 false", "enable 1 false")
	}
	started := "start 0; stop 0; enable 0 true; start 0; start 1; stop 1; enable 1 true; start 1"
	activate(guestFeatures)
	b.calls("memory 1", "negotiated "+guestFeatureNames, started)
	reset()
	activate(guestFeatures) // SET_VRING_NUM ends what was left running
	b.calls("stop 0", "start 0", "stop 0", "enable 0 true", "start 0", "stop 1", "start 1", "stop 1", "enable 1 true", "start 1")
	reset()
	activate(virtio.Version1)
	b.calls("stop 0", "stop 1", "negotiated version_1", started)
}

// Trap 7.15: the order of a ring's messages does not matter, on any start. A
// ring whose memory comes after everything else starts when it is enabled.
func TestTrap7_15_EveryOrder(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	steps := []func(){
		func() { b.ok(SetVringNum, state(0, ringSize)) },
		func() { b.ok(SetVringAddr, addr(0).Marshal()) },
		func() { b.ok(SetVringKick, fdPayload(0), newFD(t)) },
		func() { b.ok(SetVringEnable, state(0, 1)) },
		func() { b.ok(AddMemReg, SingleRegion{Region: g.whole()}.Marshal(), g.fd(t)) },
	}
	b.ok(SetFeatures, U64(accepted).Marshal())
	orders := 0
	for _, p := range permutations(len(steps)) {
		orders++
		missing, late, enabled := 4, false, false // missing: all but ENABLE
		for _, i := range p {
			steps[i]()
			switch i {
			case 3:
				enabled = true
			default:
				missing--
				late = late || missing == 0 && i == 4
			}
			if runs := b.dev.runs(0); runs != (missing == 0 && (enabled || !late)) {
				t.Fatalf("order %v: after step %d with %d missing, the ring runs: %t; told %q", p, i, missing, runs, b.dev.take())
			}
		}
		if !b.dev.isEnabled(0) {
			t.Fatalf("order %v: the ring is not enabled; told %q", p, b.dev.take())
		}
		b.base(0)
		b.ok(SetVringEnable, state(0, 0))
		b.ok(RemMemReg, SingleRegion{Region: g.whole()}.Marshal())
	}
	if orders != 120 {
		t.Fatalf("%d orders were tried, want 120", orders)
	}
}

// permutations of 0 to n-1.
func permutations(n int) [][]int {
	if n == 0 {
		return [][]int{nil}
	}
	var all [][]int
	for _, p := range permutations(n - 1) {
		for at := range n {
			q := append(append(append([]int{}, p[:at]...), n-1), p[at:]...)
			all = append(all, q)
		}
	}
	return all
}

// The same with SET_FEATURES among them, which only a first start can have
// anywhere.
func TestTrap7_15_FeaturesInAnyOrder(t *testing.T) {
	for _, p := range permutations(5) {
		t.Run(fmt.Sprint(p), func(t *testing.T) {
			b := newBench(t, newStub(), nil)
			g := newGuest(t)
			steps := []func(){
				func() { b.ok(SetFeatures, U64(accepted).Marshal()) },
				func() { b.ok(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(t)) },
				func() { b.ok(SetVringNum, state(1, ringSize)) },
				func() { b.ok(SetVringAddr, addr(1).Marshal()) },
				func() { b.ok(SetVringKick, noFD(1)) },
			}
			b.ok(SetVringEnable, state(1, 1))
			for _, i := range p {
				steps[i]()
			}
			if !b.dev.runs(1) {
				t.Fatalf("the ring does not run; told %q", b.dev.take())
			}
		})
	}
}
