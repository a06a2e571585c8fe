package virtqueue

// State is where a suspended ring stands: what a new Queue needs to go on, and
// what a front-end is told.
type State struct {
	Avail uint16 // the next entry of the avail ring to take
	Used  uint16 // the next entry of the used ring to write
}

// Base is the state as vhost-user's GET_VRING_BASE carries it for a split
// ring: the next avail entry. used.idx, the other half, is in guest memory.
func (s State) Base() uint32 { return uint32(s.Avail) }

// Suspend gives the ring up: chains that are taken go back, as by Unpop, the
// reference to the memory is dropped, and every later Pop answers
// [ErrSuspended]. It touches no guest memory, so kicks stay as they are; the
// next Queue on the ring settles them. The caller must hold no Block of a
// taken chain any more.
//
// On a broken ring the State is still right: the position behind the last
// chain whose return was published.
func (q *Queue) Suspend() State {
	q.next = q.used
	q.armed = false
	if q.mem != nil {
		q.mem.Unref()
		q.mem = nil
	}
	if q.dead == nil {
		q.dead = ErrSuspended
	}
	return State{Avail: q.next, Used: q.used}
}

// Close is Suspend for a caller that does not need the State, such as one that
// could not put a new Queue to use. Closing again does nothing.
func (q *Queue) Close() { q.Suspend() }
