//go:build doubleread

package virtqueue_test

import (
	"fmt"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// watchPair notes what the device reads of p's memory. signals are the words
// that are polled: each call of the Queue may ask each of them once.
func watchPair(tb testing.TB, p *vqtest.Pair) (w *sharedmem.Watch, signals []sharedmem.Block) {
	tb.Helper()
	c, err := p.Config()
	if err != nil {
		tb.Fatal(err)
	}
	w = new(sharedmem.Watch)
	packed := c.Features.Has(virtio.RingPacked)
	w.Add(c.Desc, func(off uint64) string {
		return fmt.Sprintf("%s of descriptor %d", descField(packed, off%16), off/16)
	})
	w.Add(c.Avail, func(off uint64) string { return availField(c.Size, off) })
	w.Add(c.Used, func(off uint64) string { return fmt.Sprintf("device's area +%d", off) })
	for _, r := range p.Mem.Regions() {
		b, err := p.Mem.Block(r.GPA, r.Size)
		if err != nil {
			tb.Fatal(err)
		}
		w.Add(b, func(off uint64) string { return fmt.Sprintf("guest memory at %#x", r.GPA+off) })
	}
	signals = []sharedmem.Block{c.Avail.Sub(0, 4)} // packed: all of the driver's wish
	if packed {
		return w, signals
	}
	if c.Features.Has(virtio.EventIdx) {
		signals = append(signals, c.Avail.Sub(4+2*uint64(c.Size), 2))
	}
	if !c.Avail.Aligned(0, 4) {
		w.Narrow(c.Avail.Sub(2, 2)) // idx, whose aligned word holds ring[0] too
	}
	return w, signals
}

func descField(packed bool, off uint64) string {
	switch {
	case off < 8:
		return "addr"
	case off < 12:
		return "len"
	case packed:
		return "id and flags"
	case off < 14:
		return "flags"
	}
	return "next"
}

func availField(size int, off uint64) string {
	switch entry := (int(off) - 4) / 2; {
	case off < 2:
		return "avail.flags"
	case off < 4:
		return "avail.idx"
	case entry < size:
		return fmt.Sprintf("avail.ring[%d]", entry)
	}
	return "used_event"
}

// requests are all shapes of chains that a driver makes.
var requests = []vqtest.Request{
	{Out: [][]byte{[]byte("one buffer")}},
	{In: []int{1500}},
	{Out: [][]byte{[]byte("header"), []byte("frame")}, In: []int{1, 100}},
	{Out: [][]byte{{}, []byte("x"), {}}, In: []int{0, 1}},
	{Out: [][]byte{[]byte("a"), []byte("b"), []byte("c")}, In: []int{7}, Indirect: true},
	{Out: [][]byte{[]byte("a"), []byte("b"), []byte("c")}, In: []int{7}, Indirect: true, Direct: 2},
	{In: []int{5, 6, 7, 8, 9, 10, 11}},
	{In: []int{3 * page}}, // over the border of two regions
}

// TestP2_EachWordOnce: from Pop to Push the device reads each word of the ring,
// of the descriptors and of the tables once (security property P2), and what
// it decides is what a device decides whose memory keeps still. Each load finds
// a word that changes behind it.
func TestP2_EachWordOnce(t *testing.T) {
	packed := []variant{
		{"packed", vqtest.Options{Size: 37, Features: virtio.RingPacked | virtio.Version1}},
		{"packed, event_idx", vqtest.Options{Size: 37, Features: virtio.RingPacked | virtio.Version1 | virtio.EventIdx}},
	}
	for _, v := range append(packed, variants(32)...) {
		t.Run(v.name, func(t *testing.T) {
			v.opts.Features |= virtio.IndirectDesc
			v.opts.Memory, v.opts.Regions = 64*page, 16
			p := newPair(t, v.opts)
			w, signals := watchPair(t, p)
			next := func() {
				for _, s := range signals {
					w.Forget(s)
				}
			}
			const batch = 4
			chains := make([]virtqueue.Chain, batch)
			for visit := range 3 * len(requests) {
				w.Mark()
				for i := range batch {
					add(t, p, requests[(visit+i)%len(requests)])
				}
				p.Driver.Publish()
				p.Driver.WantCalls()
				w.Do(func() {
					n, err := p.Queue.Pop(chains)
					if n != batch || err != nil {
						t.Fatalf("Pop = %d, %v", n, err)
					}
					next()
					if !pushAll(p.Queue, chains[:n]) {
						t.Error("no call was asked for")
					}
					next()
					if p.Queue.Arm() {
						t.Error("the ring is not empty")
					}
				})
				wantRequests(t, p, chains, visit)
			}
			for _, d := range w.Found() {
				t.Error(d)
			}
			if least := 3 * len(requests) * batch * 3; w.Loads() < least {
				t.Errorf("%d loads were noted, want at least %d", w.Loads(), least)
			}
		})
	}
}

// wantRequests compares the chains of a visit with what was added.
func wantRequests(t *testing.T, p *vqtest.Pair, chains []virtqueue.Chain, visit int) {
	t.Helper()
	done, err := p.Driver.Collect()
	if err != nil || len(done) != len(chains) {
		t.Fatalf("%d chains came back, %v", len(done), err)
	}
	for i := range chains {
		var out, in uint32
		r := requests[(visit+i)%len(requests)]
		for _, b := range r.Out {
			out += uint32(len(b))
		}
		for _, n := range r.In {
			in += uint32(n)
		}
		if c := &chains[i]; c.Readable != out || c.Writable != in || c.Head != done[i].Head || done[i].Len != in {
			t.Errorf("visit %d, chain %d: head %d, %d and %d bytes, %d returned; want head %d, %d and %d",
				visit, i, c.Head, c.Readable, c.Writable, done[i].Len, done[i].Head, out, in)
		}
	}
}

// A device that reads twice is found, and both places are named.
func TestDoubleReadIsFound(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 4})
	add(t, p, vqtest.Request{In: []int{8}})
	p.Driver.Publish()
	w, _ := watchPair(t, p)
	c, err := p.Config()
	if err != nil {
		t.Fatal(err)
	}
	var first, second uint32
	w.Do(func() {
		popAll(t, p.Queue, 4)
		first = c.Desc.Load32(16 + 8)
		second = c.Desc.Load32(16 + 8)
	})
	if first == second {
		t.Error("the word did not change behind the load")
	}
	found := w.Found()
	if len(found) != 1 || found[0].Field != "len of descriptor 1" || found[0].First == found[0].Second {
		t.Errorf("found %v, want the len of descriptor 1", found)
	}
	w.Mark()
	w.Do(func() { first = c.Desc.Load32(16 + 8) })
	if len(w.Found()) != 1 {
		t.Error("a read behind a mark was taken for a second one")
	}
}
