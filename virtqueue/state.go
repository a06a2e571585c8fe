package virtqueue

import (
	"fmt"

	"vhostnet/virtio"
)

// State is where a suspended ring stands: what a new Queue needs to go on, and
// what a front-end is told. In a split ring positions are avail.idx and
// used.idx, in a packed one the index of a slot with the wrap counter as bit
// 15. A suspended ring has no chains taken, so both are equal.
type State struct {
	Avail  uint16 // the next entry to take
	Used   uint16 // the next entry to write as used
	Packed bool   // of a packed ring
}

// Base is the state as vhost-user's GET_VRING_BASE carries it: for a split
// ring the next avail entry, as used.idx, the other half, is in guest memory;
// for a packed ring avail in the lower and used in the upper half.
func (s State) Base() uint32 {
	if s.Packed {
		return uint32(s.Used)<<16 | uint32(s.Avail)
	}
	return uint32(s.Avail)
}

// StateOf is the State that the base of SET_VRING_BASE means for a ring of a
// driver that accepted f. The used half of a packed ring's base is not looked
// at: front-ends disagree about it, and every device that gives back what it
// has taken before it tells its base has both halves equal.
func StateOf(f virtio.Features, base uint32) State {
	pos := uint16(base)
	return State{Avail: pos, Used: pos, Packed: f.Has(virtio.RingPacked)}
}

// check refuses a State that a ring of size entries cannot go on from.
func (s State) check(size int, isPacked bool) error {
	switch {
	case s.Packed != isPacked:
		return fmt.Errorf("cannot resume: the state is of a %s ring, the driver set up a %s one", formatName(s.Packed), formatName(isPacked))
	case s.Avail != s.Used:
		return fmt.Errorf("cannot resume at avail %d, used %d: a suspended ring has no chains taken, so both are equal", s.Avail, s.Used)
	case s.Packed && int(s.Avail&^wrapBit) >= size:
		return fmt.Errorf("cannot resume at slot %d of a packed ring of %d entries", s.Avail&^wrapBit, size)
	}
	return nil
}

func formatName(isPacked bool) string {
	if isPacked {
		return "packed"
	}
	return "split"
}

// Suspend gives the ring up: chains that are taken go back, as by Unpop, the
// reference to the memory is dropped, and every later Pop answers
// [ErrSuspended]. It touches no guest memory, so kicks stay as they are; the
// next Queue on the ring settles them. The caller must hold no Block of a
// taken chain any more.
//
// On a broken ring the State is still right: the position behind the last
// chain whose return was published.
func (q *Queue) Suspend() State {
	state := q.ring.suspend()
	q.take.last = q.take.first
	q.armed = false
	if q.take.mem != nil {
		q.take.mem.Unref()
		q.take.mem = nil
		q.dirty.unref()
		q.ring.packed.keep.unref()
	}
	if q.dead == nil {
		q.dead = ErrSuspended
	}
	return state
}

// Close is Suspend for a caller that does not need the State, such as one that
// could not put a new Queue to use. Closing again does nothing.
func (q *Queue) Close() { q.Suspend() }
