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

	stopping atomic.Bool // the session waits for mu: workers keep out
	enabled  atomic.Bool // changed under mu
	started  atomic.Bool // q is there; changed under mu

	mu        sync.Mutex
	q         *virtqueue.Queue // nil: stopped or parked
	features  virtio.Features
	headerLen uint32
	mergeable bool
	maxPlain  uint32    // longest frame without segmentation; 0: no limit
	pool      *nbl.Pool // receive NBLs
	partial   progress
	told      atomic.Bool // q is broken and the owner knows; changed under mu
}

// progress says how far a softened packet got into the ring when buffers ran
// out, so that its next delivery goes on from there.
type progress struct {
	serial  uint64
	segment int
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
	r.partial = progress{}
}

// set puts q, or nothing, in the ring's place. The caller holds mu.
func (r *rxRing) set(q *virtqueue.Queue) {
	r.q = q
	r.told.Store(false)
	r.started.Store(q != nil)
}

// deliver copies a prefix of batch into the ring, a burst at a time, and makes
// the calls that are due after the lock is released.
func (r *rxRing) deliver(c *worker.Context, batch []*nbl.List) (accepted int) {
	b := bursts.Get(c)
	for more := true; more && accepted < len(batch); {
		var took int
		var call *virtqueue.Event
		took, more, call = r.burst(b, r.nic.adapter.softener(c), batch[accepted:])
		if call != nil && !c.Call(call) {
			r.breakRing(errCallBlocked)
		}
		accepted += took
	}
	return accepted
}

// burst is one hold of the lock: buffers are taken, filled and published once,
// in the order of the avail ring. When the receiver's memory faults its ring is
// broken and batch is a counted drop; when the sender's does, the ring is as
// before and the fault goes on to the sender. more is false when buffers ran
// out or somebody else holds the lock.
func (r *rxRing) burst(b *burst, soft *nbl.Softener, batch []*nbl.List) (accepted int, more bool, call *virtqueue.Event) {
	if r.stopping.Load() || !r.mu.TryLock() {
		return 0, false, nil
	}
	b.reset()
	defer func() {
		if p := recover(); p != nil {
			accepted, more, call = r.faulted(b, p, batch), true, nil
		}
		r.mu.Unlock()
	}()
	if reason := r.refuses(); reason != metrics.ReasonNone {
		r.nic.counters.Drops.Add(reason, uint64(len(batch)))
		return len(batch), true, nil
	}
	r.gather(b, soft, batch)
	if err := r.place(b); err != nil {
		r.undo(b)
		r.broken(err)
		r.nic.counters.Drops.Add(metrics.ReasonBroken, uint64(len(batch)))
		return len(batch), true, nil
	}
	r.writeHeaders(b)
	r.copyFrames(b)
	if r.publish(b) {
		call = r.q.Call()
	}
	return r.settle(b, batch), b.placed == b.n, call
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

// faulted settles a panic inside a burst. The caller holds mu, which its
// deferred function releases, also when the panic goes on.
func (r *rxRing) faulted(b *burst, p any, batch []*nbl.List) (accepted int) {
	fault := sharedmem.AsFault(p)
	if fault == nil {
		panic(p)
	}
	r.undo(b)
	if fault.Map != r.q.Mem() {
		panic(fault)
	}
	r.broken(fault)
	r.nic.counters.Drops.Add(metrics.ReasonFault, uint64(len(batch)))
	return len(batch)
}

// broken ends the ring and tells the owner once. The caller holds mu.
func (r *rxRing) broken(err error) {
	r.q.Break(err)
	if !r.told.Swap(true) {
		r.nic.indicateBroken(r.pair, err)
	}
}

// breakRing is broken for a caller without the lock.
func (r *rxRing) breakRing(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.q != nil {
		r.broken(err)
	}
}
