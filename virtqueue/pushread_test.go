package virtqueue_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// Of chains that were read only, a driver that accepted IN_ORDER is told by one
// used descriptor, the last chain's in the first slot; whoever did not has one
// for each.
func TestPushReadWritesOneSlot(t *testing.T) {
	for name, tc := range map[string]struct {
		ring *packedRing
		once bool
	}{
		"in order":               {newPackedRing(t, 5, virtio.InOrder, nil), true},
		"in any order":           {newPackedRing(t, 5, 0, nil), false},
		"in order, in a new lap": {newPackedRing(t, 5, virtio.InOrder, &virtqueue.State{Avail: 3 | 1<<15, Used: 3 | 1<<15, Packed: true}), true},
	} {
		r := tc.ring
		at := func(i uint32) uint32 { return (r.pos + i) % r.size }
		first, second, third := at(0), at(2), at(3)
		r.slot(packedData, 100, 0xdead, next)
		r.slot(packedData+200, 20, 2, 0)
		r.slot(packedData+400, 30, 7, 0)
		r.slot(packedData+1000, 64, 9, 0)
		_, _, before := r.at(third)
		r.pop(3)
		if !r.q.PushRead(3) {
			t.Errorf("%s: the first push makes no call", name)
		}
		if !tc.once {
			r.wantSlot(first, 0, 2, avail|used)
			r.wantSlot(second, 0, 7, avail|used)
			r.wantSlot(third, 0, 9, avail|used)
		} else {
			r.wantSlot(first, 0, 9, avail|used)
			r.wantSlot(third, 64, 9, before)
		}
		want := uint16(r.pos%r.size) | 1<<15
		if r.pos >= r.size {
			want &^= 1 << 15
		}
		if s := r.q.Suspend(); s.Used != want || s.Avail != want {
			t.Errorf("%s: the ring stands at %+v, want %#x", name, s, want)
		}
	}
}

// usedOnce are the flags of a slot that was used in the first lap.
const usedOnce = (avail | used) << 16

// A ring whose position is kept has a used descriptor for each chain: what was
// pushed is to be completed slot by slot.
func TestPushReadOfAKeptRing(t *testing.T) {
	for _, ring := range []func(*testing.T, int, virtio.Features) *journaled{newJournaled, newTracked} {
		j := ring(t, 4, virtio.InOrder)
		heads, chains := make([]uint16, 3), make([]virtqueue.Chain, 4)
		for i := range heads {
			var err error
			if heads[i], err = j.Driver.Add(vqtest.Request{Out: readable(1)}); err != nil {
				t.Fatal(err)
			}
		}
		j.Driver.Publish()
		if n, err := j.Queue.Pop(chains); n != len(heads) || err != nil {
			t.Fatal(n, err)
		}
		j.Queue.PushRead(len(heads))
		c, err := j.Config()
		if err != nil {
			t.Fatal(err)
		}
		for i, head := range heads {
			if word := c.Desc.Load32(uint32(16*i + 12)); word != uint32(head)|usedOnce {
				t.Errorf("slot %d is %#x after chain %d was used", i, word, head)
			}
		}
	}
}

// A driver gets back from PushRead what it gets from Push: every chain once, in
// order, however many at a time, in rings of any size and over many laps.
func TestPushReadReturnsEveryChain(t *testing.T) {
	for _, f := range []virtio.Features{0, virtio.RingPacked} {
		for _, order := range []virtio.Features{0, virtio.InOrder} {
			for _, size := range []int{4, 5, 64, 1000} {
				if f == 0 && size&(size-1) != 0 {
					continue
				}
				features := f | order | virtio.Version1 | virtio.EventIdx
				t.Run(fmt.Sprintf("%v, %d entries", features, size), func(t *testing.T) {
					if err := sharedmem.Guard(func() error { return readLaps(features, size) }); err != nil {
						t.Fatal(err)
					}
				})
			}
		}
	}
}

// readLaps sends chains of one to three buffers through a ring some laps long
// and has them pushed in pieces.
func readLaps(f virtio.Features, size int) error {
	p, err := vqtest.NewPair(vqtest.Options{Size: size, Features: f})
	if err != nil {
		return err
	}
	defer p.Close()
	random := rand.New(rand.NewPCG(uint64(size), uint64(f)))
	chains := make([]virtqueue.Chain, size)
	var posted []uint16
	for range 200 {
		for p.Driver.Available() >= 3 && random.IntN(8) > 0 {
			head, err := p.Driver.Add(vqtest.Request{Out: readable(1 + random.IntN(3))})
			if err != nil {
				return err
			}
			posted = append(posted, head)
		}
		p.Driver.Publish()
		n, err := p.Queue.Pop(chains)
		if err != nil || n != len(posted) {
			return fmt.Errorf("%d chains of %d: %w", n, len(posted), err)
		}
		for done := 0; done < n; {
			piece := 1 + random.IntN(n-done)
			p.Queue.PushRead(piece)
			done += piece
		}
		if err := reapRead(p.Driver, posted); err != nil {
			return err
		}
		posted = posted[:0]
	}
	return p.Queue.Broken()
}

// More chains than are taken cannot be given back: nothing is.
func TestPushReadOfTooMany(t *testing.T) {
	for _, f := range []virtio.Features{0, virtio.RingPacked, virtio.RingPacked | virtio.InOrder} {
		p, err := vqtest.NewPair(vqtest.Options{Size: 8, Features: f | virtio.Version1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		for range 3 {
			if _, err := p.Driver.Add(vqtest.Request{Out: readable(1)}); err != nil {
				t.Fatal(err)
			}
		}
		p.Driver.Publish()
		if n, err := p.Queue.Pop(make([]virtqueue.Chain, 2)); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		if p.Queue.PushRead(0) || p.Queue.Broken() != nil {
			t.Errorf("%v: no chain at all is a call, or breaks the ring: %v", f, p.Queue.Broken())
		}
		if p.Queue.PushRead(3) {
			t.Errorf("%v: a call for chains that were not taken", f)
		}
		if b, ok := errors.AsType[*virtqueue.BrokenError](p.Queue.Broken()); !ok || b.Reason != virtqueue.ReasonPush {
			t.Errorf("%v: the ring is %v, want broken for %v", f, p.Queue.Broken(), virtqueue.ReasonPush)
		}
		if n := p.Driver.Ready(); n != 0 {
			t.Errorf("%v: %d chains came back", f, n)
		}
	}
}

// readable is n buffers.
func readable(n int) (out [][]byte) {
	for range n {
		out = append(out, make([]byte, 64))
	}
	return out
}

// reapRead has the driver take back exactly the chains of want, and frees them.
func reapRead(d *vqtest.Driver, want []uint16) error {
	got := make([]virtqueue.Used, len(want)+1)
	n, err := d.Reap(got)
	if err != nil || n != len(want) {
		return fmt.Errorf("%d chains came back of %d: %w", n, len(want), err)
	}
	for i, head := range want {
		if got[i] != (virtqueue.Used{Head: head}) {
			return fmt.Errorf("chain %d came back as %+v, want head %d", i, got[i], head)
		}
		d.Free(head)
	}
	return nil
}
