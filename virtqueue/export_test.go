package virtqueue

// For the tests of package virtqueue_test.
var Passed = passed

// ArenaBlocks is how many Blocks all chains that are taken can have, besides
// those that a Chain holds itself.
func (q *Queue) ArenaBlocks() int { return q.take.reserve }

// PassedSlot asks a packed ring of size entries, whose next used slot is at
// position next (0 to 2*size-1), whether the slot that offWrap names is one of
// the n before it.
func PassedSlot(size int, next, n uint32, offWrap uint16) bool {
	p := packed{size: uint32(size), nextUsed: next}
	return p.passedSlot(offWrap, n)
}
