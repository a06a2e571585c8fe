package virtqueue_test

import (
	"errors"
	"fmt"
	"testing"

	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// TestV54_FourLaps moves more than four times 65536 descriptors through rings
// of several sizes, in uneven batches, and compares every entry.
func TestV54_FourLaps(t *testing.T) {
	for _, tc := range []struct {
		size     int
		features virtio.Features
	}{
		{1, 0},
		{2, virtio.EventIdx | virtio.InOrder},
		{8, 0},
		{256, virtio.EventIdx},
		{1024, virtio.InOrder},
		{32768, virtio.EventIdx},
		{1, virtio.RingPacked},
		{3, virtio.RingPacked | virtio.EventIdx | virtio.InOrder},
		{7, virtio.RingPacked},
		{1000, virtio.RingPacked | virtio.EventIdx},
		{32767, virtio.RingPacked},
		{32768, virtio.RingPacked | virtio.EventIdx},
	} {
		t.Run(fmt.Sprintf("%d entries, %s", tc.size, tc.features), func(t *testing.T) {
			p := newPair(t, vqtest.Options{Size: tc.size, Features: tc.features, Memory: 16 << 20, Start: 65500})
			const descriptors = 4*65536 + 100
			for moved, round := 0, 0; moved < descriptors; round++ {
				batch := 1 + round*7%tc.size
				lap(t, p, batch, uint32(moved))
				moved += batch
			}
		})
	}
}

// lap moves a batch of chains there and back, whose used lengths count from
// first, and compares every entry.
func lap(t *testing.T, p *vqtest.Pair, batch int, first uint32) {
	t.Helper()
	want := make([]virtqueue.Used, batch)
	for i := range want {
		want[i] = virtqueue.Used{Head: add(t, p, vqtest.Request{In: []int{8}}), Len: first + uint32(i)}
	}
	p.Driver.Publish()
	chains := popAll(t, p.Queue, batch+1)
	if len(chains) != batch {
		t.Fatalf("%d chains, want %d", len(chains), batch)
	}
	for i := range chains {
		if chains[i].Head != want[i].Head {
			t.Fatalf("chain %d is %d, want %d", first+uint32(i), chains[i].Head, want[i].Head)
		}
	}
	p.Queue.Push(want)
	got := make([]virtqueue.Used, batch+1)
	n, err := p.Driver.Reap(got)
	if n != batch || err != nil {
		t.Fatalf("the driver reaped %d, %v, want %d", n, err, batch)
	}
	for i, u := range got[:n] {
		if u != want[i] {
			t.Fatalf("used entry %d is %+v, want %+v", first+uint32(i), u, want[i])
		}
		p.Driver.Free(u.Head)
	}
}

// TestV54_EveryPackedBase resumes a packed ring at every base there is: a chain
// of as many slots as the ring has, at every slot of both laps, goes there and
// back with the bits of its lap.
func TestV54_EveryPackedBase(t *testing.T) {
	for _, size := range []int{1, 3, 64, 1000} {
		for pos := range uint16(2 * size) {
			base := pos | 1<<15
			if int(pos) >= size {
				base = pos - uint16(size)
			}
			r := newPackedRing(t, size, 0, &virtqueue.State{Avail: base, Used: base, Packed: true})
			for i := range size - 1 {
				r.slot(packedData+uint64(i), 1, 9, write|next)
			}
			r.slot(packedData, 1, 7, write)
			if c := r.pop(1)[0]; c.Head != 7 || int(c.Writable) != size {
				t.Fatalf("size %d, base %#x: chain %d of %d bytes", size, base, c.Head, c.Writable)
			}
			r.q.Push([]virtqueue.Used{{Head: 7, Len: 1}})
			want := uint16(write)
			if base&(1<<15) != 0 {
				want |= avail | used
			}
			r.wantSlot(uint32(base&^(1<<15)), 1, 7, want)
			if s := r.q.Suspend(); s.Avail != base^1<<15 || s.Used != s.Avail {
				t.Fatalf("size %d, base %#x: suspended at %+v", size, base, s)
			}
		}
	}
}

// TestV60_SuspendAtEveryPosition suspends a ring with chains popped, pushed and
// waiting, at every value of the index, and goes on with a new Queue: by its
// State, and by what is in memory. No chain is lost, none is returned twice.
func TestV60_SuspendAtEveryPosition(t *testing.T) {
	const size = 8
	for _, byState := range []bool{true, false} {
		t.Run(fmt.Sprintf("by State %v", byState), func(t *testing.T) {
			p := newPair(t, vqtest.Options{Size: size, MaxChain: size, Features: virtio.EventIdx})
			served := uint16(0) // an oracle of used.idx
			for i := range 1<<16 + 100 {
				for p.Driver.Available() > 0 {
					add(t, p, vqtest.Request{In: []int{8}})
				}
				p.Driver.Publish()
				chains := popAll(t, p.Queue, 1+i%size)
				push := i % (len(chains) + 1) // of those taken, some are returned
				pushAll(p.Queue, chains[:push])
				served += uint16(push)

				state := p.Queue.Suspend()
				if state.Base() != uint32(served) || state.Used != served || p.Driver.UsedIdx() != served {
					t.Fatalf("round %d: %+v, base %d, used.idx %d; want all %d", i, state, state.Base(), p.Driver.UsedIdx(), served)
				}
				resume := &state
				if !byState {
					resume = nil
				}
				if err := p.Restart(resume); err != nil {
					t.Fatal(err)
				}
				if n, err := p.Queue.Ready(); n != size-push || err != nil {
					t.Fatalf("round %d: Ready = %d, %v, want %d", i, n, err, size-push)
				}
				done, err := p.Driver.Collect()
				if len(done) != push || err != nil {
					t.Fatalf("round %d: the driver has %d chains back, %v, want %d", i, len(done), err, push)
				}
			}
		})
	}
}

// TestV60_SuspendPacked does the same to packed rings, at every slot of both
// laps, with chains of one slot and of several.
func TestV60_SuspendPacked(t *testing.T) {
	for _, size := range []int{1, 2, 7, 8} {
		t.Run(fmt.Sprintf("%d slots", size), func(t *testing.T) {
			p := newPair(t, vqtest.Options{Size: size, MaxChain: size, Features: virtio.RingPacked | virtio.EventIdx})
			served := uint16(vqtest.WrapBit) // an oracle of the position
			var want []uint16                // heads, in the order in which they must come back
			slots := map[uint16]int{}        // by head
			for i := range 3000 {
				for n := 1 + i%3; p.Driver.Available() > 0; {
					n = min(n, p.Driver.Available())
					head := add(t, p, vqtest.Request{In: make([]int, n)})
					want, slots[head] = append(want, head), n
				}
				p.Driver.Publish()
				chains := popAll(t, p.Queue, 1+i%size)
				push := i % (len(chains) + 1) // of those taken, some are returned
				pushAll(p.Queue, chains[:push])
				for _, head := range want[:push] {
					served = p.Driver.Plus(served, slots[head])
				}
				state := p.Queue.Suspend()
				if at := p.Driver.UsedIdx(); at != served || state != (virtqueue.State{Avail: served, Used: served, Packed: true}) || state.Base() != uint32(served)<<16|uint32(served) {
					t.Fatalf("round %d: %+v, base %#x, the ring is at %#x, want %#x", i, state, state.Base(), at, served)
				}
				if err := p.Restart(&state); err != nil {
					t.Fatal(err)
				}
				done, err := p.Driver.Collect()
				if len(done) != push || err != nil {
					t.Fatalf("round %d: the driver has %d chains back, %v, want %d", i, len(done), err, push)
				}
				for _, c := range done {
					if c.Head != want[0] {
						t.Fatalf("round %d: chain %d came back, want %d", i, c.Head, want[0])
					}
					want = want[1:]
				}
				if _, used := p.Driver.Positions(); used != served {
					t.Fatalf("round %d: the driver is at %#x, the device at %#x", i, used, served)
				}
			}
		})
	}
}

// TestSuspended: a Queue that was suspended does nothing any more, and that is
// not being broken.
func TestSuspended(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 8})
	add(t, p, vqtest.Request{In: []int{8}})
	p.Driver.Publish()
	chains := popAll(t, p.Queue, 8)
	p.Queue.Suspend()
	if _, err := p.Queue.Pop(chains); !errors.Is(err, virtqueue.ErrSuspended) {
		t.Errorf("Pop: %v", err)
	}
	if _, err := p.Queue.Ready(); !errors.Is(err, virtqueue.ErrSuspended) {
		t.Errorf("Ready: %v", err)
	}
	p.Queue.Unpop(1)
	p.Queue.Break(errors.New("too late"))
	if p.Queue.Broken() != nil || p.Queue.TakeErr() != nil {
		t.Errorf("broken: %v", p.Queue.Broken())
	}
	if pushAll(p.Queue, chains) || p.Queue.Arm() || p.Driver.UsedIdx() != 0 {
		t.Error("a suspended Queue writes")
	}
	if s := p.Queue.Suspend(); s != (virtqueue.State{}) {
		t.Errorf("Suspend again: %+v", s)
	}
}
