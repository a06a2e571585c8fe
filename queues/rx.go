package queues

import (
	"sync"
	"sync/atomic"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

// rxRing is one receive ring of a NIC. Workers take mu by TryLock and hold it
// for one burst; the session takes it by Lock.
type rxRing struct {
	nic  *NIC
	pair int

	stopping atomic.Bool // the session takes the ring away: workers keep out
	enabled  atomic.Bool // changed under mu
	started  atomic.Bool // q is there; changed under mu

	// calls are those that workers owe the driver when they have left the lock.
	// They are added under mu while q is there, so none is when it was taken
	// away and the owed ones were waited for.
	calls sync.WaitGroup

	mu        sync.Mutex
	q         *virtqueue.Queue // nil: stopped or parked
	features  virtio.Features
	headerLen uint32
	mergeable bool
	maxPlain  uint32    // longest frame without segmentation; 0: no limit
	firstByte uint64    // of a buffer that is asked for ahead
	pool      *nbl.Pool // receive NBLs
	halfway   progressTable
	told      atomic.Bool // q is broken and the owner knows; changed under mu
}

// usable reports whether frames sent now have a chance.
func (r *rxRing) usable() bool { return r.started.Load() && r.enabled.Load() }

// install makes q the ring. The caller holds mu.
func (r *rxRing) install(q *virtqueue.Queue, at Attributes) {
	r.set(q)
	r.features = at.Features
	r.headerLen = uint32(virtio.NetHeaderLen(at.Features))
	r.mergeable = at.Features.Has(virtio.NetMrgRxBuf)
	r.maxPlain = 0
	if at.MTU != 0 && at.Features.Has(virtio.NetMTU) {
		r.maxPlain = uint32(at.MTU) + nbl.EthernetHeaderLen + 4
	}
	r.halfway = progressTable{}
}

// set puts q, or nothing, in the ring's place. The caller holds mu.
func (r *rxRing) set(q *virtqueue.Queue) {
	r.q = q
	r.told.Store(false)
	r.started.Store(q != nil)
}

// deliver copies a prefix of batch into the ring, a burst at a time, and answers
// also whether a part of the first frame behind it was copied. Calls and
// indications are made when the lock is released.
func (r *rxRing) deliver(c *worker.Context, batch []*nbl.List) (accepted int, part bool) {
	b := bursts.Get(c)
	b.now = c.Now()
	for more := true; more && accepted < len(batch); {
		out := r.burst(b, r.nic.adapter.softener(c), batch[accepted:])
		if out.call != nil && !r.makeCall(c, out.call) {
			c.Call(r.breakCaller(out.call))
		}
		c.Call(out.tell)
		if out.broken != nil {
			r.nic.indicateBroken(r.pair, out.broken)
		}
		accepted += out.accepted
		part = out.part || part && out.accepted == 0
		more = out.more
	}
	return accepted, part
}

// outcome is what became of a burst.
type outcome struct {
	accepted int              // frames of the batch that are done
	part     bool             // segments of the next one are in the ring since
	more     bool             // the ring may take others at once: nothing was missing
	call     *virtqueue.Event // is to be signalled
	broken   error            // the ring ended, and its owner is to be told why
	tell     *virtqueue.Event // the same for the front-end: is to be signalled
}

// oweCall is the descriptor to be signalled when the lock is released, nil for
// none. The caller holds mu, and makes the call by makeCall.
func (r *rxRing) oweCall() *virtqueue.Event {
	call := r.q.Call()
	if call != nil {
		r.calls.Add(1)
	}
	return call
}

func (r *rxRing) makeCall(c *worker.Context, call *virtqueue.Event) bool {
	defer r.calls.Done()
	return c.Call(call)
}

// enter takes the lock for a burst; false: somebody else has it, or takes the
// ring away.
func (r *rxRing) enter() bool {
	if r.stopping.Load() || !r.mu.TryLock() {
		return false
	}
	if r.stopping.Load() { // between the two
		r.mu.Unlock()
		return false
	}
	return true
}

// takeAway ends the present ring: when it returns, no worker is in it, and none
// owes it a call. Workers keep out until the caller clears stopping. ok is
// false when there is no ring.
func (r *rxRing) takeAway() (state virtqueue.State, ok bool) {
	r.stopping.Store(true)
	r.mu.Lock()
	if ok = r.q != nil; ok {
		state = r.q.Suspend()
		r.set(nil)
	}
	r.mu.Unlock()
	r.calls.Wait()
	return state, ok
}

// burst is one hold of the lock: buffers are taken, filled and published once,
// in the order of the avail ring. When the receiver's memory faults its ring is
// broken and batch is a counted drop; when the sender's does, the ring is as
// before and the fault goes on to the sender. The outcome is empty when
// somebody else holds the lock.
func (r *rxRing) burst(b *burst, soft *nbl.Softener, batch []*nbl.List) (out outcome) {
	if !r.enter() {
		return outcome{}
	}
	defer r.mu.Unlock() // also when a fault goes on
	b.reset()
	defer func() {
		if p := recover(); p != nil {
			out = r.faulted(b, p, batch)
		}
	}()
	if reason := r.refuses(); reason != metrics.ReasonNone {
		return r.drop(batch, reason)
	}
	if err := r.place(b, soft, batch); err != nil {
		return r.end(b, batch, metrics.ReasonBroken, err)
	}
	r.claim(b, batch)
	r.copyFrames(b, batch)
	if r.publish(b) {
		out.call = r.oweCall()
	}
	out.accepted, out.part = r.settle(b, batch)
	moved := out.accepted > 0 || b.straight+b.placed > 0 // or the next burst would come out the same
	out.more = moved && (b.placed == b.n || b.full)
	return out
}

// refuses says why no frame can go into this ring now.
func (r *rxRing) refuses() metrics.Reason {
	switch {
	case r.q == nil:
		return metrics.ReasonStopped
	case !r.enabled.Load():
		return metrics.ReasonDisabled
	case r.q.Broken() != nil:
		return metrics.ReasonBroken
	}
	return metrics.ReasonNone
}

// drop counts batch as lost for reason.
func (r *rxRing) drop(batch []*nbl.List, reason metrics.Reason) outcome {
	r.nic.counters.Drops.Add(reason, uint64(len(batch)))
	return outcome{accepted: len(batch), more: true}
}

// end gives back what a burst has taken, ends the ring and drops batch. The
// caller holds mu.
func (r *rxRing) end(b *burst, batch []*nbl.List, reason metrics.Reason, err error) outcome {
	r.undo(b)
	out := r.drop(batch, reason)
	out.broken = r.broken(err)
	out.tell = r.q.TakeErr()
	return out
}

// faulted settles a panic inside a burst: a fault of the receiver's memory ends
// its ring, any other goes on. The caller holds mu.
func (r *rxRing) faulted(b *burst, p any, batch []*nbl.List) outcome {
	fault := sharedmem.AsFault(p)
	if fault == nil {
		panic(p)
	}
	if fault.Map == r.q.Mem() {
		return r.end(b, batch, metrics.ReasonFault, fault)
	}
	r.undo(b)
	panic(fault)
}

// broken ends the ring. It answers err when the owner is to be told of it, once
// per ring and without a lock. The caller holds mu.
func (r *rxRing) broken(err error) error {
	r.q.Break(err)
	if r.told.Swap(true) {
		return nil
	}
	return err
}

// breakCaller ends the ring whose call descriptor is dead, unless the ring was
// replaced since it asked for the call. It answers the descriptor that tells
// the front-end so.
func (r *rxRing) breakCaller(call *virtqueue.Event) (tell *virtqueue.Event) {
	r.mu.Lock()
	var err error
	if r.q != nil && r.q.Call() == call {
		err = r.broken(errCallBlocked)
		tell = r.q.TakeErr()
	}
	r.mu.Unlock()
	if err != nil {
		r.nic.indicateBroken(r.pair, err)
	}
	return tell
}
