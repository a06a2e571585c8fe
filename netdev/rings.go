package netdev

import (
	"fmt"

	"vhostnet/queues"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

// StartRing gives ring i to its user: a receive ring to the NIC, a transmit
// ring to its worker once it is enabled. The first ring of a session completes
// the queue's allocation, each further one adds its area to it.
func (d *Device) StartRing(i int, q *virtqueue.Queue) error {
	d.nic.NoteRing(i, q.Areas())
	if err := d.grow(); err != nil {
		d.nic.NoteRing(i, nil)
		return err
	}
	if i%2 == 0 {
		d.nic.StartRx(i/2, q, queues.Attributes{Features: d.accepted(), MTU: d.mtu})
	} else {
		d.rings[i].tx = newTxRing(d, i, q)
		if err := d.attend(i); err != nil {
			d.rings[i].tx = nil
			d.nic.NoteRing(i, nil)
			return err
		}
	}
	d.rings[i].set(ringStarted, true)
	return nil
}

// EnableRing notes that the driver uses ring i or not. When it returns after
// off, no worker uses the ring.
func (d *Device) EnableRing(i int, on bool) {
	r := &d.rings[i]
	was := r.is(ringEnabled)
	r.set(ringEnabled, on)
	if i%2 == 0 {
		d.nic.EnableRx(i/2, on)
		return
	}
	if was == on || !r.is(ringStarted) {
		return
	}
	var err error
	if on {
		err = d.attend(i)
	} else {
		err = d.leave(i)
	}
	if err != nil {
		d.o.Log.Error("ring not switched", "ring", i, "enabled", on, "error", err)
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
	if i%2 == 0 {
		if err := d.nic.ReplaceRx(i/2, keep); err != nil {
			d.ended(i)
			return err
		}
	} else if err := d.replaceTx(i, keep); err != nil {
		d.ended(i)
		return err
	}
	if installed == nil {
		d.ended(i)
		return nil
	}
	d.nic.NoteRing(i, installed.Areas())
	if err := d.remakeMemory(); err != nil {
		d.o.Log.Error("memory of the queue not accounted anew", "queue", d.queue, "error", err)
	}
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
	d.rings[i].tx = newTxRing(d, i, q)
	d.rings[i].set(ringBroken, false)
	return d.attend(i)
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

// attend lets the worker poll transmit ring i if it is to be polled.
func (d *Device) attend(i int) error {
	r := &d.rings[i]
	if i%2 == 0 || r.tx == nil || !r.is(ringEnabled) {
		return nil
	}
	return d.worker(i/2).Add(r.tx.ctx, r.tx, d.o.Mode)
}

// leave takes transmit ring i from its worker.
func (d *Device) leave(i int) error {
	r := &d.rings[i]
	return d.worker(i/2).Remove(r.tx.ctx, r.tx)
}

// finishTx ends transmit ring i: its worker leaves it, what it still holds is
// dropped and published, and its state is the answer.
func (d *Device) finishTx(i int) virtqueue.State {
	r := &d.rings[i]
	if r.tx == nil {
		return virtqueue.State{}
	}
	if r.is(ringEnabled) {
		if err := d.leave(i); err != nil {
			d.o.Log.Error("worker did not leave a ring", "ring", i, "error", err)
		}
	}
	if err := d.onWorker(i/2, r.tx.finish); err != nil {
		d.o.Log.Warn("ring not finished in order", "ring", i, "error", err)
	}
	state := r.tx.q.Suspend()
	r.tx = nil
	return state
}

// Reset is RESET_DEVICE: the rings are stopped and disabled already; memory,
// queue id and features stay.
func (d *Device) Reset() {
	d.mtu = d.o.MTU
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
	d.features.Store(0)
	d.mtu = d.o.MTU
}
