package vhostuser

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// runDirectory is a directory on a tmpfs.
func runDirectory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "vhostnet-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// keptBench is a session of a guest with packed rings whose positions are kept.
func keptBench(t *testing.T, g *guest, path string, memory ...MemRegion) *bench {
	t.Helper()
	d := newStub()
	d.features |= virtio.RingPacked
	b := newBench(t, d, func(o *Options) { o.Positions = path })
	b.ok(SetFeatures, U64(accepted|virtio.RingPacked).Marshal())
	fds := make([]*sys.FD, len(memory))
	for i := range fds {
		fds[i] = g.fd(t)
	}
	b.ok(SetMemTable, MemTable{Regions: memory}.Marshal(), fds...)
	return b
}

// packedLive starts packed ring i as a front-end does that knows of no position.
func (b *bench) packedLive(i int) {
	b.t.Helper()
	b.packedFrom(i, 0x80008000)
}

// packedFrom starts it as one does that stands at base.
func (b *bench) packedFrom(i int, base uint32) {
	b.t.Helper()
	b.ok(SetVringNum, state(i, ringSize))
	b.ok(SetVringBase, state(i, base))
	b.ok(SetVringAddr, addr(i).Marshal())
	b.ok(SetVringKick, fdPayload(i), newFD(b.t))
}

// serves makes a chain available in slot n of packed ring i, in the first lap,
// and has the device return it.
func (b *bench) serves(g *guest, i, n int) {
	b.t.Helper()
	at := uint32(i*ringSpace + 16*n)
	g.mem.Store64(at, 0x80000)
	g.mem.Store64(at+8, 64|uint64(n)<<32|(2|1<<7)<<48) // writable, available
	b.dev.mu.Lock()                                    // the session takes the queue away under it
	defer b.dev.mu.Unlock()
	q := b.dev.queues[i]
	err := sharedmem.Guard(func() error {
		var chains [2]virtqueue.Chain
		got, err := q.Pop(chains[:])
		if err != nil || got != 1 || int(chains[0].Head) != n {
			b.t.Errorf("%d chains, the first %d, %v; want chain %d", got, chains[0].Head, err, n)
		}
		q.Push([]virtqueue.Used{{Head: chains[0].Head, Len: 10}})
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// A packed ring goes on where it was though the front-end does not know where
// that is, as nobody has told it, and its memory came in other pieces.
func TestPositionsOutliveTheSession(t *testing.T) {
	path, g := filepath.Join(runDirectory(t), "port"), newGuest(t)
	b := keptBench(t, g, path, g.whole())
	for i := range 2 {
		b.packedLive(i)
		b.serves(g, i, 0)
	}
	b.serves(g, 0, 1)
	b.close()

	b = keptBench(t, g, path, g.region(0, guestSize/2), g.region(guestSize/2, guestSize))
	b.packedLive(0)
	b.packedLive(1)
	b.serves(g, 0, 2)
	if text := b.log.String(); strings.Count(text, "goes on where it was left") != 2 {
		t.Errorf("the log does not tell of two rings that go on:\n%s", text)
	}
	for i, want := range []uint32{0x80038003, 0x80018001} {
		if got := b.base(i); got != want {
			t.Errorf("ring %d stands at %#x, want %#x", i, got, want)
		}
	}
	// From here on the front-end knows.
	b.ok(SetVringNum, state(0, ringSize))
	b.ok(SetVringBase, state(0, 0x80078007))
	b.ok(SetVringAddr, addr(0).Marshal())
	b.ok(SetVringKick, fdPayload(0), newFD(t))
	if got := b.base(0); got != 0x80078007 {
		t.Errorf("the ring stands at %#x, want what the front-end said after it was told", got)
	}
}

// Where a front-end stands that has given chains back meanwhile is what its base
// says: the chains up to there are given back, and the log tells.
func TestPositionsBehindAFrontEndThatGaveBack(t *testing.T) {
	path, g := filepath.Join(runDirectory(t), "port"), newGuest(t)
	b := keptBench(t, g, path, g.whole())
	b.packedLive(0)
	b.serves(g, 0, 0)
	b.close()
	slot := func(n int) uint32 { return uint32(16*n + 12) }
	g.mem.Store32(slot(1), 1|1<<7<<16)         // available
	g.mem.Store32(slot(2), 2|(1<<7|1<<15)<<16) // given back

	b = keptBench(t, g, path, g.whole())
	b.packedFrom(0, 0x80038003)
	if got := g.mem.Load32(slot(1)); got != 1|(1<<7|1<<15)<<16 {
		t.Errorf("slot 1 is %#x, want it used", got)
	}
	b.serves(g, 0, 3)
	if text := b.log.String(); !strings.Contains(text, "given back unserved") || !strings.Contains(text, "chains=2") {
		t.Errorf("the log does not tell of two chains:\n%s", text)
	}
}

// Another guest's rings at the same addresses, and a driver that set up its
// ring anew, begin where the front-end says, and the log says so once.
func TestPositionsOfAnotherRing(t *testing.T) {
	path, g := filepath.Join(runDirectory(t), "port"), newGuest(t)
	b := keptBench(t, g, path, g.whole())
	for i := range 2 {
		b.packedLive(i)
		b.serves(g, i, 0)
	}
	b.close()
	anew := func(g *guest) *guest { g.mem.Zero(); return g }
	for name, other := range map[string]*guest{"another guest": newGuest(t), "another driver": anew(g)} {
		b := keptBench(t, other, path, other.whole())
		b.packedLive(0)
		b.packedLive(1)
		if text := b.log.String(); strings.Count(text, "are not used") != 1 {
			t.Errorf("%s: the log does not tell once that positions are not used:\n%s", name, text)
		}
		b.serves(other, 0, 0)
		if got := b.base(0); got != 0x80018001 {
			t.Errorf("%s: the ring stands at %#x, want %#x", name, got, 0x80018001)
		}
		b.close()
	}
}

// A file that others can read or write, or have, or that is none, is refused.
func TestPositionsFileRefused(t *testing.T) {
	dir := runDirectory(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(at("open"), nil, 0o600))
	must(os.Chmod(at("open"), 0o640))
	must(os.WriteFile(at("file"), nil, 0o600))
	must(os.Symlink(at("file"), at("link")))
	must(os.Mkdir(at("directory"), 0o700))
	held, err := openPositions(at("held"), 4)
	must(err)
	defer held.drop()
	for _, name := range []string{"open", "link", "directory", "held", "missing/file"} {
		p, err := openPositions(at(name), 4)
		if err == nil {
			p.drop()
			t.Errorf("%s: accepted", name)
		}
		if errors.Is(err, sys.ErrLocked) != (name == "held") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p, err := openPositions("/proc/self/comm", 4); err == nil {
		p.drop()
		t.Error("a file that is on no tmpfs was accepted")
	}
	// What is in it does not matter: it is looked at ring by ring.
	must(os.WriteFile(at("noise"), []byte(strings.Repeat("noise ", 100)), 0o600))
	g := newGuest(t)
	b := keptBench(t, g, at("noise"), g.whole())
	b.packedLive(0)
	b.serves(g, 0, 0)
	if got := b.base(0); got != 0x80018001 {
		t.Errorf("the ring stands at %#x, want %#x", got, 0x80018001)
	}
}
