package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

// device is a virtio entropy device (virtio 1.3, section 5.4): one ring, whose
// chains are buffers to be filled with random bytes. It implements
// vhostuser.Device; the session's goroutine calls its methods, one at a time.
type device struct {
	worker  *worker.Worker
	ring    *ring // nil: stopped
	enabled bool
	polled  bool // the worker has the ring
}

func (d *device) Features() virtio.Features {
	return virtio.Version1 | virtio.IndirectDesc | virtio.EventIdx | virtio.InOrder
}

func (d *device) Rings() int                  { return 1 }
func (d *device) Negotiated(virtio.Features)  {}
func (d *device) Memory(*sharedmem.Map) error { return nil } // the Queue brings what it needs
func (d *device) Reset()                      {}
func (d *device) Disconnected()               { d.enabled = false }

func (d *device) StartRing(_ int, q *virtqueue.Queue) error {
	d.ring = &ring{q: q}
	d.attend()
	return nil
}

func (d *device) ReplaceRing(_ int, remake func(virtqueue.State) (*virtqueue.Queue, error)) error {
	if d.ring == nil {
		return errors.New("rng: there is no ring to replace")
	}
	q, err := remake(d.StopRing(0))
	if err != nil || q == nil {
		return err
	}
	d.ring = &ring{q: q, owes: true}
	d.attend()
	return nil
}

func (d *device) EnableRing(_ int, on bool) {
	d.enabled = on
	d.attend()
	if !on {
		d.leave()
	}
}

func (d *device) StopRing(int) virtqueue.State {
	d.leave()
	q := d.ring.q
	d.ring = nil
	return q.Suspend()
}

// attend gives the ring to the worker if it is to have it and has not.
func (d *device) attend() {
	if d.ring == nil || !d.enabled || d.polled {
		return
	}
	if err := d.worker.Add(context.Background(), d.ring, worker.Interrupt); err != nil {
		d.ring.q.Break(fmt.Errorf("rng: %w", err)) // its kick cannot be waited for: it is not served
		return
	}
	d.polled = true
}

// leave takes the ring from the worker. A worker that has ended, which is the
// only one that does not answer, has no ring either.
func (d *device) leave() {
	if d.polled {
		_ = d.worker.Remove(context.Background(), d.ring)
	}
	d.polled = false
}

// ring is the request queue, a Task of the worker.
type ring struct {
	q      *virtqueue.Queue
	owes   bool // a call on behalf of the ring in whose place it is
	chains [8]virtqueue.Chain
	random [4096]byte
}

// Poll fills the buffers that the driver has posted.
func (r *ring) Poll(c *worker.Context, budget int) (busy bool) {
	defer r.recoverFault(&busy)
	if r.q.Broken() != nil {
		c.Call(r.q.TakeErr())
		return false
	}
	n, err := r.q.Pop(r.chains[:min(budget, len(r.chains))])
	if err != nil {
		return true // broken: the next visit tells the front-end
	}
	call := r.owes
	r.owes = false
	for i := range n {
		used := virtqueue.Used{Head: r.chains[i].Head, Len: r.fill(&r.chains[i])}
		call = r.q.Push([]virtqueue.Used{used}) || call
	}
	if call && !c.Call(r.q.Call()) {
		r.q.Break(errors.New("rng: the call descriptor blocked"))
	}
	return n > 0
}

// fill writes random bytes, at most as many as are made at a time; a driver
// takes what it gets and asks again.
func (r *ring) fill(chain *virtqueue.Chain) (written uint32) {
	b := r.random[:min(len(r.random), int(chain.Writable))]
	_, _ = rand.Read(b) // it never fails
	for _, block := range chain.WritableBlocks() {
		n := min(uint64(len(b)), block.Len())
		block.CopyFrom(b[:n], 0)
		b = b[n:]
		written += uint32(n)
	}
	return written
}

// Arm asks the driver for a kick.
func (r *ring) Arm() (more bool) {
	defer r.recoverFault(&more)
	if r.q.Broken() != nil {
		return false
	}
	r.q.Kick().Drain()
	return r.q.Arm()
}

// FD is the kick.
func (r *ring) FD() int { return r.q.Kick().FD() }

// recoverFault ends the ring when its memory is gone, which is the front-end's
// doing; any other panic goes on.
func (r *ring) recoverFault(busy *bool) {
	p := recover()
	if p == nil {
		return
	}
	fault := sharedmem.AsFault(p)
	if fault == nil || fault.Map != r.q.Mem() {
		panic(p)
	}
	r.q.Break(fault)
	*busy = true
}
