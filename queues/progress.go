package queues

import (
	"vhostnet/metrics"
	"vhostnet/nbl"
)

// A packet that is cut for its receiver may need more buffers than the ring has
// now. What was placed of it is the driver's at once; the rest follows at the
// packet's next delivery. Several senders may be half-way with a packet each,
// so the ring remembers several, by their serials.
//
// Nobody says that a packet's sender has given it up. A sender that has not
// offers the packet again at each of its visits; a slot that was not asked for
// in progressAge, many times as long, may be given to another packet. When no
// slot is free, a packet that does not fit whole is not begun: it waits as if
// there were no buffers at all. So no segment comes twice, unless a sender was
// kept off its CPU for progressAge while others wanted all slots: it begins
// anew, and TCP drops what it has.
const (
	progressSlots = 16
	progressAge   = 10e6 // ns
)

// progressTable is how far packets got into a ring. The zero value is empty.
// It is used under the ring's lock.
type progressTable [progressSlots]progress

type progress struct {
	serial  uint64 // of the packet; 0: the slot is free
	segment int    // the first that is not in the ring
	asked   int64  // when its sender came last, ns of worker.Context.Now
}

// of is the segment from which the packet is to go on at time now: 0 for one
// that is not begun.
func (t *progressTable) of(serial uint64, now int64) int {
	for i := range t {
		if p := &t[i]; p.serial == serial {
			p.asked = now
			return p.segment
		}
	}
	return 0
}

// free is the slot of a packet, or one that it can have at time now; nil: there
// is none.
func (t *progressTable) free(serial uint64, now int64) *progress {
	var free *progress
	for i := range t {
		p := &t[i]
		switch {
		case p.serial == serial:
			return p
		case p.serial != 0 && now-p.asked < progressAge:
			// Its sender is there.
		case free == nil || p.asked < free.asked:
			free = p
		}
	}
	return free
}

// forget frees the slot of a packet that is done, if it has one.
func (t *progressTable) forget(serial uint64) {
	for i := range t {
		if t[i].serial == serial {
			t[i] = progress{}
			return
		}
	}
}

// cutOff is the packet of which some segments are in the ring and others are
// not when the burst is done: its place in the batch, and the segment that is
// next.
func (b *burst) cutOff() (frame, segment int, ok bool) {
	switch {
	case b.placed < b.n:
		next := &b.units[b.placed]
		return next.frame, next.segment, next.segment > 0
	case b.n > 0 && b.units[b.n-1].frame >= b.whole:
		last := &b.units[b.n-1]
		return last.frame, last.segment + 1, true
	}
	return 0, 0, false
}

// claim finds a slot for the packet that is cut off. Without one, nothing of it
// is placed.
func (r *rxRing) claim(b *burst, batch []*nbl.List) {
	if b.n == 0 {
		return
	}
	frame, _, ok := b.cutOff()
	if !ok {
		return
	}
	if b.slot = r.halfway.free(batch[frame].Serial(), b.now); b.slot == nil {
		b.retract(frame)
	}
}

// retract takes the buffers from the segments of a frame, the last that has
// any.
func (b *burst) retract(frame int) {
	for b.placed > 0 && b.units[b.placed-1].frame == frame {
		b.placed--
		if u := &b.units[b.placed]; u.reason == metrics.ReasonNone {
			b.filled = u.first
			b.bytes -= uint64(u.list.Length)
		}
	}
	b.full = false // it is not for want of room here that the rest waits
}

// keepProgress notes how far the packet got that is cut off, and forgets those
// that are done. It answers whether the former made progress in this burst.
func (r *rxRing) keepProgress(b *burst, batch []*nbl.List, accepted int) (part bool) {
	for i := range b.units[:b.placed] {
		u := &b.units[i]
		first := i == 0 || b.units[i-1].frame != u.frame
		if first && u.segment > 0 && u.frame < accepted {
			r.halfway.forget(batch[u.frame].Serial())
		}
	}
	frame, segment, ok := b.cutOff()
	if ok {
		*b.slot = progress{batch[frame].Serial(), segment, b.now}
	}
	return ok && b.placed > 0 && b.units[b.placed-1].frame == frame
}
