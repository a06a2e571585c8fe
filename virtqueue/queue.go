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
	ring split
	mem  *sharedmem.Map // nil after Suspend

	eventIdx bool
	indirect bool
	maxChain uint32 // descriptors

	armed   bool   // the driver was asked for a kick
	started bool   // a call was made, so the driver knows this device
	flags   uint16 // used.flags as published
	next    uint16 // the next entry of the avail ring to take
	used    uint16 // the next entry of the used ring to write; next - used chains are taken

	window sharedmem.Window // the region that the last address lay in
	heads  []uint16         // of the taken chains, by their slot in the avail ring

	// Chains longer than a Chain holds have their Blocks in the first half of
	// the arena, one behind the other, from its start whenever no chain is
	// taken. The second half makes the reserve behind any of them long enough
	// for the longest chain, so that a walk needs no bounds of its own.
	arena     []sharedmem.Block
	arenaUsed int
	reserve   int // half of the arena

	owed *Event // Config.Err, until the owner takes it to tell of the broken ring
	dead error  // why there are no chains any more: *BrokenError or ErrSuspended
}

// noChain stands for a head in the error of a Push beyond what is taken.
const noChain = 1 << 16

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
	ready, err := q.Ready()
	if err != nil {
		return 0, err
	}
	if ready == 0 || len(dst) == 0 {
		return 0, nil
	}
	n, used, err := q.gather(dst[:min(ready, len(dst))])
	if n == 0 && errors.Is(err, errNoRoom) {
		return 0, nil
	}
	if n == 0 {
		q.Break(err)
		return 0, q.dead
	}
	if q.armed {
		q.disarm()
	}
	// Behind the last access to guest memory: a fault has moved nothing.
	q.next += uint16(n)
	q.arenaUsed = used
	return n, nil
}

// Ready is how many chains could be taken now. It is one read of avail.idx;
// nothing is taken.
func (q *Queue) Ready() (n int, err error) {
	if q.dead != nil {
		return 0, q.dead
	}
	// A driver cannot own more entries than there are descriptors, and those
	// taken are not its own. An index behind ours is far ahead, modulo 65536.
	ahead, room := uint32(q.ring.availIdx()-q.next), q.ring.size-q.taken()
	if ahead > room {
		q.Break(q.broken(ReasonAvailIndex, uint64(ahead), uint64(room)))
		return 0, q.dead
	}
	return int(ahead), nil
}

// gather makes dst the next len(dst) chains, as far as they are good, and
// answers how much of the arena they and the taken ones use. The error says
// why it stopped short. It moves no position.
func (q *Queue) gather(dst []Chain) (n, used int, err error) {
	if used = q.arenaUsed; q.taken() == 0 {
		used = 0
	}
	desc, avail, heads := q.ring.desc, q.ring.avail, q.heads
	size, mask, pos := q.ring.size, q.ring.mask, uint32(q.next)
	for n < len(dst) {
		c, slot := &dst[n], pos&mask
		head := avail.Load16(availRing + availSize*slot)
		if uint32(head) >= size {
			return n, used, q.broken(ReasonHead, uint64(head), uint64(size))
		}
		d := loadDescriptor(desc, uint32(head))
		if b, ok := q.window.Block(d.addr, d.meta&metaLen); ok && d.meta&metaComplex == 0 {
			c.setOne(head, b, d.meta)
		} else if used, err = q.walk(c, head, d, used); err != nil {
			return n, used, err
		}
		heads[slot] = head
		n++
		pos++
	}
	return n, used, nil
}

// Unpop gives the last n chains taken back to the ring, as if they had never
// been popped; a later Pop finds them again. Of fewer, all go back.
func (q *Queue) Unpop(n int) {
	q.next -= uint16(min(max(n, 0), int(q.taken())))
}

// taken is how many chains were popped and not given back.
func (q *Queue) taken() uint32 { return uint32(q.next - q.used) }

// Push gives chains back to the driver, in the order in which they were
// popped, publishes them with one store of used.idx, and says whether the
// driver wants to be called. Chains returned in another order, or not taken,
// are a defect of the caller: the ring is broken, and nothing is published. On
// a broken ring Push publishes nothing either.
func (q *Queue) Push(used []Used) (call bool) {
	if len(used) == 0 || q.dead != nil || !q.write(used) {
		return false
	}
	old := q.used
	idx := old + uint16(len(used))
	q.ring.publish(idx, q.flags)
	// Right behind the publication: a fault from here on finds them pushed.
	q.used = idx
	return q.needsCall(old, idx)
}

// write writes the used entries of chains that are the next ones to return.
// Each is one 64-bit store; the driver does not look before used.idx is
// published.
func (q *Queue) write(used []Used) bool {
	ring, heads := q.ring.used, q.heads
	mask, pos, taken := q.ring.mask, uint32(q.used), q.taken()
	for i := range used {
		u, slot := used[i], pos&mask
		if uint32(i) >= taken {
			q.Break(q.broken(ReasonPush, uint64(u.Head), noChain))
			return false
		}
		if heads[slot] != u.Head {
			q.Break(q.broken(ReasonPush, uint64(u.Head), uint64(heads[slot])))
			return false
		}
		ring.Store64(usedRing+usedSize*slot, uint64(u.Len)<<32|uint64(u.Head))
		pos++
	}
	return true
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
		broken = &BrokenError{Ring: q.cfg.Index, Reason: ReasonOwner, Position: q.next, Err: err}
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

// broken makes the error for what was found.
//
//go:noinline
func (q *Queue) broken(r Reason, a, b uint64) error {
	return &BrokenError{Ring: q.cfg.Index, Reason: r, Position: q.next, Values: [2]uint64{a, b}}
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
func (q *Queue) Mem() *sharedmem.Map { return q.mem }

// Features are the features that the driver accepted.
func (q *Queue) Features() virtio.Features { return q.cfg.Features }

// Size is the number of entries of the ring.
func (q *Queue) Size() int { return q.cfg.Size }

// Index is the ring's index in its device.
func (q *Queue) Index() int { return q.cfg.Index }
