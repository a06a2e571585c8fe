package virtqueue_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// TestV42_Mutator serves a ring whose every word another thread changes all the
// time. Whatever comes out is in itself right: the Blocks have the bytes that
// the chain says, inside of the guest. The memory is mapped, so the race
// detector has no part in it.
func TestV42_Mutator(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) { testMutator(t, f) })
	}
}

func testMutator(t *testing.T, f virtio.Features) {
	const size = 8
	p := newPair(t, vqtest.Options{Size: size, MaxChain: 16, Memory: 64 * page, Regions: 4, Features: f | virtio.IndirectDesc})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { mutate(p.Driver, f != 0, stop) })
	defer wg.Wait()
	defer close(stop)

	chains := make([]virtqueue.Chain, size)
	served, broken := 0, 0
	limit := time.Now().Add(20 * time.Second)
	for served < 10_000 || broken < 1000 {
		n, err := p.Queue.Pop(chains)
		if n == 0 && time.Now().After(limit) { // the mutator hardly ever runs
			break
		}
		if err != nil {
			broken++
			state := p.Queue.Suspend() // in a packed ring nothing else tells where it stands
			if err := p.Restart(&state); err != nil {
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
}

// checkChain wants c to be right in itself, and touches the ends of its Blocks.
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
			b.Load8(0)
			b.Load8(uint32(b.Len() - 1))
		}
	}
}

// mutate writes what may be right, and now and then what is wrong, into every
// word of the ring and of an indirect table.
func mutate(d *vqtest.Driver, packed bool, stop chan struct{}) {
	r := rand.New(rand.NewPCG(1, 2))
	const table = vqtest.PairGPA + 8*page
	for {
		select {
		case <-stop:
			return
		default:
		}
		// Right: a buffer over the border of two regions, which leads to the
		// next entry, and the last entry to nowhere.
		i := uint16(r.IntN(8))
		addr, length := vqtest.PairGPA+16*page*(1+r.Uint64N(3))-r.Uint64N(16), 1+r.Uint32N(64)
		flags, next := uint16(r.IntN(2)), i+1
		if i == 7 {
			flags = 0
		}
		switch r.IntN(64) {
		case 0:
			addr = vqtest.PairGPA + 64*page - r.Uint64N(8)
		case 1:
			length = r.Uint32()
		case 2:
			flags, next = flagNext, uint16(r.IntN(12))
		case 3:
			flags |= flagWrite
		case 4:
			addr, length, flags = table, uint32(16*r.IntN(18)), flagIndirect
		default:
			if packed {
				break
			}
			switch r.IntN(60) {
			case 0:
				d.SetAvailIdx(uint16(r.Uint32()))
			case 1:
				d.SetAvailEntry(i, uint16(r.IntN(10)))
			default:
				d.SetAvailEntry(i, uint16(r.IntN(8)))
				d.SetAvailIdx(d.UsedIdx() + uint16(r.IntN(4)))
			}
		}
		if packed { // of this lap or of the other one: the device finds those that are its own
			flags |= [2]uint16{vqtest.FlagAvail, vqtest.FlagUsed}[r.IntN(2)]
		}
		if r.IntN(2) == 0 {
			d.SetDesc(i, addr, length, flags, next)
		} else {
			d.SetTableDesc(table, int(i), addr, length, flags&^flagIndirect, next)
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
