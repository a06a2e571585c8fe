package virtqueue

// PushRead gives the n oldest chains that are taken back to the driver. None of them has
// a writable part, so there is nothing to tell but that they were read; it
// publishes them all and answers as Push does. More chains than are taken are a
// defect of the caller, which breaks the ring. A driver with packed rings that
// accepted IN_ORDER hears of all of them by one used descriptor (virtio 1.3,
// section 2.8.9), so that their other slots stay in its cache.
func (q *Queue) PushRead(n int) (call bool) {
	switch {
	case n <= 0 || q.dead != nil:
		return false
	case n > int(q.take.count()):
		_ = q.fail(broken(ReasonPush, noChain, noChain)) // the owner hears of it from the next Pop, or from Broken
		return false
	case q.dirty != nil || !q.ring.readsAtOnce():
		return q.pushPieces(n)
	}
	q.ring.pushRead(&q.take, n)
	q.take.first += uint32(n) // see push
	return q.calls(n)
}

// pushPieces is PushRead by way of Push, for rings of which every used entry is
// kept or noted or has to be there.
func (q *Queue) pushPieces(n int) (call bool) {
	var used [32]Used
	for n > 0 {
		piece := used[:min(n, len(used))]
		for i := range piece {
			piece[i] = Used{Head: q.take.oldest(i).head()}
		}
		call = q.Push(piece) || call
		n -= len(piece)
	}
	return call
}

// readsAtOnce reports whether pushRead may be used: of a packed ring, if the driver
// knows the order of its chains and nobody keeps what every slot says.
func (r *ring) readsAtOnce() bool {
	return !r.isPacked || r.packed.inOrder && r.packed.keep.mark == 0
}

// pushRead is push for the n oldest chains of t, which were read only: of a packed
// ring the last one's used descriptor in the first slot of all.
func (r *ring) pushRead(t *taker, n int) {
	if !r.isPacked {
		r.split.pushRead(t, n)
		return
	}
	slots := uint32(n)
	if r.packed.slots != t.count() { // some chain has more than one
		slots = t.slots(t.first, t.first+slots)
	}
	last := [1]Used{{Head: t.oldest(n - 1).head()}}
	r.packed.push(t, last[:], slots)
}

// pushRead writes one used entry per chain, as push does.
func (s *split) pushRead(t *taker, n int) {
	ring, pos, number := s.used, uint32(s.nextUsed), t.first
	for n > 0 {
		at := pos & s.mask
		run := t.fifo[number&t.mask:]
		run = run[:min(uint32(n), uint32(len(run)), s.size-at)]
		for i, c := range run {
			ring.Store64(usedRing+usedSize*(at+uint32(i)), uint64(c.head()))
		}
		n, pos, number = n-len(run), pos+uint32(len(run)), number+uint32(len(run))
	}
	s.publishUsed(pos)
}
