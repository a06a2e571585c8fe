package virtqueue

// ring is the seam between what all rings share and what the two formats do
// differently. It is crossed once per batch. A format knows the words of its
// ring and the two positions in it; the chains between the positions are in
// the taker. It is not an interface, because what a caller hands through one
// escapes to the heap: the slices that Pop and Push get would.
type ring struct {
	isPacked bool
	split    split
	packed   packed
}

// newRing lays the views over a ring that Config.check has accepted, and finds
// the ring's place.
func newRing(c *Config) ring {
	r := ring{isPacked: c.packed()}
	if r.isPacked {
		r.packed = newPacked(c)
		r.packed.start(c.Resume)
	} else {
		r.split = newSplit(c)
		r.split.start(c.Resume)
	}
	return r
}

// ready is how many chains can be taken at least.
func (r *ring) ready(t *taker) (int, error) {
	if r.isPacked {
		return r.packed.ready()
	}
	return r.split.ready(t)
}

// gather makes dst the next chains, notes each behind the last one in t.fifo,
// and answers how many there are and how much of the arena they and the taken
// ones use. err says why it stopped before the ring's end. It moves no
// position.
func (r *ring) gather(t *taker, dst []Chain) (n, arena int, err error) {
	if r.isPacked {
		return r.packed.gather(t, dst)
	}
	return r.split.gather(t, dst)
}

// took moves the avail position over the n chains of the last gather.
func (r *ring) took(n int) {
	if r.isPacked {
		r.packed.took()
	} else {
		r.split.nextAvail += uint16(n)
	}
}

// untook moves the avail position back over the n chains taken last, which t
// still has.
func (r *ring) untook(t *taker, n int) {
	if r.isPacked {
		r.packed.untook(t, n)
	} else {
		r.split.nextAvail -= uint16(n)
	}
}

// push writes the used entries of the oldest chains of t, which occupy slots,
// publishes them, and moves the used position; t still has them.
func (r *ring) push(t *taker, used []Used, slots uint32) {
	if r.isPacked {
		r.packed.push(t, used, slots)
	} else {
		r.split.push(used)
	}
}

// wantsCall says whether the driver wants to be called for the n chains that
// were pushed last, and have left t.
func (r *ring) wantsCall(t *taker, n int) bool {
	if r.isPacked {
		return r.packed.wantsCall(t, n)
	}
	return r.split.wantsCall(t, n)
}

// kicksOff tells the driver not to kick.
func (r *ring) kicksOff() {
	if r.isPacked {
		r.packed.kicksOff()
	} else {
		r.split.kicksOff()
	}
}

// arm asks for a kick and reports whether chains came before the driver could
// know.
func (r *ring) arm() (more bool) {
	if r.isPacked {
		return r.packed.arm()
	}
	return r.split.arm()
}

// disarm turns kicks off after arm, when chains came.
func (r *ring) disarm() {
	if r.isPacked {
		r.packed.disarm()
	} else {
		r.split.disarm()
	}
}

// suspend moves the avail position back to the used one.
func (r *ring) suspend() State {
	if r.isPacked {
		return r.packed.suspend()
	}
	return r.split.suspend()
}

// position is that of the next chain to take, as in a State.
func (r *ring) position() uint16 {
	if r.isPacked {
		return r.packed.offWrap(r.packed.nextAvail)
	}
	return r.split.nextAvail
}
