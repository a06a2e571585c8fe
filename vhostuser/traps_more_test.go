package vhostuser

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/virtio"
)

// Cloud Hypervisor restarts rings from another index when there is an inflight
// region; a device that completes at once needs none, and does not offer it.
func TestTrap7_4_NoInflightRegion(t *testing.T) {
	b := newBench(t, newStub(), nil)
	if Protocol(b.number(GetProtocolFeatures)).Has(ProtocolInflight) {
		t.Error("INFLIGHT_SHMFD is offered")
	}
	b.say(GetInflightFD, make([]byte, 24))
	b.closed()
}

// Before any ring exists, it crashed others.
func TestTrap7_29_InflightBeforeRings(t *testing.T) {
	b := newBench(t, newStub(), nil)
	before := b.measure()
	for n := range 9 {
		var fds []*sys.FD
		for range n {
			fds = append(fds, newFD(t))
		}
		b.refused(SetInflightFD, bytes.Repeat([]byte{0xff}, 24), fds...)
	}
	b.calls()
	atRest(t, before)
}

// packedBench has a session whose driver accepted packed rings.
func packedBench(t *testing.T) (*bench, *guest) {
	t.Helper()
	d := newStub()
	d.features |= virtio.RingPacked
	b := newBench(t, d, nil)
	g := newGuest(t)
	b.ok(SetFeatures, U64(accepted|virtio.RingPacked).Marshal())
	b.ok(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(t))
	b.dev.take()
	return b, g
}

// The used half of a packed ring's base is whatever a front-end likes, the
// answer to GET_VRING_BASE has both.
func TestTrap7_5_PackedBase(t *testing.T) {
	for base, want := range map[uint32]uint32{
		0x8000:     0x80008000, // virtio-user
		0x80008000: 0x80008000, // QEMU, at first
		0x00008005: 0x80058005, // of a DPDK source, after a migration
		0x00070007: 0x00070007, // the second lap
		0x80050007: 0x00070007,
	} {
		b, _ := packedBench(t)
		b.ok(SetVringNum, state(0, ringSize))
		b.ok(SetVringBase, state(0, base))
		b.ok(SetVringAddr, addr(0).Marshal())
		b.ok(SetVringKick, fdPayload(0), newFD(t))
		b.calls("start 0")
		if got := b.base(0); got != want {
			t.Errorf("base %#x: the ring stands at %#x, want %#x", base, got, want)
		}
		b.close()
	}
}

func TestTrap7_6_PackedSizes(t *testing.T) {
	b, _ := packedBench(t)
	for _, n := range []uint32{1, 3, 7, 100, 255} {
		b.ok(SetVringNum, state(1, n))
		b.ok(SetVringAddr, addr(1).Marshal())
		b.ok(SetVringKick, fdPayload(1), newFD(t))
		b.calls("start 1")
		if got := b.dev.queue(1).Size(); got != int(n) {
			t.Errorf("%d entries, want %d", got, n)
		}
		b.base(1)
		b.calls("stop 1")
	}
}

func TestTrap7_28_OwnerTwice(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.live(0)
	for range 3 {
		b.ok(SetOwner, nil)
	}
	b.calls()
}

// rss is the process's resident memory, pages.
func rss(t *testing.T) (pages int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size int
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages
}

// The front-end waits for the acknowledgement of its memory table, and its VM
// with it: nothing is touched or walked, however much there is.
func TestTrap7_33_MemoryIsNotTouched(t *testing.T) {
	b := newBench(t, newStub(), nil)
	const size = 64 << 30
	fd, err := sys.NewMemfd("vhostuser-test", size, sys.MemfdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := rss(t)
	b.ok(SetMemTable, MemTable{Regions: []MemRegion{{User: guestUser, Size: size}}}.Marshal(), fd)
	b.calls("memory 1")
	if more := rss(t) - before; more > 4096 {
		t.Errorf("%d pages were touched by mapping", more)
	}
}

// Bits 41 and 42 have two meanings each.
func TestTrap7_37_AmbiguousBits(t *testing.T) {
	d := newStub()
	b := newBench(t, d, nil)
	for _, bit := range []int{41, 42} {
		if f := virtio.Features(1) << bit; virtio.Features(b.number(GetFeatures))&f != 0 {
			t.Errorf("feature bit %d is offered", bit)
		}
		b.refused(SetFeatures, U64(uint64(accepted)|1<<bit).Marshal())
	}
}

// Replies have flags 5 and their own size, also when NEED_REPLY was set, and
// only one comes.
func TestTrap7_38_RepliesAreExact(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	l := newDirtyLog(t)
	fd, err := l.file.Dup()
	if err != nil {
		t.Fatal(err)
	}
	v := LogBase{Size: testLogBytes}.Marshal()
	if err := b.send(SetLogBase, FlagVersion|FlagNeedReply, v, fd); err != nil {
		t.Fatal(err)
	}
	if got, err := b.reply(SetLogBase); err != nil || !bytes.Equal(got, v) {
		t.Errorf("% x, %v; want the request's 16 bytes", got, err)
	}
	b.noMore()
}

// A ring without an interrupt (no MSI-X) is served and nobody is called.
func TestTrap7_42_NoInterrupt(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	e, fd := eventfd(t)
	b.ok(SetVringCall, fdPayload(0), fd)
	b.ok(SetVringNum, state(0, ringSize))
	b.ok(SetVringAddr, addr(0).Marshal())
	b.ok(SetVringEnable, state(0, 1))
	b.ok(SetVringKick, fdPayload(0), newFD(t))
	b.ok(SetVringCall, noFD(0))
	b.calls("enable 0 true", "start 0", "replace 0")
	b.give(g, 0, 0x80000, 1)
	if b.dev.queue(0).Call() != nil || signalled(t, e) {
		t.Error("a driver without an interrupt is called")
	}
}

// Cloud Hypervisor sends the same addresses with another log flag, to a ring
// that is in use: nothing else changes.
func TestTrap7_44_LogFlagAlone(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.live(0)
	b.live(1)
	b.logBase(newDirtyLog(t))
	for range 3 {
		b.give(g, 0, 0x80000, 1)
		b.ok(SetVringAddr, logged(0))
		b.ok(SetVringAddr, addr(0).Marshal())
		b.calls("replace 0", "replace 0")
		b.logBase(newDirtyLog(t))
		if got := b.dev.queue(0).Size(); got != ringSize {
			t.Fatalf("%d entries", got)
		}

	}
	moved := addr(1)
	moved.Index, moved.Flags = 0, AddrFlagLog
	b.refused(SetVringAddr, moved.Marshal()) // others are no log flag
	if got := b.base(0); got != 3 {
		t.Errorf("the ring stands at %d, want 3", got)
	}
}

// virtio-user's guest addresses are its own, up to the top of the address
// space, one region for each file, with holes between what it uses.
func TestTrap7_45_AddressesOfAProcess(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	const top = 1<<63 + guestUser
	table := MemTable{Regions: []MemRegion{
		{GPA: guestUser, User: guestUser, Size: guestSize / 2},
		{GPA: top, User: top, Size: guestSize / 2, Offset: guestSize / 2},
	}}
	b.ok(SetFeatures, U64(accepted).Marshal())
	b.ok(SetMemTable, table.Marshal(), g.fd(t), g.fd(t))
	b.calls("negotiated "+guestFeatureNames, "memory 2")
	b.ring(0)
	a := addr(0)
	a.Index = 1
	a.Desc, a.Avail, a.Used = top, top+availAt, top+usedAt
	b.ok(SetVringNum, state(1, ringSize))
	b.ok(SetVringAddr, a.Marshal())
	b.ok(SetVringKick, fdPayload(1), newFD(t))
	b.calls("start 1")
	if _, err := b.dev.mem.Block(guestUser+guestSize/2, 1); err == nil {
		t.Error("the hole between the regions is memory")
	}
}
