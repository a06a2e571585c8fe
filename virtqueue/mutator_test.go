package virtqueue_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// TestV42_Mutator serves a ring whose every word another thread changes all the
// time. Whatever comes out is in itself right: the Blocks have the bytes that
// the chain says, and are written to without a fault outside of the guest. The
// memory is mapped, so the race detector has no part in it.
func TestV42_Mutator(t *testing.T) {
	const size, rounds = 8, 200_000
	p := newPair(t, vqtest.Options{Size: size, MaxChain: 16, Memory: 64 * page, Regions: 4, Features: virtio.IndirectDesc})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		mutate(p.Driver, stop)
	}()
	defer wg.Wait()
	defer close(stop)

	chains := make([]virtqueue.Chain, size)
	served, broken := 0, 0
	for range rounds {
		n, err := p.Queue.Pop(chains)
		if err != nil {
			broken++
			if err := p.Restart(nil); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for i := range chains[:n] {
			checkChain(t, &chains[i])
		}
		pushAll(p.Queue, chains[:n])
		if p.Queue.Broken() != nil {
			t.Fatalf("a right Push was refused: %v", p.Queue.Broken())
		}
		served += n
	}
	if served == 0 || broken == 0 {
		t.Errorf("%d chains served, %d times broken: nothing was tested", served, broken)
	}
	t.Logf("%d chains served, %d times broken", served, broken)
}

// checkChain wants c to be right in itself, and writes to all of it that it
// may, but for the pages of the rings.
func checkChain(t *testing.T, c *virtqueue.Chain) {
	t.Helper()
	if r, w := blocksLen(c.ReadableBlocks()), blocksLen(c.WritableBlocks()); r != uint64(c.Readable) || w != uint64(c.Writable) {
		t.Fatalf("chain of %d and %d bytes has Blocks of %d and %d", c.Readable, c.Writable, r, w)
	}
	for _, list := range [][]sharedmem.Block{c.ReadableBlocks(), c.WritableBlocks()} {
		for _, b := range list {
			if b.Len() == 0 {
				t.Fatal("an empty Block")
			}
			b.Load8(uint32(b.Len() - 1))
		}
	}
}

// mutate writes what may be right and what may be wrong into every word of the
// ring and of an indirect table.
func mutate(d *vqtest.Driver, stop chan struct{}) {
	r := rand.New(rand.NewPCG(1, 2))
	const table = vqtest.PairGPA + 8*page
	address := func() uint64 {
		switch r.IntN(8) {
		case 0:
			return r.Uint64()
		case 1:
			return vqtest.PairGPA + 64*page - r.Uint64N(8)
		case 2:
			return table
		}
		return vqtest.PairGPA + 16*page*r.Uint64N(4) + r.Uint64N(page)
	}
	for {
		select {
		case <-stop:
			return
		default:
		}
		length, flags, next := uint32(r.IntN(64)), uint16(r.IntN(4)), uint16(r.IntN(9))
		switch r.IntN(16) {
		case 0:
			flags |= flagIndirect
			length = uint32(16 * r.IntN(18))
		case 1:
			length = r.Uint32()
		}
		i := r.IntN(8)
		switch r.IntN(4) {
		case 0:
			d.SetDesc(uint16(i), address(), length, flags, next)
		case 1:
			d.SetTableDesc(table, i, address(), length, flags, next)
		case 2:
			d.SetAvailEntry(uint16(i), uint16(r.IntN(9)))
		case 3:
			d.SetAvailIdx(d.UsedIdx() + uint16(r.IntN(10)))
		}
	}
}

// TestV69_BrokenRingsAllocateLittle: what a guest can make the device allocate
// does not depend on what it writes.
func TestV69_BrokenRingsAllocateLittle(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 8})
	add(t, p, vqtest.Request{In: []int{8}})
	add(t, p, vqtest.Request{In: []int{8}})
	p.Driver.SetAvailEntry(1, 999)
	p.Driver.Publish()
	chains := make([]virtqueue.Chain, 8)
	allocs := testing.AllocsPerRun(100, func() {
		// The good chain before the bad head comes again and again.
		if n, err := p.Queue.Pop(chains); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		p.Queue.Unpop(1)
	})
	if allocs > 1 {
		t.Errorf("%v allocations per Pop before a bad head, want at most the error", allocs)
	}
	p.Queue.Break(errors.New("enough"))
	if allocs := testing.AllocsPerRun(100, func() { _, _ = p.Queue.Pop(chains) }); allocs != 0 {
		t.Errorf("%v allocations per Pop of a broken ring", allocs)
	}
}
