package virtqueue

import (
	"errors"

	"vhostnet/sharedmem"
)

// Theory of operation.
//
// While a migration runs, every byte that the device writes into guest memory
// is noted in the front-end's dirty log (vhost-user: VHOST_F_LOG_ALL): buffers
// as the driver's bytes, the ring's own words at the address that the
// front-end gave for them. A page is marked after it was written and, for the
// ring, after what was written was published: who clears a mark sees all that
// was written before it. Marks may come late, as long as they come before the
// ring is given up, because the front-end looks once more after that.
//
// The log belongs to a Queue from its start to its end. A migration that begins
// or ends, or another log, is another Queue on the same ring. Without a log
// each batch pays a branch.

// dirty notes what a Queue writes. It is nil without a log.
type dirty struct {
	log  *sharedmem.DirtyLog // with a reference once New has succeeded
	mem  *sharedmem.Map      // the Queue's; translates back
	used uint64              // guest address of Config.Used
	desc uint64              // guest address of Config.Desc; of interest in a packed ring

	// buffers are the writable Blocks of the chains that are taken, each at its
	// number modulo the length, as in taker.
	buffers [][]sharedmem.Block
	mask    uint32
}

// span is a range of a ring area, bytes.
type span struct{ off, n uint32 }

// newDirty makes the notes of a Queue whose log is c.Log.
func newDirty(c *Config, t *taker) *dirty {
	if c.Log == nil {
		return nil
	}
	d := &dirty{log: c.Log, mem: t.mem, used: c.LogUsed, buffers: make([][]sharedmem.Block, len(t.fifo)), mask: t.mask}
	d.desc, _ = t.mem.GuestAddress(c.Desc) // an area that Config.check has accepted lies in the Map
	return d
}

func (d *dirty) ref() {
	if d != nil {
		d.log.Ref()
	}
}

func (d *dirty) unref() {
	if d != nil {
		d.log.Unref()
	}
}

// took notes where the chains that were just taken can be written to; from is
// the number of the first.
func (d *dirty) took(chains []Chain, from uint32) {
	for i := range chains {
		slot := (from + uint32(i)) & d.mask
		d.buffers[slot] = append(d.buffers[slot][:0], chains[i].WritableBlocks()...)
	}
}

// markPushed marks the buffers of chains that were just given back, from being the
// number of the first, and the ring's words that say so.
func (q *Queue) markPushed(used []Used, from uint32) {
	q.marking(func(d *dirty) {
		for i := range used {
			slot := (from + uint32(i)) & d.mask
			d.markBuffer(d.buffers[slot], uint64(used[i].Len))
			if cap(d.buffers[slot]) > inlineBlocks { // or long chains, one after the other, would make all slots long
				d.buffers[slot] = nil
			}
		}
		d.markSpans(&q.ring, q.ring.spans(&q.take, from, len(used)))
	})
}

// markWish marks the words by which the device asks for kicks or not.
func (q *Queue) markWish() {
	q.marking(func(d *dirty) {
		if q.ring.isPacked {
			d.log.Mark(d.used, eventAreaLen)
			return
		}
		d.log.Mark(d.used, usedRing)
		if s := &q.ring.split; s.eventIdx {
			d.log.Mark(d.used+uint64(s.availEvent), eventSize)
		}
	})
}

// marking runs f. A front-end that cuts its log short loses the ring: what it
// is told of the guest's memory is not true any more.
func (q *Queue) marking(f func(d *dirty)) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		fault := sharedmem.AsFault(p)
		if fault == nil || !q.dirty.log.Faulted(fault) {
			panic(p)
		}
		q.Break(errors.Join(errDirtyLog, fault))
	}()
	f(q.dirty)
}

var errDirtyLog = errors.New("virtqueue: the front-end's dirty log cannot be written")

// markBuffer marks the first n bytes of blocks.
func (d *dirty) markBuffer(blocks []sharedmem.Block, n uint64) {
	for _, b := range blocks {
		if n == 0 {
			return
		}
		part := min(n, b.Len())
		if gpa, ok := d.mem.GuestAddress(b); ok {
			d.log.Mark(gpa, part)
		}
		n -= part
	}
}

// markSpans marks parts of the area that used entries are written to.
func (d *dirty) markSpans(r *ring, spans [2]span) {
	base := d.used
	if r.isPacked {
		base = d.desc
	} else {
		d.log.Mark(base, usedRing) // flags and idx
	}
	for _, s := range spans {
		d.log.Mark(base+uint64(s.off), uint64(s.n))
	}
}

// spans are where the n chains that were pushed last, from being the number of
// the first, have their used entries; they may wrap around the end.
func (r *ring) spans(t *taker, from uint32, n int) [2]span {
	if r.isPacked {
		p := &r.packed
		slots := t.slots(from, from+uint32(n))
		return around(p.slot(p.sub(p.nextUsed, slots)), slots, p.size, 0, descSize)
	}
	s := &r.split
	return around(uint32(s.nextUsed-uint16(n))&s.mask, uint32(n), s.size, usedRing, usedSize)
}

// around are the n entries from first on, of size in all, each so many bytes
// long, that begin at base.
func around(first, n, size, base, bytes uint32) [2]span {
	head := min(n, size-first)
	return [2]span{{base + bytes*first, bytes * head}, {base, bytes * (n - head)}}
}
