package virtqueue_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
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
// the chain says, inside of the guest, and what lies between the regions is not
// written. The memory is mapped, so the race detector has no part in it.
// With VHOSTNET_SOAK=1 it goes on for an hour in each format.
func TestV42_Mutator(t *testing.T) {
	for _, f := range []virtio.Features{0, virtio.RingPacked} {
		for _, event := range []virtio.Features{0, virtio.EventIdx} {
			t.Run(fmt.Sprintf("packed %t, event_idx %t", f != 0, event != 0), func(t *testing.T) {
				t.Parallel()
				serveMutated(t, f|event|virtio.IndirectDesc)
			})
		}
	}
}

// mutatedHole is what lies between two regions, bytes.
const mutatedHole = 128

func serveMutated(t *testing.T, f virtio.Features) {
	t.Helper()
	const size = 8
	p := newPair(t, vqtest.Options{Size: size, MaxChain: 16, Memory: 64 * page, Regions: 4, Hole: mutatedHole, Features: f})
	canaries := bytes.Repeat([]byte{0x5a}, mutatedHole)
	for i := range uint64(4) {
		p.Driver.At(vqtest.PairGPA+(i+1)*16*page-mutatedHole, mutatedHole).CopyFrom(canaries, 0)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { mutate(p.Driver, f.Has(virtio.RingPacked), stop) })
	served, broken := serveFor(t, p, size)
	close(stop)
	wg.Wait()
	if t.Logf("%d chains served, %d times broken", served, broken); served == 0 || broken == 0 {
		t.Error("nothing was tested")
	}
	for i := range uint64(4) {
		var got [mutatedHole]byte
		p.Driver.At(vqtest.PairGPA+(i+1)*16*page-mutatedHole, mutatedHole).CopyTo(got[:], 0)
		if !bytes.Equal(got[:], canaries) {
			t.Errorf("the hole behind region %d was written", i)
		}
	}
}

// serveFor serves until enough has happened, or, where the mutator hardly ever
// runs, for a while.
func serveFor(t *testing.T, p *vqtest.Pair, size int) (served, broken int) {
	t.Helper()
	chains := make([]virtqueue.Chain, size)
	start, soak := time.Now(), os.Getenv("VHOSTNET_SOAK") != ""
	enough := func() bool {
		if soak {
			return time.Since(start) > time.Hour
		}
		return served >= 10_000 && broken >= 1000 || time.Since(start) > 5*time.Second
	}
	for round := 0; round%64 != 0 || !enough(); round++ {
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
			for _, b := range chains[i].WritableBlocks() {
				b.Zero()
			}
		}
		pushAll(p.Queue, chains[:n])
		if p.Queue.Broken() != nil {
			t.Fatalf("a right Push was refused: %v", p.Queue.Broken())
		}
		served += n
		if round%8 == 0 {
			p.Queue.Arm()
		}
	}
	return served, broken
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
	for {
		select {
		case <-stop:
			return
		default:
		}
		if packed {
			mutatePacked(d, r)
		} else {
			mutateSplit(d, r)
		}
	}
}

// mutatedTable is where the indirect table lies.
const mutatedTable = vqtest.PairGPA + 8*page

// goodBuffer is a buffer within a region, close to its end in half of the cases.
func goodBuffer(r *rand.Rand) (addr uint64, length uint32) {
	length = 1 + r.Uint32N(64)
	end := vqtest.PairGPA + 16*page*(2+r.Uint64N(3)) - mutatedHole - uint64(length)
	if r.IntN(2) == 0 {
		return end, length
	}
	return end - r.Uint64N(8*page), length
}

// badBuffer is one that the guest does not have.
func badBuffer(r *rand.Rand) (addr uint64, length uint32) {
	switch r.IntN(4) {
	case 0:
		return vqtest.PairGPA + 64*page - r.Uint64N(8), 16
	case 1:
		return vqtest.PairGPA + 16*page*(1+r.Uint64N(3)) - r.Uint64N(mutatedHole), 1 + r.Uint32N(64) // into a hole
	case 2:
		return vqtest.PairGPA, r.Uint32()
	}
	return r.Uint64(), r.Uint32()
}

func mutateSplit(d *vqtest.Driver, r *rand.Rand) {
	i := uint16(r.IntN(8))
	addr, length := goodBuffer(r)
	flags, next := uint16(r.IntN(2)), i+1
	if i == 7 {
		flags = 0
	}
	switch r.IntN(64) {
	case 0, 1:
		addr, length = badBuffer(r)
	case 2:
		flags, next = flagNext, uint16(r.IntN(12))
	case 3:
		flags |= flagWrite
	case 4:
		addr, length, flags = mutatedTable, uint32(16*r.IntN(18)), flagIndirect
	case 5:
		d.SetAvailIdx(uint16(r.Uint32()))
	case 6:
		d.SetAvailEntry(i, uint16(r.IntN(10)))
	default:
		d.SetAvailEntry(i, uint16(r.IntN(8)))
		d.SetAvailIdx(d.UsedIdx() + uint16(r.IntN(4)))
	}
	if r.IntN(2) == 0 {
		d.SetDesc(i, addr, length, flags, next)
	} else {
		d.SetTableDesc(mutatedTable, int(i), addr, length, flags&^flagIndirect, next)
	}
}

// mutatePacked writes a slot, for the device in one case of four, an entry of
// the table, or the driver's wish.
func mutatePacked(d *vqtest.Driver, r *rand.Rand) {
	i := uint16(r.IntN(8))
	addr, length := goodBuffer(r)
	flags := uint16(r.IntN(2)*flagWrite | r.IntN(2)*vqtest.FlagAvail | r.IntN(2)*vqtest.FlagUsed)
	switch r.IntN(32) {
	case 0, 1:
		addr, length = badBuffer(r)
	case 2:
		flags |= flagNext
	case 3, 4, 5:
		addr, length, flags = mutatedTable, uint32(16*r.IntN(10)), flags|flagIndirect
	case 6:
		d.SetDriverEvent(uint16(r.Uint32()), uint16(r.IntN(5)))
	case 7, 8, 9, 10:
		d.SetTableDesc(mutatedTable, int(i), addr, length, flags&flagWrite, uint16(r.Uint32()))
		return
	}
	d.SetDesc(i, addr, length, flags, uint16(r.IntN(10)))
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
