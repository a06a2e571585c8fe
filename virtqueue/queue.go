package virtqueue

import (
	"errors"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// Queue is the device side of one ring. It is made by [New] and has no
// setters: a ring that changes is suspended, and a new Queue resumes it. One
// goroutine at a time may use a Queue; whoever shares it locks. None of its
// methods allocates, unless the ring breaks.
type Queue struct {
	cfg  Config
	ring ring
	take taker

	dirty *dirty // what is written is noted in a migration's log; nil: in none

	armed   bool // the driver was asked for a kick
	started bool // a call was made, so the driver knows this device

	recovered bool  // the ring goes on from what its Journal held
	foreign   error // why it does not, though the Journal held something
	givenBack int   // chains that New gave back unserved

	owed *Event // Config.Err, until the owner takes it to tell of the broken ring
	dead error  // why there are no chains any more: *BrokenError or ErrSuspended
}

// Used is a chain that goes back to the driver.
type Used struct {
	Head uint16 // Chain.Head
	Len  uint32 // bytes written from the start of the chain's writable part
}

// Pop takes up to len(dst) chains, oldest first, and reads no payload. 0 chains
// and no error: the ring is empty, or the chains that are taken fill the
// queue's memory for long chains. Fewer than are ready can come for that
// reason, or because the next one is broken, which the next Pop finds. An
// error is a *[BrokenError], and final.
//
// While no chain is taken, any chain within Config.MaxChain fits.
func (q *Queue) Pop(dst []Chain) (n int, err error) {
	if q.dead != nil {
		return 0, q.dead
	}
	n, arena, err := q.ring.gather(&q.take, dst)
	if n == 0 {
		if err == nil || errors.Is(err, errNoRoom) {
			return 0, nil
		}
		return 0, q.fail(err)
	}
	if q.armed {
		q.ring.disarm()
		q.armed = false
		if q.dirty != nil {
			q.markWish()
		}
	}
	if q.dirty != nil {
		q.dirty.took(dst[:n], q.take.last)
	}
	// Behind the last access to guest memory: a fault has moved nothing.
	q.ring.took(n)
	q.take.last += uint32(n)
	q.take.arenaUsed = arena
	return n, nil
}

// Ready is how many chains could be taken now: all of a split ring's, 1 when a
// packed ring has any, which does not say how many. It is one read; nothing is
// taken.
func (q *Queue) Ready() (n int, err error) {
	if q.dead != nil {
		return 0, q.dead
	}
	if n, err = q.ring.ready(&q.take); err != nil {
		return 0, q.fail(err)
	}
	return n, nil
}

// Unpop gives the last n chains taken back to the ring, as if they had never
// been popped; a later Pop finds them again. Of fewer, all go back.
func (q *Queue) Unpop(n int) {
	n = min(max(n, 0), int(q.take.count()))
	q.ring.untook(&q.take, n)
	q.take.last -= uint32(n)
}

// Push gives chains back to the driver, in the order in which they were
// popped, publishes them all at once, and says whether the driver wants to be
// called. Chains returned in another order, or not taken, are a defect of the
// caller: the ring is broken, and nothing is published. On a broken ring Push
// publishes nothing either.
func (q *Queue) Push(used []Used) (call bool) {
	n := len(used)
	if n == 0 || q.dead != nil {
		return false
	}
	slots, err := q.take.expects(used)
	if err != nil {
		_ = q.fail(err) // the owner hears of it from the next Pop, or from Broken
		return false
	}
	q.ring.push(&q.take, used, slots)
	// Right behind the publication: a fault from here on finds them pushed.
	q.take.first += uint32(n)
	if q.dirty != nil {
		q.markPushed(used, q.take.first-uint32(n))
	}
	return q.calls(n)
}

// calls says whether the driver is to be called for the n chains that were pushed
// last.
func (q *Queue) calls(n int) (call bool) {
	call = q.ring.wantsCall(&q.take, n)
	if !q.started {
		// The driver may have set up its wish for an earlier device, or for
		// none: one call too many is harmless, one too few hangs it.
		q.started = true
		return true
	}
	return call
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
	more = q.ring.arm()
	if q.dirty != nil {
		q.markWish()
	}
	return more
}

// Break ends the ring: err is kept as the answer of every later Pop, wrapped
// in a *[BrokenError] if it is none, and TakeErr has the err descriptor. Only the
// first call does anything. It touches no guest memory.
func (q *Queue) Break(err error) {
	if q.dead != nil {
		return
	}
	var broken *BrokenError
	if !errors.As(err, &broken) {
		broken = &BrokenError{Ring: q.cfg.Index, Reason: ReasonOwner, Position: q.ring.position(), Err: err}
	}
	q.dead = broken
	q.owed = q.cfg.Err
}

// TakeErr is the descriptor to be signalled because the ring broke, once; nil
// otherwise. The owner signals it, where a hostile front-end that makes the
// write block can be dealt with: a Queue is used under locks and on threads
// that must not wait.
func (q *Queue) TakeErr() *Event {
	e := q.owed
	q.owed = nil
	return e
}

// fail breaks the ring for what was found in it, and answers the error that is
// kept.
func (q *Queue) fail(found error) error {
	if b, ok := found.(*BrokenError); ok { //nolint:errorlint // made by broken, never wrapped
		b.Ring, b.Position = q.cfg.Index, q.ring.position()
	}
	q.Break(found)
	return q.dead
}

// Broken is why the ring is broken, or nil. Being suspended is not broken.
func (q *Queue) Broken() error {
	if errors.Is(q.dead, ErrSuspended) {
		return nil
	}
	return q.dead
}

// Armed reports whether the driver was asked for a kick.
func (q *Queue) Armed() bool { return q.armed }

// Kick is the descriptor that the driver signals, nil for none.
func (q *Queue) Kick() *Event { return q.cfg.Kick }

// Call is the descriptor by which the driver is called, nil for none.
func (q *Queue) Call() *Event { return q.cfg.Call }

// Mem is the memory that the ring's buffers lie in, nil after Suspend. The
// Queue holds a reference.
func (q *Queue) Mem() *sharedmem.Map { return q.take.mem }

// Features are the features that the driver accepted.
func (q *Queue) Features() virtio.Features { return q.cfg.Features }

// Size is the number of entries of the ring.
func (q *Queue) Size() int { return q.cfg.Size }

// Index is the ring's index in its device.
func (q *Queue) Index() int { return q.cfg.Index }
