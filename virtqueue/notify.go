package virtqueue

import "vhostnet/sharedmem"

// Theory of operation.
//
// Both directions have the same shape, known from Dekker's algorithm:
//
//	driver (kick)                     device (arming)
//	  store avail.idx                   store the wish (flags or avail_event)
//	  full fence                        full fence
//	  load the wish, kick or not        load avail.idx, sleep or not
//
//	device (call)                     driver (enabling interrupts)
//	  store used.idx                    store the wish (flags or used_event)
//	  full fence                        full fence
//	  load the wish, call or not        load used.idx, sleep or not
//
// With all four fences at least one side sees the other's store; without one
// of them both can miss, and a ring with chains in it sleeps for ever.

// needsCall says whether the driver wants to know that used.idx went from old
// to idx, which has just been published.
//
// The publication is a StoreRelease32, and the first load here a
// LoadAcquire32, so the load is not done before the store; what is loaded
// behind an acquire is not done before it either. That is the full fence of
// the call direction, and pairs with the driver's fence between its store of
// used_event or avail.flags and its look at used.idx. The acquired word holds
// avail.flags only when it starts the ring. A wider load of used_event could
// reach past the ring's end, so it is a plain one of 16 bits.
func (q *Queue) needsCall(old, idx uint16) bool {
	word := q.ring.avail.LoadAcquire32(q.ring.idxOff)
	if !q.started {
		// The driver may have set up its wish for an earlier device, or for
		// none: one call too many is harmless, one too few hangs it.
		q.started = true
		return true
	}
	if q.eventIdx {
		return passed(q.ring.avail.Load16(q.ring.usedEvent), idx, old)
	}
	flags := uint16(word)
	if q.ring.idxOff != 0 {
		flags = q.ring.avail.Load16(0)
	}
	return flags&availNoInterrupt == 0
}

// passed says whether an index that went from old to idx went past event, that
// is whether event is one of old, old+1, ..., idx-1, modulo 65536 (virtio 1.3,
// section 2.7.7.2 and its vring_need_event).
func passed(event, idx, old uint16) bool { return idx-event-1 < idx-old }

// kicksOff tells the driver not to kick, and is where a ring starts. With
// EVENT_IDX used.flags must stay 0 (virtio 1.3, section 2.7.10) and avail_event
// says when to kick: one behind the next entry is 65535 entries away. It costs
// one kick per 65536 chains to leave it there.
func (q *Queue) kicksOff() {
	q.flags = usedNoNotify
	if q.eventIdx {
		q.flags = 0
		q.ring.used.Store16(q.ring.availEvent, q.next-1)
	}
	q.ring.publish(q.used, q.flags)
}

// Arm asks the driver for a kick at its next chain, and reports whether chains
// came before the driver could know: then no kick may come for them, and the
// caller looks again instead of sleeping. The next Pop that finds chains turns
// kicks off by itself. On a broken ring it does nothing and reports false.
//
// Chains that Unpop gave back count as chains that came.
func (q *Queue) Arm() (more bool) {
	if q.dead != nil {
		return false
	}
	q.armed = true
	if q.eventIdx {
		// avail_event shares its aligned word with memory behind the ring, so
		// this is a plain store, and needs a fence of its own.
		q.ring.used.Store16(q.ring.availEvent, q.next)
		sharedmem.Fence(&q.ring.fence)
	} else {
		q.flags = 0
		q.ring.publish(q.used, q.flags)
	}
	// Behind the fence, or the release store, this acquire load is not done
	// before the wish is visible: pairs with the driver's fence between its
	// store of avail.idx and its look at our wish.
	return q.ring.availIdx() != q.next
}

// disarm turns kicks off after Arm. With EVENT_IDX there is nothing to do: the
// driver is past avail_event, or there would be no chains.
func (q *Queue) disarm() {
	if !q.eventIdx {
		q.flags = usedNoNotify
		q.ring.publish(q.used, q.flags)
	}
	q.armed = false
}
