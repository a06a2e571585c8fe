package virtqueue_test

import (
	"slices"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtqueue/vqtest"
)

// other is a back-end that does with an inflight region what the protocol says,
// word by word (vhost-user, "Inflight I/O tracking").
type other struct {
	g, ring     sharedmem.Block
	size        uint16
	avail, used otherPlace
	taken       []uint16 // entry of each chain's head
	slots       []uint16
	counter     uint64
}

// otherPlace is a place in the ring.
type otherPlace struct {
	at   uint16
	wrap bool
}

func (p *otherPlace) move(n, size uint16) {
	if p.at += n; p.at >= size {
		p.at, p.wrap = p.at-size, !p.wrap
	}
}

// flags are AVAIL and USED of a slot that is available there, or used.
func (p otherPlace) flags(used bool) uint16 {
	var f uint16
	if p.wrap {
		f = 1 << 7
	}
	if p.wrap == used {
		f |= 1 << 15
	}
	return f
}

// otherChains fill no ring of 11.
var otherChains = []vqtest.Request{
	{In: []int{20, 30}},
	{Out: [][]byte{[]byte("a frame")}},
	{In: []int{10, 20, 30}},
}

// newOther is such a back-end, on a ring through which so many chains have gone.
func newOther(t *testing.T, size, before int) (*journaled, *other) {
	t.Helper()
	j := newTracked(t, size, 0)
	for range before {
		j.post(1, vqtest.Request{In: []int{100}})
		j.serve()
	}
	state := j.Queue.Suspend()
	c, err := j.Config()
	if err != nil {
		t.Fatal(err)
	}
	at := otherPlace{state.Used &^ (1 << 15), state.Used&(1<<15) != 0}
	o := &other{g: j.inflight.Memory, ring: c.Desc, size: uint16(size), avail: at, used: at}
	o.g.Zero()
	c.Used.Zero() // it asks for every kick
	for i := range uint32(size) {
		o.g.Store16(32+32*i+2, uint16(i+1))
	}
	for _, off := range []uint32{16, 18} {
		o.g.Store16(off, at.at)
	}
	for _, off := range []uint32{20, 21} {
		o.g.Store8(off, one(at.wrap))
	}
	o.g.Store16(10, uint16(size))
	o.g.Store16(8, 1)
	return j, o
}

func one(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// entryAt is the offset of a field of an entry.
func entryAt(i uint16, field uint32) uint32 { return 32 + 32*uint32(i) + field }

// takeAll receives n chains.
func (o *other) takeAll(n int) {
	for range n {
		old := o.g.Load16(14)
		for first, more := true, true; more; first = false {
			d, free := 16*uint32(o.avail.at), o.g.Load16(12)
			if first {
				o.g.Store16(entryAt(old, 6), 0)
				o.g.Store64(entryAt(old, 8), o.counter)
				o.counter++
				o.g.Store8(entryAt(old, 0), 1)
			}
			flags := o.ring.Load16(d + 14)
			more = flags&1 != 0
			if !more {
				o.g.Store16(entryAt(old, 4), free)
			}
			o.g.Store16(entryAt(old, 6), o.g.Load16(entryAt(old, 6))+1)
			o.g.Store64(entryAt(free, 24), o.ring.Load64(d))
			o.g.Store32(entryAt(free, 20), o.ring.Load32(d+8))
			o.g.Store16(entryAt(free, 18), flags)
			o.g.Store16(entryAt(free, 16), o.ring.Load16(d+12))
			o.g.Store16(12, o.g.Load16(entryAt(free, 2)))
			o.avail.move(1, o.size)
		}
		o.g.Store16(14, o.g.Load16(12))
		o.taken, o.slots = append(o.taken, old), append(o.slots, o.g.Load16(entryAt(old, 6)))
	}
}

// give supplies chains, by their numbers, in one batch.
func (o *other) give(chains ...int) {
	place := o.used
	type usedSlot struct {
		at    uint32
		id    uint16
		flags uint16
	}
	var batch []usedSlot
	for _, c := range chains {
		e := o.taken[c]
		last := o.g.Load16(entryAt(e, 4))
		batch = append(batch, usedSlot{16 * uint32(place.at), o.g.Load16(entryAt(last, 16)), place.flags(true)})
		o.g.Store16(entryAt(last, 2), o.g.Load16(12))
		o.g.Store16(12, e)
		place.move(o.slots[c], o.size)
	}
	o.used = place
	o.g.Store16(16, place.at)
	o.g.Store8(20, one(place.wrap))
	for _, u := range slices.Backward(batch) { // the first one's flags last
		o.ring.Store32(u.at+8, 0)
		o.ring.StoreRelease32(u.at+12, uint32(u.id)|uint32(u.flags)<<16)
	}
	for _, c := range chains {
		o.g.Store8(entryAt(o.taken[c], 0), 0)
	}
	o.g.Store16(14, o.g.Load16(12))
	o.g.Store16(18, place.at)
	o.g.Store8(21, one(place.wrap))
}

// What another back-end has taken and not given back is done again, in the order
// in which it was taken and before what came later, also where it gave back in
// another order.
func TestInflightOfAnotherPackedBackEnd(t *testing.T) {
	for before := range 23 { // everywhere in the two laps
		j, o := newOther(t, 11, before)
		for _, r := range otherChains {
			j.post(1, r)
		}
		o.takeAll(3)
		o.give(1)
		j.post(2, vqtest.Request{In: []int{100}})
		j.begin(nil)
		if found, err := j.Queue.Recovered(); !found || err != nil {
			t.Fatalf("behind %d chains: recovered %t, %v", before, found, err)
		}
		chains := popAll(t, j.Queue, 8)
		var sizes []uint32
		for i := range chains {
			sizes = append(sizes, chains[i].Readable+chains[i].Writable)
		}
		if !slices.Equal(sizes, []uint32{50, 60, 100, 100}) {
			t.Errorf("behind %d chains: the next chains have %d bytes", before, sizes)
		}
		pushAll(j.Queue, chains)
		if got := j.serve(); got != 5 || len(j.posted) != 0 {
			t.Errorf("behind %d chains: %d of 5 heads came back", before, got)
		}
		j.Close()
	}
}
