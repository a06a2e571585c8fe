package vhostuser

import (
	"testing"

	"vhostnet/virtio"
)

// The numbers are those of the collection of traps that front-ends set.

func TestTrap7_1_EnableFirst(t *testing.T) {
	b := newBench(t, newStub(), nil)
	b.ok(SetVringEnable, state(3, 1)) // the very first message
	b.calls("enable 3 true")
	b.ok(SetVringEnable, state(3, 1))
	b.calls() // no change
}

func TestTrap7_2_FeaturesWithoutBit30EnableAll(t *testing.T) {
	b := newBench(t, newStub(), nil)
	b.ok(SetVringEnable, state(1, 1))
	b.calls("enable 1 true")
	b.ok(SetFeatures, U64(virtio.Version1).Marshal())
	b.calls("negotiated version_1", "enable 0 true", "enable 2 true", "enable 3 true")
	b.ok(SetFeatures, U64(virtio.Version1|virtio.ProtocolFeatures).Marshal())
	b.calls() // bit 30 leaves them as they are
}

func TestTrap7_3_StartAtUsedIndex(t *testing.T) {
	for _, base := range []uint32{0, 5, 9, 0x8000, 0x80008000, 1<<32 - 1} {
		b := newBench(t, newStub(), nil)
		g := newGuest(t)
		b.handshake(g)
		g.used(0, 7)
		b.ok(SetVringBase, state(0, base))
		b.ok(SetVringNum, state(0, ringSize))
		b.ok(SetVringAddr, addr(0).Marshal())
		b.ok(SetVringKick, fdPayload(0), newFD(t))
		b.calls("start 0")
		if got := b.base(0); got != 7 {
			t.Errorf("base %#x: the ring stands at %d, its used index is 7", base, got)
		}
		b.close()
	}
}

func TestTrap7_7_GetVringBase(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	if got := b.base(2); got != 0 {
		t.Errorf("a ring that never was stands at %d", got)
	}
	b.ok(SetVringBase, state(2, 77))
	if got := b.base(2); got != 77 {
		t.Errorf("a ring that never ran stands at %d, want the base that was set", got)
	}
	b.handshake(g)
	g.used(0, 41)
	b.ring(0)
	for range 2 { // also when it is stopped already
		if got := b.base(0); got != 41 {
			t.Errorf("the ring stands at %d, want 41", got)
		}
	}
	b.calls("stop 0")
	// Nothing revives the ring from stale addresses or a stale kick.
	b.ok(SetVringKick, fdPayload(0), newFD(t))
	b.ok(SetVringNum, state(0, ringSize))
	b.calls()
	b.ok(SetVringAddr, addr(0).Marshal())
	b.calls("start 0")
}

// Trap 7.7, V5: kick and call are closed by GET_VRING_BASE, err is kept.
func TestTrap7_13_DescriptorsOfAStoppedRing(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	before := b.measure().fds
	b.ok(SetVringErr, fdPayload(0), newFD(t))
	b.ring(0)
	if got := measure(t).fds - before; got != 3 {
		t.Fatalf("a ring with kick, call and err holds %d descriptors", got)
	}
	b.base(0)
	if got := measure(t).fds - before; got != 1 {
		t.Fatalf("a stopped ring holds %d descriptors, want err only", got)
	}
}

func TestTrap7_8_IndexBeyondTheRings(t *testing.T) {
	b := newBench(t, newStub(), nil)
	for _, r := range []Request{SetVringNum, SetVringBase, SetVringEnable} {
		b.refused(r, state(4, 1))
	}
	b.refused(SetVringCall, fdPayload(4), newFD(t))
	b.number(GetFeatures) // the session goes on
	b.calls()
}

func TestTrap7_13_NoDescriptor(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.ok(SetVringNum, state(0, ringSize))
	b.ok(SetVringAddr, addr(0).Marshal())
	b.ok(SetVringCall, noFD(0)) // the driver polls
	b.ok(SetVringErr, noFD(0))
	b.ok(SetVringKick, noFD(0)) // and so must the device
	b.calls("start 0")
	if q := b.dev.queue(0); q.Kick() != nil || q.Call() != nil {
		t.Errorf("kick %v, call %v; want none", q.Kick(), q.Call())
	}
	// What the message says and what comes with it must agree.
	b.refused(SetVringCall, noFD(0), newFD(t))
	b.refused(SetVringCall, fdPayload(0))
	b.refused(SetVringKick, fdPayload(0), newFD(t), newFD(t))
	b.calls()
}

func TestTrap7_14_OnePairWithoutCall(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.ok(SetVringNum, state(3, ringSize)) // only the last ring (V15)
	b.ok(SetVringAddr, addr(3).Marshal())
	b.ok(SetVringKick, fdPayload(3), newFD(t))
	b.calls("start 3")
	if q := b.dev.queue(3); q.Index() != 3 || q.Call() != nil {
		t.Errorf("the ring has index %d and call %v; want 3 and none", q.Index(), q.Call())
	}
}

func TestTrap7_16_FeaturesAgain(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.ring(0)
	b.ok(SetVringEnable, state(0, 1))
	b.calls("enable 0 true")
	b.ok(SetFeatures, U64(accepted).Marshal())
	b.calls()
	b.refused(SetFeatures, U64(accepted&^virtio.EventIdx).Marshal())
	b.refused(SetFeatures, U64((accepted|virtio.LogAll)&^virtio.EventIdx).Marshal())
	b.calls()
	if !b.dev.runs(0) {
		t.Fatal("a refused SET_FEATURES stopped the ring")
	}
	b.base(0)
	b.ok(SetFeatures, U64(accepted&^virtio.EventIdx).Marshal())
	b.calls("stop 0", "negotiated indirect_desc,version_1")
}

func TestTrap7_19_EventsReplacedOnARunningRing(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	g.used(0, 6)
	b.live(0)
	before := b.measure().fds
	for _, r := range []Request{SetVringCall, SetVringKick, SetVringErr, SetVringCall, SetVringKick} {
		old := b.dev.queue(0)
		b.ok(r, fdPayload(0), newFD(t))
		b.calls("replace 0")
		if b.dev.queue(0) == old {
			t.Fatalf("%s left the Queue as it was", r)
		}
	}
	if got := measure(t).fds - before; got != 1 { // err is new
		t.Fatalf("%d descriptors more than before, want 1", got)
	}
	e, fd := eventfd(t)
	b.ok(SetVringCall, fdPayload(0), fd)
	b.calls("replace 0")
	b.dev.queue(0).Call().Signal()
	if !signalled(t, e) {
		t.Fatal("a call does not reach the last descriptor")
	}
	if got := b.base(0); got != 6 {
		t.Errorf("the ring stands at %d, want 6", got)
	}
}

func TestTrap7_23_ExtraDescriptors(t *testing.T) {
	b := newBench(t, newStub(), nil)
	before := b.measure()
	for range 100 {
		b.ok(SetVringNum, state(0, ringSize))
		b.refused(SetVringNum, state(0, ringSize), newFD(t))
		b.refused(SetOwner, nil, newFD(t), newFD(t))
	}
	atRest(t, before)
}

func TestTrap7_25_ResetOwnerKeepsTheSession(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.ring(0)
	b.ok(ResetOwner, nil)
	b.ok(SetOwner, nil)
	b.calls()
	b.regions(1)
}

func TestTrap7_27_NothingUnservedIsOffered(t *testing.T) {
	b := newBench(t, newStub(), nil)
	got := Protocol(b.number(GetProtocolFeatures))
	if want := ProtocolMQ | ProtocolLogShmFD | ProtocolRARP | ProtocolReplyAck | ProtocolMTU | ProtocolBackendReq | ProtocolConfig | ProtocolResetDevice | ProtocolMemSlots | ProtocolStatus | ProtocolDeviceState; got != want {
		t.Fatalf("protocol features %s, want %s", got, want)
	}
	for bit := Protocol(1); bit != 0; bit <<= 1 {
		if got.Has(bit) {
			b.ok(SetProtocolFeatures, U64(bit).Marshal())
		} else {
			b.refused(SetProtocolFeatures, U64(bit).Marshal())
		}
	}
}

func TestProtocolFeaturesFollowTheDevice(t *testing.T) {
	d := newStub()
	plain := struct{ Device }{d} // has none of the optional interfaces
	if got, want := offered(plain), Offered&^(ProtocolMTU|ProtocolRARP|ProtocolBackendReq|ProtocolConfig|ProtocolDeviceState); got != want {
		t.Errorf("offered %s, want %s", got, want)
	}
	b := newBench(t, d, func(o *Options) { o.ProtocolMask = ProtocolMemSlots | ProtocolMTU })
	if got := Protocol(b.number(GetProtocolFeatures)); got&(ProtocolMemSlots|ProtocolMTU) != 0 {
		t.Errorf("masked features are offered: %s", got)
	}
	b.refused(NetSetMTU, U64(1500).Marshal())
}

func TestTrap7_34_MTU(t *testing.T) {
	b := newBench(t, newStub(), nil)
	for _, mtu := range []uint64{0, 67, 65536, 1<<16 + 1500, 1<<64 - 1} {
		b.refused(NetSetMTU, U64(mtu).Marshal())
	}
	b.calls()
	b.ok(NetSetMTU, U64(68).Marshal())
	b.ok(NetSetMTU, U64(65535).Marshal())
	b.calls("mtu 68", "mtu 65535")
	b.dev.failing("mtu", errStub)
	b.refused(NetSetMTU, U64(1500).Marshal())
}

func TestAnnounce(t *testing.T) {
	b := newBench(t, newStub(), nil)
	b.ok(SendRARP, []byte{0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0})
	b.calls("announce 525400123456")
}

// V55: a ring in use keeps its configuration.
func TestV55_RunningRingIsImmutable(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	g.used(0, 2)
	b.ring(0)
	b.ok(SetVringEnable, state(0, 1))
	b.calls("enable 0 true")
	q := b.dev.queue(0)
	moved := addr(1)
	moved.Index = 0
	b.refused(SetVringNum, state(0, 2*ringSize))
	b.refused(SetVringNum, state(0, ringSize))
	b.refused(SetVringBase, state(0, 9))
	b.refused(SetVringAddr, moved.Marshal())
	b.calls()
	if b.dev.queue(0) != q || q.Size() != ringSize {
		t.Fatal("a refused change changed the ring")
	}
	if got := b.base(0); got != 2 {
		t.Errorf("the ring stands at %d, want 2", got)
	}
}

// A disabled ring may be moved without being stopped first.
func TestDisabledRingMoves(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	g.used(1, 8)
	b.ring(0)
	moved := addr(1)
	moved.Index = 0
	b.ok(SetVringAddr, moved.Marshal())
	b.calls("stop 0", "start 0")
	if got := b.base(0); got != 8 {
		t.Errorf("the moved ring stands at %d, want 8", got)
	}
}
