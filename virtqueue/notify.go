package virtqueue

import "vhostnet/sharedmem"

// Theory of operation.
//
// Both directions have the same shape, known from Dekker's algorithm. The
// announcement is avail.idx or used.idx in a split ring, the flags of a slot
// in a packed one; the wish is flags or an event index, or the word of an
// event suppression area.
//
//	driver (kick)                     device (arming)
//	  store the announcement            store the wish
//	  full fence                        full fence
//	  load the wish, kick or not        load the announcement, sleep or not
//
//	device (call)                     driver (enabling interrupts)
//	  store the announcement            store the wish
//	  full fence                        full fence
//	  load the wish, call or not        load the announcement, sleep or not
//
// With all four fences at least one side sees the other's store; without one
// of them both can miss, and a ring with chains in it sleeps for ever.

// wantsCall says whether the driver wants to know that used.idx went from old
// to where it is, which has just been published.
//
// The publication is a StoreRelease32, and the first load here a
// LoadAcquire32, so the load is not done before the store; what is loaded
// behind an acquire is not done before it either. That is the full fence of
// the call direction, and pairs with the driver's fence between its store of
// used_event or avail.flags and its look at used.idx. The acquired word holds
// avail.flags only when it starts the ring. A wider load of used_event could
// reach past the ring's end, so it is a plain one of 16 bits.
func (s *split) wantsCall(t *taker, n int) bool {
	word := s.avail.LoadAcquire32(s.idxOff)
	// A legacy driver may ask to be called whenever the device has used up
	// all it was given, whatever else it wishes (virtio 1.3, section 6.3).
	if s.notifyOnEmpty && t.count() == 0 && uint16(word>>s.idxShift) == s.nextAvail {
		return true
	}
	if s.eventIdx {
		return passed(s.avail.Load16(s.usedEvent), s.nextUsed, s.nextUsed-uint16(n))
	}
	flags := uint16(word)
	if s.idxOff != 0 {
		flags = s.avail.Load16(0)
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
func (s *split) kicksOff() {
	s.flags = usedNoNotify
	if s.eventIdx {
		s.flags = 0
		s.used.Store16(s.availEvent, s.nextAvail-1)
	}
	s.publish()
}

// arm asks for a kick and reports whether chains came before the driver could
// know.
func (s *split) arm() (more bool) {
	if s.eventIdx {
		// avail_event shares its aligned word with memory behind the ring, so
		// this is a plain store, and needs a fence of its own.
		s.used.Store16(s.availEvent, s.nextAvail)
		sharedmem.Fence(&s.fence)
	} else {
		s.flags = 0
		s.publish()
	}
	// Behind the fence, or the release store, this acquire load is not done
	// before the wish is visible: pairs with the driver's fence between its
	// store of avail.idx and its look at our wish.
	return s.availIdx() != s.nextAvail
}

// disarm turns kicks off after arm. With EVENT_IDX there is nothing to do: the
// driver is past avail_event, or there would be no chains.
func (s *split) disarm() {
	if !s.eventIdx {
		s.flags = usedNoNotify
		s.publish()
	}
}

// Flags of an event suppression area, the upper half of its word; the lower
// one is off_wrap, the position of desc (virtio 1.3, section 2.8.14).
const (
	eventEnable  = 0
	eventDisable = 1
	eventDesc    = 2 // at the descriptor of off_wrap, with EVENT_IDX only
)

// wantsCall says whether the driver wants to know that the slots of the n
// chains published last are used. The first of them was published by a
// StoreRelease32, so the LoadAcquire32 here is not done before: the full fence
// of the call direction, which pairs with the driver's fence between its store
// of its event suppression area and its look at the next slot. The area is one
// word, so both its halves are of one moment.
//
// A driver that writes what was not negotiated, or is reserved, is called.
func (p *packed) wantsCall(t *taker, n int) bool {
	word := p.driver.LoadAcquire32(0)
	switch flags := uint16(word >> 16); {
	case flags == eventDisable:
		return false
	case flags != eventDesc || !p.eventIdx:
		return true
	}
	return p.passedSlot(uint16(word), t.slots(t.first-uint32(n), t.first))
}

// passedSlot says whether the slot that offWrap names is one of the n slots
// that end before nextUsed (virtio 1.3, section 2.8.10). Both are counted from
// the position of the lap that nextUsed is in, so that indices of the lap
// before are negative, modulo 65536.
func (p *packed) passedSlot(offWrap uint16, n uint32) bool {
	event, idx := offWrap&^wrapBit, uint16(p.slot(p.nextUsed))
	if (offWrap&wrapBit != 0) != p.wrap(p.nextUsed) {
		event -= uint16(p.size)
	}
	return passed(event, idx, idx-uint16(n))
}

// kicksOff tells the driver not to kick.
func (p *packed) kicksOff() {
	p.device.StoreRelease32(0, eventDisable<<16|p.keep.mark)
}

// arm asks for a kick and reports whether a chain came before the driver could
// know. off_wrap and flags are one word, so the driver never sees one without
// the other.
func (p *packed) arm() (more bool) {
	wish := eventEnable<<16 | p.keep.mark
	if p.eventIdx {
		wish = eventDesc<<16 | uint32(p.offWrap(p.nextAvail))
	}
	p.device.StoreRelease32(0, wish)
	// Behind the release store this acquire load is not done before the wish
	// is visible: pairs with the driver's fence between its store of a slot's
	// flags and its look at our wish.
	return p.available(p.nextAvail)
}

// disarm turns kicks off after arm. With EVENT_IDX the driver is past off_wrap
// now, but comes by again a lap later.
func (p *packed) disarm() { p.kicksOff() }
