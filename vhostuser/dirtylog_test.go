package vhostuser

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// dirtyLog is a log as the front-end sees it.
type dirtyLog struct {
	file *sharedmem.File
	mem  sharedmem.Block
}

const testLogBytes = guestSize / 4096 / 8

func newDirtyLog(t testing.TB) *dirtyLog {
	t.Helper()
	f, err := sharedmem.NewMemoryFile(4096)
	if err != nil {
		t.Fatal(err)
	}
	m, err := sharedmem.NewMap([]sharedmem.Region{{Size: 4096, File: f}}, sharedmem.MapOptions{Owner: "front-end's log"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Unref(); f.Unref() })
	l := &dirtyLog{file: f}
	if l.mem, err = m.Block(0, 4096); err != nil {
		t.Fatal(err)
	}
	return l
}

// take gives the pages that are marked, and clears them.
func (l *dirtyLog) take() (pages []int) {
	for off := uint32(0); off < 4096; off += 4 {
		for v := l.mem.Swap32(off, 0); v != 0; v &= v - 1 {
			bit := 0
			for v>>bit&1 == 0 {
				bit++
			}
			pages = append(pages, int(off)*8+bit)
		}
	}
	return pages
}

// logBase gives l to the back-end, which answers what was asked.
func (b *bench) logBase(l *dirtyLog) {
	b.t.Helper()
	fd, err := l.file.Dup()
	if err != nil {
		b.t.Fatal(err)
	}
	v := LogBase{Size: testLogBytes}.Marshal()
	b.say(SetLogBase, v, fd)
	if got, err := b.reply(SetLogBase); err != nil || !bytes.Equal(got, v) {
		b.t.Fatalf("SET_LOG_BASE is answered by % x, %v; want what was asked", got, err)
	}
}

func logged(i int) []byte {
	a := addr(i)
	a.Flags, a.Log = AddrFlagLog, uint64(i)*ringSpace+usedAt
	return a.Marshal()
}

// give makes the device of ring i take one chain, write n bytes of it and give
// it back.
func (b *bench) give(g *guest, i int, at uint64, n uint32) {
	b.t.Helper()
	ring := uint32(i) * ringSpace
	idx := g.mem.Load16(ring + availAt + 2)
	g.mem.Store64(ring, at)
	g.mem.Store64(ring+8, uint64(n)|2<<32) // WRITE
	g.mem.Store16(ring+availAt+4+2*uint32(idx%ringSize), 0)
	g.mem.Store16(ring+availAt+2, idx+1)
	b.dev.mu.Lock() // as a device that the session changes the ring of
	defer b.dev.mu.Unlock()
	q, chain := b.dev.queues[i], make([]virtqueue.Chain, 1)
	if got, err := q.Pop(chain); got != 1 || err != nil {
		b.t.Fatalf("%d chains, %v", got, err)
	}
	q.Push([]virtqueue.Used{{Head: 0, Len: n}})
}

func wantPages(t *testing.T, l *dirtyLog, want ...int) {
	t.Helper()
	if got := l.take(); !slices.Equal(got, want) {
		t.Errorf("pages %v are marked, want %v", got, want)
	}
}

// Trap 7.21, 7.22, 7.44: QEMU's way into and out of a migration, on running
// rings, twice; positions stay.
func TestTrap7_22_LogOnAndOff(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.live(0)
	b.live(1)
	b.ok(SetVringEnable, state(1, 0)) // a pair that the guest does not use
	b.calls("enable 1 false")
	for round := range 2 {
		b.give(g, 0, 0x80000, 10) // not logged
		l := newDirtyLog(t)
		b.logBase(l)
		b.logBase(l) // once per queue pair, before QEMU 8.0
		b.calls()    // nothing is logged yet
		wantPages(t, l)
		b.ok(SetFeatures, U64(accepted|virtio.LogAll).Marshal())
		calls := []string{"replace 0", "stop 1"}
		if round > 0 {
			calls = calls[:1] // parked already
		}
		b.calls(calls...)
		b.ok(SetFeatures, U64(accepted|virtio.LogAll).Marshal())
		b.calls()
		b.ok(SetVringAddr, logged(0))
		b.ok(SetVringAddr, logged(1))
		b.calls("replace 0")
		b.ok(SetVringAddr, logged(0))
		b.calls()
		wantPages(t, l, 4) // a new Queue writes its wishes
		b.give(g, 0, 0x80ffe, 3)
		wantPages(t, l, 4, 0x80, 0x81)

		b.ok(SetFeatures, U64(accepted).Marshal())
		b.ok(SetVringAddr, addr(0).Marshal())
		b.ok(SetVringAddr, addr(1).Marshal())
		b.calls("replace 0", "replace 0")
		b.regions(1) // the log is let go
		l.take()
		b.give(g, 0, 0x80000, 10)
		wantPages(t, l)
	}
	if got := b.base(0); got != 6 {
		t.Errorf("the ring stands at %d, want 6", got)
	}
	if got := b.base(1); got != 0 {
		t.Errorf("the parked ring stands at %d, want 0", got)
	}
}

// Trap 7.21, 7.44: Cloud Hypervisor hands out another log at each look, and
// turns logging off in its own order.
func TestTrap7_21_LogSwapped(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.live(0)
	old := newDirtyLog(t)
	b.logBase(old)
	b.ok(SetFeatures, U64(accepted|virtio.LogAll).Marshal())
	b.ok(SetVringAddr, logged(0))
	b.calls("replace 0", "replace 0")
	for range 20 {
		next := newDirtyLog(t)
		b.logBase(next)
		b.calls("replace 0")
		b.regions(2)
		old.take()
		b.give(g, 0, 0x90000, 1)
		wantPages(t, old) // nobody writes to it any more
		wantPages(t, next, 4, 0x90)
		old = next
	}
	b.ok(SetVringAddr, addr(0).Marshal())
	b.ok(SetFeatures, U64(accepted).Marshal())
	b.calls("replace 0", "replace 0")
	b.regions(1)
	if got := b.base(0); got != 20 {
		t.Errorf("the ring stands at %d, want 20", got)
	}
}

// A device that starts amid a migration gets its log last: until then its rings
// write nothing.
func TestTrap7_21_LogComesLast(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.ok(SetFeatures, U64(accepted|virtio.LogAll).Marshal())
	b.ok(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(t))
	for range 2 {
		b.dev.take()
		b.ok(SetVringEnable, state(0, 1))
		b.ok(SetVringNum, state(0, ringSize))
		b.ok(SetVringAddr, logged(0))
		before := g.bytes()
		b.ok(SetVringKick, fdPayload(0), newFD(t))
		b.number(GetFeatures)
		if b.dev.runs(0) || !bytes.Equal(g.bytes(), before) {
			t.Error("the ring runs without its log")
		}
		l := newDirtyLog(t)
		b.logBase(l)
		if !b.dev.runs(0) {
			t.Fatal("the ring does not run with its log")
		}
		wantPages(t, l, 4)
		b.base(0)
		b.regions(1) // the log of this start goes with it
	}
}

// A log's address may lie outside the memory table; and the flag alone logs.
func TestLogAddress(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.live(0)
	l := newDirtyLog(t)
	b.logBase(l)
	a := addr(0)
	a.Flags, a.Log = AddrFlagLog, 0xff000
	b.ok(SetVringAddr, a.Marshal())
	b.calls("replace 0")
	wantPages(t, l, 0xff)
	a.Log = 1 << 60 // in no log
	b.ok(SetVringAddr, a.Marshal())
	wantPages(t, l)
	b.give(g, 0, 0x80000, 1)
	wantPages(t, l, 0x80)
	b.ok(SetFeatures, U64(accepted|virtio.LogAll).Marshal()) // without the flag: where the ring lies
	b.ok(SetVringAddr, addr(0).Marshal())
	l.take()
	b.give(g, 0, 0x80000, 1)
	wantPages(t, l, 4, 0x80)
}

// V5, V25, V34: what is no log, or too short for the memory, ends the session,
// as the reply cannot say no; nothing is kept.
func TestV25_LogRefused(t *testing.T) {
	before := measure(t)
	for name, tt := range map[string]struct {
		payload []byte
		fds     func(t *testing.T, l *dirtyLog) []*sys.FD
	}{
		"empty":         {LogBase{}.Marshal(), nil},
		"too short":     {LogBase{Size: testLogBytes - 1}.Marshal(), nil},
		"beyond":        {LogBase{Size: 4097}.Marshal(), nil},
		"offset":        {LogBase{Size: testLogBytes, Offset: 8}.Marshal(), nil},
		"offset beyond": {LogBase{Size: testLogBytes, Offset: 4096}.Marshal(), nil},
		"offset wraps":  {LogBase{Size: testLogBytes, Offset: math.MaxUint64 - 4095}.Marshal(), nil},
		"size wraps":    {LogBase{Size: math.MaxUint64}.Marshal(), nil},
		"number":        {U64(testLogBytes).Marshal(), nil},
		"event":         {LogBase{Size: testLogBytes}.Marshal(), func(t *testing.T, _ *dirtyLog) []*sys.FD { t.Helper(); return []*sys.FD{newFD(t)} }},
		"no descriptor": {LogBase{Size: testLogBytes}.Marshal(), func(*testing.T, *dirtyLog) []*sys.FD { return nil }},
		"two":           {LogBase{Size: testLogBytes}.Marshal(), func(t *testing.T, _ *dirtyLog) []*sys.FD { t.Helper(); return []*sys.FD{newFD(t), newFD(t)} }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, newStub(), nil)
			g := newGuest(t)
			l := newDirtyLog(t)
			b.handshake(g)
			b.live(0)
			fd, err := l.file.Dup()
			if err != nil {
				t.Fatal(err)
			}
			fds := []*sys.FD{fd}
			if tt.fds != nil {
				_ = fd.Close()
				fds = tt.fds(t, l)
			}
			b.say(SetLogBase, tt.payload, fds...)
			b.closed()
		})
	}
	atRest(t, before)
}
