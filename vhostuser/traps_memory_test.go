package vhostuser

import (
	"testing"

	"vhostnet/internal/sys"
)

func TestTrap7_9_MemoryUnderLiveRings(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	g.used(0, 3)
	b.live(0)
	b.live(1)
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
	b.live(0)
	b.live(1)

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
	b.live(0)
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
	b.live(0)
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
	b.live(0)
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
	b := newBench(t, newStub(), nil)
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
