package netdev

import (
	"errors"
	"fmt"

	"vhostnet/metrics"
	"vhostnet/queues"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

// StartRing gives ring i to its user: a receive ring to the NIC, a transmit
// ring to its worker once it is enabled. The first ring of a session completes
// the queue's allocation, each further one adds its area to it.
func (d *Device) StartRing(i int, q *virtqueue.Queue) error {
	d.nic.NoteRing(i, q.Areas())
	err := d.grow()
	if err == nil {
		err = d.serve(i, q)
	}
	if err != nil {
		d.ended(i)
		d.account()
		return err
	}
	d.rings[i].set(ringStarted, true)
	return nil
}

// serve is the last step of StartRing: without an error ring i belongs to its
// user.
func (d *Device) serve(i int, q *virtqueue.Queue) error {
	if i%2 == 0 {
		d.nic.StartRx(i/2, q, queues.Attributes{Features: d.accepted(), MTU: d.mtu})
		return nil
	}
	d.rings[i].tx = newTxRing(d, i, q)
	if err := d.attend(i); err != nil {
		d.rings[i].tx = nil
		return err
	}
	return nil
}

// EnableRing notes that the driver uses ring i or not. When it returns after
// off, no worker uses the ring, and nothing of it is held: what could not be
// delivered yet is dropped, as the memory of a ring that is not enabled is not
// to be touched.
func (d *Device) EnableRing(i int, on bool) {
	r := &d.rings[i]
	r.set(ringEnabled, on)
	switch {
	case i%2 == 0:
		d.nic.EnableRx(i/2, on)
	case !on:
		d.leave(i, metrics.ReasonDisabled)
	default:
		if err := d.attend(i); err != nil {
			d.breakTx(i, err)
		}
	}
}

// ReplaceRing puts the ring that remake makes of the old one's state in its
// place, at a point where no worker uses it, and makes one call: whatever the
// old ring was about to signal is signalled by the new one.
func (d *Device) ReplaceRing(i int, remake func(virtqueue.State) (*virtqueue.Queue, error)) error {
	r := &d.rings[i]
	if !r.is(ringStarted) {
		return fmt.Errorf("netdev: ring %d is not started, so it cannot be replaced", i)
	}
	var installed *virtqueue.Queue
	keep := func(state virtqueue.State) (*virtqueue.Queue, error) {
		q, err := remake(state)
		installed = q
		return q, err
	}
	var err error
	if i%2 == 0 {
		err = d.nic.ReplaceRx(i/2, keep)
	} else {
		err = d.replaceTx(i, keep)
	}
	if err != nil || installed == nil {
		if installed != nil {
			installed.Close()
		}
		d.ended(i)
		return err
	}
	d.nic.NoteRing(i, installed.Areas())
	d.account()
	if err := d.onWorker(i/2, func(c *worker.Context) { c.Call(installed.Call()) }); err != nil {
		d.o.Log.Error("ring not called after its change", "ring", i, "error", err)
	}
	return nil
}

func (d *Device) replaceTx(i int, remake func(virtqueue.State) (*virtqueue.Queue, error)) error {
	state := d.finishTx(i)
	q, err := remake(state)
	if err != nil || q == nil {
		return err
	}
	d.rings[i].set(ringBroken, false)
	return d.serve(i, q)
}

// StopRing takes ring i back and answers where it stood. Chains that a
// transmit ring still holds are dropped, and given back.
func (d *Device) StopRing(i int) virtqueue.State {
	if !d.rings[i].is(ringStarted) {
		return virtqueue.State{}
	}
	var state virtqueue.State
	if i%2 == 0 {
		state, _ = d.nic.StopRx(i / 2)
	} else {
		state = d.finishTx(i)
	}
	d.ended(i)
	return state
}

// ended notes that ring i is gone. With the last one the queue pauses and what
// the switch learned of the port is forgotten.
func (d *Device) ended(i int) {
	d.nic.NoteRing(i, nil)
	d.rings[i].set(ringStarted|ringBroken, false)
	for j := range d.rings {
		if d.rings[j].is(ringStarted) {
			return
		}
	}
	d.pauseQueue()
	d.o.Switch.Forget(d.port)
}

// attend lets the worker poll transmit ring i if it is to be polled and is not.
func (d *Device) attend(i int) error {
	r := &d.rings[i]
	if r.tx == nil || r.polled || !r.is(ringEnabled) {
		return nil
	}
	if err := d.worker(i/2).Add(r.tx.ctx, r.tx, d.o.Mode); err != nil {
		return fmt.Errorf("netdev: ring %d of port %q: %w", i, d.o.Name, err)
	}
	r.polled = true
	return nil
}

// leave takes transmit ring i from its worker, if it is there, and finishes
// what it holds. Afterwards only the session uses the ring.
func (d *Device) leave(i int, reason metrics.Reason) {
	r := &d.rings[i]
	if !r.polled {
		return
	}
	r.polled = false
	if err := d.worker(i/2).Remove(r.tx.ctx, r.tx); err != nil {
		d.o.Log.Error("worker did not leave a ring in order", "ring", i, "error", err)
	}
	if r.tx.n == 0 {
		return
	}
	if err := d.onWorker(i/2, func(c *worker.Context) { r.tx.finish(c, reason) }); err != nil {
		d.o.Log.Error("ring not finished in order", "ring", i, "error", err)
		r.tx.finish(nil, reason)
	}
}

// breakTx ends transmit ring i, which no worker polls, for a reason of ours.
func (d *Device) breakTx(i int, cause error) {
	r := &d.rings[i]
	err := d.onWorker(i/2, func(c *worker.Context) {
		r.tx.broken(cause)
		c.Call(r.tx.q.TakeErr())
	})
	if err != nil {
		d.o.Log.Error("ring not served", "ring", i, "error", errors.Join(cause, err))
	}
}

// finishTx ends transmit ring i: its worker leaves it, what it still holds is
// dropped and published, and its state is the answer.
func (d *Device) finishTx(i int) virtqueue.State {
	r := &d.rings[i]
	d.leave(i, metrics.ReasonStopped)
	state := r.tx.q.Suspend()
	r.tx = nil
	return state
}

// Reset is RESET_DEVICE: the rings are stopped and disabled already; memory,
// queue id and features stay.
func (d *Device) Reset() {
	d.mtu = d.o.MTU
	d.AnnounceDone()
}

// Disconnected ends what the session began. The queue is freed in the
// background: a front-end that comes back does not wait for it.
func (d *Device) Disconnected() {
	for i := range d.rings {
		d.StopRing(i)
		d.EnableRing(i, false)
	}
	d.freeQueue()
	d.nic.SetMemory(nil)
	d.mem = nil
	d.features.Store(0)
	d.Reset()
}
