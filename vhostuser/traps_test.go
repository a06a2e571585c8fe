package vhostuser

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
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

func TestTrap7_9_MemoryUnderLiveRings(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	g.used(0, 3)
	b.ring(0)
	b.ring(1)
	first := b.dev.queue(0)
	// The same table again is kept as it is mapped.
	b.ok(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(t))
	b.calls()
	if b.dev.queue(0) != first {
		t.Fatal("the ring was replaced for the same table")
	}
	// Another one: rings move, without new addresses.
	b.ok(SetMemTable, MemTable{Regions: []MemRegion{g.region(0, guestSize/2), g.region(guestSize/2, guestSize)}}.Marshal(), g.fd(t), g.fd(t))
	b.calls("memory 2", "replace 0", "replace 1")
	b.regions(2) // the old Map is gone with the acknowledgement
	if b.dev.queue(0) == first {
		t.Fatal("the ring kept its Queue over the old memory")
	}
	// The same places in another file are another table.
	other := newGuest(t)
	other.used(0, 3)
	b.ok(SetMemTable, MemTable{Regions: []MemRegion{g.region(0, guestSize/2), g.region(guestSize/2, guestSize)}}.Marshal(), other.fd(t), other.fd(t))
	b.calls("memory 2", "replace 0", "replace 1")
	if got := b.base(0); got != 3 {
		t.Errorf("the ring stands at %d after all that, want 3", got)
	}
}

// A ring whose memory goes is parked, and goes on where it was.
func TestTrap7_9_ParkAndRevive(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	ringMem, rest := g.region(0, ringSpace), g.region(ringSpace, guestSize)
	b.ok(SetFeatures, U64(accepted).Marshal())
	b.ok(AddMemReg, SingleRegion{Region: ringMem}.Marshal(), g.fd(t))
	b.ok(AddMemReg, SingleRegion{Region: rest}.Marshal(), g.fd(t))
	b.calls("negotiated "+guestFeatureNames, "memory 1", "memory 2")
	g.used(0, 3)
	b.ring(0)
	b.ring(1)

	b.ok(RemMemReg, SingleRegion{Region: ringMem}.Marshal())
	b.calls("memory 1", "replace 0", "replace 1")
	if b.dev.runs(0) || !b.dev.runs(1) {
		t.Fatalf("ring 0 without memory runs: %t, ring 1 runs: %t", b.dev.runs(0), b.dev.runs(1))
	}
	b.ok(SetVringCall, fdPayload(0), newFD(t)) // of no interest to the device
	b.calls()

	// While parked, the driver's memory shows another index; a ring that goes
	// on does not look there.
	g.used(0, 99)
	b.ok(AddMemReg, SingleRegion{Region: ringMem}.Marshal(), g.fd(t))
	b.calls("memory 2", "replace 1", "start 0")
	if got := b.base(0); got != 3 {
		t.Errorf("the revived ring stands at %d, want 3, where it was parked", got)
	}

	// All memory goes.
	b.ok(RemMemReg, SingleRegion{Region: ringMem}.Marshal())
	b.ok(RemMemReg, SingleRegion{Region: rest}.Marshal())
	b.calls("stop 0", "memory 1", "replace 1", "memory 0", "replace 1")
	b.regions(0)
	// New addresses revive a ring, too, which then starts anew.
	g.used(0, 99) // the revived ring has written its own index
	b.ok(AddMemReg, SingleRegion{Region: ringMem}.Marshal(), g.fd(t))
	b.calls("memory 1")
	moved := addr(0)
	moved.Index = 1
	b.ok(SetVringAddr, moved.Marshal())
	b.calls("start 1")
	if got := b.base(1); got != 99 {
		t.Errorf("the moved ring stands at %d, want the used index at its new place, 99", got)
	}
}

// A parked ring still answers GET_VRING_BASE with its position.
func TestTrap7_7_BaseOfAParkedRing(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	g.used(0, 12)
	b.ring(0)
	b.ok(RemMemReg, SingleRegion{Region: g.whole()}.Marshal())
	b.calls("memory 0", "replace 0")
	if got := b.base(0); got != 12 {
		t.Errorf("the parked ring stands at %d, want 12", got)
	}
	b.calls() // the device has nothing to stop
	b.ok(AddMemReg, SingleRegion{Region: g.whole()}.Marshal(), g.fd(t))
	b.calls("memory 1") // and is not revived
}

func TestTrap7_11_ManyRegions(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	var table MemTable
	var fds []*sys.FD
	for i := range uint64(32) {
		table.Regions = append(table.Regions, g.region(i*4096, (i+1)*4096))
		fds = append(fds, g.fd(t))
	}
	b.ok(SetMemTable, table.Marshal(), fds...)
	b.calls("memory 32")
}

func TestTrap7_12_RegionsRefused(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.ring(0)
	b.refused(AddMemReg, SingleRegion{Region: MemRegion{GPA: 1 << 40, User: 1 << 40}}.Marshal(), g.fd(t))                                   // empty
	b.refused(AddMemReg, SingleRegion{Region: MemRegion{GPA: 1 << 40, User: 1 << 40, Size: 4096, Offset: 1<<64 - 4096}}.Marshal(), g.fd(t)) // wraps
	b.refused(AddMemReg, SingleRegion{Region: MemRegion{GPA: guestSize - 1, User: 1 << 40, Size: 4096}}.Marshal(), g.fd(t))                 // overlaps in the guest
	b.refused(AddMemReg, SingleRegion{Region: MemRegion{GPA: 1 << 40, User: 1 << 40, Size: 4096}}.Marshal())                                // no descriptor
	b.refused(AddMemReg, SingleRegion{Region: MemRegion{GPA: 1 << 40, User: 1 << 40, Size: 4096}}.Marshal(), g.fd(t), g.fd(t))              // two
	b.refused(RemMemReg, SingleRegion{Region: g.region(0, 4096)}.Marshal())                                                                 // unknown
	b.refused(SetMemTable, MemTable{}.Marshal())                                                                                            // empty
	b.refused(SetMemTable, MemTable{Regions: []MemRegion{g.region(0, 4096), g.region(8192, 12288)}}.Marshal(), g.fd(t))                     // one descriptor
	b.refused(SetMemTable, MemTable{Regions: []MemRegion{g.region(0, 4096)}}.Marshal(), g.fd(t), g.fd(t))                                   // two
	b.calls()
	b.regions(1)
	whole := g.whole()
	whole.Offset = 12345 // does not count
	b.ok(RemMemReg, SingleRegion{Region: whole}.Marshal(), g.fd(t))
	b.calls("memory 0", "replace 0")
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
	b.refused(SetFeatures, U64(accepted|virtio.LogAll).Marshal()) // not offered
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
	b.ring(0)
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
	if want := ProtocolMQ | ProtocolRARP | ProtocolReplyAck | ProtocolMTU | ProtocolMemSlots | ProtocolStatus; got != want {
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
	if got, want := offered(plain), Offered&^(ProtocolMTU|ProtocolRARP); got != want {
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

// Trap 7.40: memory that is cut short costs the ring, not the session.
func TestTrap7_40_TruncatedMemory(t *testing.T) {
	b := newBench(t, newStub(), nil)
	fd, err := sys.NewMemfd("vhostuser-test", guestSize, sys.MemfdOptions{}) // cannot be sealed
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	send, err := fd.Dup()
	if err != nil {
		t.Fatal(err)
	}
	e, efd := eventfd(t)
	b.ok(SetFeatures, U64(accepted).Marshal())
	b.ok(SetMemTable, MemTable{Regions: []MemRegion{{User: guestUser, Size: guestSize}}}.Marshal(), send)
	b.calls("negotiated "+guestFeatureNames, "memory 1")
	b.ring(0)
	if err := sys.Truncate(fd, 0); err != nil {
		t.Fatal(err)
	}
	b.ok(SetVringErr, fdPayload(1), efd)
	b.ok(SetVringNum, state(1, ringSize))
	b.ok(SetVringAddr, addr(1).Marshal())
	b.refused(SetVringKick, fdPayload(1), newFD(t))
	if !signalled(t, e) {
		t.Error("the front-end was not told by the err event")
	}
	b.refused(SetVringCall, fdPayload(0), newFD(t)) // remaking ring 0 faults
	b.calls("replace 0")
	b.number(GetFeatures)
	b.base(0)
	b.base(1)
}

func TestTrap7_43_ResetsKeepTheMemory(t *testing.T) {
	b := newBench(t, newStub(), nil, func(s *Server) { s.offered |= ProtocolResetDevice }) // not offered yet
	g := newGuest(t)
	b.handshake(g)
	b.ring(0)
	b.ok(SetVringEnable, state(0, 1))
	b.ok(SetStatus, U64(0).Marshal())
	b.calls("enable 0 true")
	b.ok(ResetDevice, nil)
	b.calls("stop 0", "enable 0 false", "reset")
	b.regions(1)
	b.ok(SetFeatures, U64(accepted).Marshal())
	b.calls("negotiated " + guestFeatureNames)
	b.ring(0)
}

// Trap 7.44: the same addresses again, with a log flag, are legal at any time.
func TestTrap7_44_SameAddresses(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.ring(0)
	b.ok(SetVringEnable, state(0, 1))
	b.calls("enable 0 true")
	a := addr(0)
	a.Flags, a.Log = AddrFlagLog, 0x4000
	b.ok(SetVringAddr, a.Marshal())
	b.ok(SetVringAddr, addr(0).Marshal())
	b.calls()
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

func TestDeviceRefuses(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.ring(1)
	b.dev.failing("memory", errStub)
	b.refused(AddMemReg, SingleRegion{Region: MemRegion{GPA: 1 << 40, User: 1 << 40, Size: 4096}}.Marshal(), g.fd(t))
	b.calls("memory 2")
	b.regions(1)

	b.dev.failing("start", errStub)
	e, efd := eventfd(t)
	b.ok(SetVringErr, fdPayload(0), efd)
	b.ok(SetVringNum, state(0, ringSize))
	b.ok(SetVringAddr, addr(0).Marshal())
	b.refused(SetVringKick, fdPayload(0), newFD(t))
	b.calls("start 0")
	if !signalled(t, e) {
		t.Error("the front-end was not told by the err event")
	}
	b.number(GetFeatures)
	b.calls() // not tried again until something changes
	b.dev.failing("start", nil)
	b.say(SetVringKick, fdPayload(0), newFD(t))
	b.number(GetFeatures)
	b.calls("start 0")

	b.dev.failing("replace", errStub)
	b.refused(SetVringCall, fdPayload(0), newFD(t))
	b.calls("replace 0")
	b.base(0)
	b.calls() // the ring was stopped by the failure
}

// A panic behind a handler ends that session, and the port lives on.
func TestPanicEndsTheSession(t *testing.T) {
	d := newStub()
	b := newBench(t, d, nil)
	g := newGuest(t)
	b.handshake(g)
	d.panicIn("enable")
	b.say(SetVringEnable, state(0, 1))
	b.closed()
	b.wait()
	if log := b.log.String(); !strings.Contains(log, "please report") {
		t.Errorf("log does not ask for a report:\n%s", log)
	}
	if got := b.server.Stats().Closed; got != 1 {
		t.Errorf("%d sessions closed, want 1", got)
	}
	b.calls("enable 0 true", "disconnected")
}

// wildFault is what a fault outside guest memory looks like.
type wildFault struct{}

func (wildFault) Error() string { return "fault" }
func (wildFault) RuntimeError() {}
func (wildFault) Addr() uintptr { return 0xdead0000 }

// A fault outside guest memory is not forgiven.
func TestWildFaultIsFatal(t *testing.T) {
	d := newStub()
	d.panicking = "enable"
	d.panicWith = wildFault{}
	s := newSession(&Server{dev: d, rings: d.rings, log: newLimitedLog(hclog.NewNullLogger())}, nil)
	defer func() {
		if r := recover(); r != (wildFault{}) {
			t.Errorf("recovered %v, want the fault", r)
		}
	}()
	_, err := s.do(&message{Header: Header{Request: SetVringEnable}, payload: state(0, 1)})
	t.Errorf("a fault at a wild address became %v", err)
}

// What a ring lacks without NEED_REPLY is told by its err event, and the
// session goes on.
func TestMalformedRingWithoutNeedReply(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	e, efd := eventfd(t)
	b.say(SetVringErr, fdPayload(0), efd)
	b.say(SetVringNum, state(0, ringSize))
	bad := addr(0)
	bad.Desc++
	b.say(SetVringAddr, bad.Marshal())
	b.say(SetVringKick, fdPayload(0), newFD(t))
	b.number(GetFeatures)
	if !signalled(t, e) {
		t.Error("the front-end was not told by the err event")
	}
	b.say(SetVringAddr, addr(0).Marshal())
	b.number(GetFeatures)
	b.calls("start 0")
}

func TestNamesOfStates(t *testing.T) {
	got := fmt.Sprint(SetVringKick, " ", Offered)
	if want := "SET_VRING_KICK mq,rarp,reply_ack,mtu,configure_mem_slots,status"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
