package virtqueue_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// logged is a ring whose device notes what it writes.
type logged struct {
	*vqtest.Pair
	t    *testing.T
	log  *sharedmem.DirtyLog
	bits sharedmem.Block // the front-end's view of the log
}

const (
	loggedBytes = 1 << 20
	logPages    = (vqtest.PairGPA + loggedBytes) / sharedmem.DirtyPageSize
	logBytes    = logPages / 8
	firstPage   = vqtest.PairGPA / sharedmem.DirtyPageSize
)

func newLogged(t *testing.T, o vqtest.Options) *logged {
	t.Helper()
	o.Memory = loggedBytes
	p, err := vqtest.NewPair(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	l := &logged{Pair: p, t: t}
	file, err := sharedmem.NewMemoryFile(logBytes)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Unref()
	if l.log, err = sharedmem.NewDirtyLog(file, 0, logBytes, sharedmem.MapOptions{Owner: "log"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.log.Unref)
	view, err := sharedmem.NewMap([]sharedmem.Region{{Size: logBytes, File: file}}, sharedmem.MapOptions{Owner: "front-end"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(view.Unref)
	if l.bits, err = view.Block(0, logBytes); err != nil {
		t.Fatal(err)
	}
	state := p.Queue.Suspend()
	l.start(&state)
	return l
}

// start makes a Queue with the log.
func (l *logged) start(resume *virtqueue.State) {
	l.t.Helper()
	c, err := l.Config()
	if err != nil {
		l.t.Fatal(err)
	}
	c.Log, c.LogUsed, c.Resume = l.log, vqtest.PairGPA+l.Driver.Rings().Used, resume
	if l.Queue, err = virtqueue.New(c, l.Mem); err != nil {
		l.t.Fatal(err)
	}
}

// memory is all of the guest's.
func (l *logged) memory() []byte {
	b := make([]byte, loggedBytes)
	l.Driver.At(vqtest.PairGPA, loggedBytes).CopyTo(b, 0)
	return b
}

// dirty takes the marks, by page from the start of the guest's memory. A mark
// outside of it fails the test.
func (l *logged) dirty() map[int]bool {
	l.t.Helper()
	pages := map[int]bool{}
	for off := uint32(0); off < logBytes; off += 4 {
		for v := l.bits.Swap32(off, 0); v != 0; v &= v - 1 {
			page := int(off)*8 + lowest(v) - firstPage
			if page < 0 || page >= loggedBytes/sharedmem.DirtyPageSize {
				l.t.Errorf("page %d of the guest is marked, which it does not have", page+firstPage)
			}
			pages[page] = true
		}
	}
	return pages
}

func lowest(v uint32) (n int) {
	for ; v&1 == 0; v >>= 1 {
		n++
	}
	return n
}

// serve takes, fills and gives back up to n chains and answers which pages it
// has written to by doing so.
func (l *logged) serve(n int, random *rand.Rand) map[int]bool {
	l.t.Helper()
	written := map[int]bool{}
	note := func(gpa, n uint64) {
		for page := gpa / sharedmem.DirtyPageSize; n > 0 && page <= (gpa+n-1)/sharedmem.DirtyPageSize; page++ {
			written[int(page)-firstPage] = true
		}
	}
	chains := make([]virtqueue.Chain, n)
	n, err := l.Queue.Pop(chains)
	if err != nil {
		l.t.Fatal(err)
	}
	keep := n - random.IntN(n+1)/4
	l.Queue.Unpop(n - keep)
	used := make([]virtqueue.Used, keep)
	for i := range used {
		c := &chains[i]
		left := uint64(random.IntN(int(c.Writable) + 1))
		used[i] = virtqueue.Used{Head: c.Head, Len: uint32(left)}
		for _, b := range c.WritableBlocks() {
			part := make([]byte, min(left, b.Len()))
			for j := range part {
				part[j] = byte(random.Uint32())
			}
			b.CopyFrom(part, 0)
			gpa, _ := l.Mem.GuestAddress(b)
			note(gpa, uint64(len(part)))
			left -= uint64(len(part))
		}
	}
	l.Queue.Push(used)
	if random.IntN(3) == 0 {
		l.Queue.Arm()
	}
	at, lens := l.Driver.Rings(), ringLens(l.Queue)
	note(vqtest.PairGPA+at.Used, lens.Used)
	if l.Queue.Features().Has(virtio.RingPacked) {
		note(vqtest.PairGPA+at.Desc, lens.Desc)
	}
	return written
}

func ringLens(q *virtqueue.Queue) vqtest.Rings {
	c := vqtest.Config{Size: q.Size(), Features: q.Features()}
	return c.Lens()
}

// TestDirtyLog: every page that differs between two moments at which only the
// device wrote is marked, and no page is that it did not write to.
func TestDirtyLog(t *testing.T) {
	for _, f := range []virtio.Features{0, virtio.EventIdx, virtio.RingPacked, virtio.RingPacked | virtio.EventIdx} {
		for _, size := range []int{2, 7, 256, 1024} {
			if f&virtio.RingPacked == 0 && size == 7 {
				continue
			}
			for _, regions := range []int{1, 4} {
				t.Run(fmt.Sprintf("%s/%d/%d", f, size, regions), func(t *testing.T) {
					testDirtyLog(t, vqtest.Options{Size: size, Regions: regions, Features: f | virtio.Version1 | virtio.IndirectDesc, Start: 0xfff0 % uint16(2*size)})
				})
			}
		}
	}
}

func testDirtyLog(t *testing.T, o vqtest.Options) {
	l := newLogged(t, o)
	random := rand.New(rand.NewPCG(1, uint64(o.Size)))
	l.dirty()
	for round := range 60 {
		for range random.IntN(8) {
			r := vqtest.Request{Indirect: random.IntN(4) == 0}
			for range 1 + random.IntN(3) {
				r.In = append(r.In, 1+random.IntN(6000))
			}
			if _, err := l.Driver.Add(r); err != nil {
				break // the ring is full
			}
		}
		l.Driver.Publish()
		before := l.memory()
		written := l.serve(1+random.IntN(8), random)
		if random.IntN(20) == 0 {
			state := l.Queue.Suspend()
			l.start(&state)
		}
		after, marked := l.memory(), l.dirty()
		for page := range loggedBytes / sharedmem.DirtyPageSize {
			from, to := page*sharedmem.DirtyPageSize, (page+1)*sharedmem.DirtyPageSize
			if differs := !bytes.Equal(before[from:to], after[from:to]); differs && !marked[page] {
				t.Fatalf("round %d: page %d was written and not marked", round, page)
			}
			if marked[page] && !written[page] {
				t.Fatalf("round %d: page %d is marked and was not written", round, page)
			}
		}
		if _, err := l.Driver.Collect(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestV32_DirtyLogGone: a log that is cut short ends its ring, and what was
// published stays published.
func TestV32_DirtyLogGone(t *testing.T) {
	p, err := vqtest.NewPair(vqtest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	fd, err := sys.NewMemfd("log", logBytes, sys.MemfdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	send, err := fd.Dup()
	if err != nil {
		t.Fatal(err)
	}
	file, err := sharedmem.OpenFile(send)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Unref()
	log, err := sharedmem.NewDirtyLog(file, 0, logBytes, sharedmem.MapOptions{Owner: "log"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Unref()
	l := &logged{Pair: p, t: t, log: log}
	state := p.Queue.Suspend()
	l.start(&state)
	if _, err := p.Driver.Add(vqtest.Request{In: []int{100}}); err != nil {
		t.Fatal(err)
	}
	p.Driver.Publish()
	if err := sys.Truncate(fd, 0); err != nil {
		t.Fatal(err)
	}
	err = sharedmem.Guard(func() error {
		chains := make([]virtqueue.Chain, 1)
		if n, err := p.Queue.Pop(chains); n != 1 || err != nil {
			t.Errorf("%d chains, %v", n, err)
		}
		p.Queue.Push([]virtqueue.Used{{Head: chains[0].Head, Len: 1}})
		return nil
	})
	if err != nil || p.Queue.Broken() == nil {
		t.Errorf("%v; broken: %v", err, p.Queue.Broken())
	}
	if done, err := p.Driver.Collect(); len(done) != 1 || err != nil {
		t.Errorf("%d chains came back, %v", len(done), err)
	}
}

// TestDirtyLogAllocatesNothing: not even while a migration runs.
func TestDirtyLogAllocatesNothing(t *testing.T) {
	for _, f := range []virtio.Features{0, virtio.RingPacked} {
		plain, err := vqtest.NewPair(vqtest.Options{Features: f})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(plain.Close)
		if ours, without := allocations(t, newLogged(t, vqtest.Options{Features: f}).Pair), allocations(t, plain); ours > without {
			t.Errorf("%s: %v allocations per chain, without a log %v", f, ours, without)
		}
	}
}

// allocations are those of one chain's way, the driver's included.
func allocations(t *testing.T, p *vqtest.Pair) float64 {
	t.Helper()
	chains, used := make([]virtqueue.Chain, 1), make([]virtqueue.Used, 1)
	turn := func() {
		if _, err := p.Driver.Add(vqtest.Request{In: []int{100}}); err != nil {
			t.Fatal(err)
		}
		p.Driver.Publish()
		if n, err := p.Queue.Pop(chains); n != 1 || err != nil {
			t.Fatalf("%d chains, %v", n, err)
		}
		used[0] = virtqueue.Used{Head: chains[0].Head, Len: 100}
		p.Queue.Push(used)
		if _, err := p.Driver.Collect(); err != nil {
			t.Fatal(err)
		}
	}
	for range 300 {
		turn()
	}
	return testing.AllocsPerRun(300, turn)
}
