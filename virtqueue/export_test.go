package virtqueue

// For the tests of package virtqueue_test.
var Passed = passed

// ArenaBlocks is how many Blocks all chains that are taken can have, besides
// those that a Chain holds itself.
func (q *Queue) ArenaBlocks() int { return q.take.reserve }
