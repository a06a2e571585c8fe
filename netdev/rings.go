package netdev

import (
	"context"
	"errors"
	"fmt"

	"vhostnet/metrics"
	"vhostnet/queues"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

// StartRing gives ring i to its user: a receive ring to the NIC, a transmit
// ring or the control queue to its worker once it is enabled. The first ring of
// a session completes the queue's allocation, each further one adds its area to
// it. From the control queue's start on the NIC receives what the driver says
// by it, until its stop.
func (d *Device) StartRing(i int, q *virtqueue.Queue) error {
	d.nic.NoteRing(i, q.Areas())
	d.noteBytes(i, q)
	call := q.Call() // before somebody else has q
	err := d.grow()
	if err == nil {
		if i == d.controlIndex() {
			d.ctrl = newControl(d)
		}
		err = d.serve(i, q)
	}
	if err != nil {
		d.ended(i)
		d.account()
		return err
	}
	d.rings[i].set(ringStarted, true)
	d.callOnce(i, call)
	if d.arrived {
		d.arrived = false
		d.AskAnnounce()
	}
	return nil
}

// callOnce signals ring i's call whatever its driver wishes: the wish may have
// been meant for a ring, or a device, that could not fulfil it any more; one call too many is
// harmless.
func (d *Device) callOnce(i int, call *virtqueue.Event) {
	if call == nil {
		return
	}
	if err := d.onWorker(i/2, func(c *worker.Context) { c.Call(call) }); err != nil {
		d.o.Log.Error("ring not called", "ring", i, "error", err)
	}
}

// serve is the last step of StartRing: without an error ring i belongs to its
// user.
func (d *Device) serve(i int, q *virtqueue.Queue) error {
	r := &d.rings[i]
	switch {
	case i == d.controlIndex():
		r.task = newCtrlRing(d, i, q, d.ctrl)
	case !d.paired(i):
		return fmt.Errorf("netdev: ring %d of port %q is the control queue, which its driver has not accepted with these features", i, d.o.Name)
	case i%2 == 0:
		d.nic.StartRx(i/2, q, queues.Attributes{Features: d.accepted(), MTU: d.mtu})
		return nil
	default:
		r.task = newTxRing(d, i, q)
	}
	if err := d.attend(i); err != nil {
		r.task = nil
		return err
	}
	return nil
}

// paired reports whether ring i can be one of a queue pair.
func (d *Device) paired(i int) bool { return i < 2*d.o.Pairs }

// EnableRing notes that the driver uses ring i or not. When it returns after
// off, nothing of the ring is held: what could not be delivered yet is dropped.
// No worker uses the ring any more, as the memory of a ring that is not enabled
// is not to be touched, unless the driver has given it up (givenup.go).
func (d *Device) EnableRing(i int, on bool) {
	r := &d.rings[i]
	r.set(ringEnabled, on)
	if i%2 == 0 && d.paired(i) {
		d.nic.EnableRx(i/2, on)
	}
	d.leaveAllGivenUp()
	switch {
	case r.task == nil:
	case !on:
		d.leave(i, metrics.ReasonDisabled)
		d.giveUp(i)
	default:
		d.leaveGivenUp(i)
		if err := d.attend(i); err != nil {
			d.breakTask(i, err)
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
		if installed = q; q != nil {
			d.noteBytes(i, q)
		}
		return q, err
	}
	var err error
	if r.task == nil {
		err = d.nic.ReplaceRx(i/2, keep)
	} else {
		err = d.replaceTask(i, keep)
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
	d.callOnce(i, installed.Call())
	return nil
}

func (d *Device) replaceTask(i int, remake func(virtqueue.State) (*virtqueue.Queue, error)) error {
	state := d.finish(i)
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
	if d.rings[i].task == nil {
		state, _ = d.nic.StopRx(i / 2)
	} else {
		state = d.finish(i)
	}
	d.ended(i)
	return state
}

// ended notes that ring i is gone. With the last one the queue pauses and what
// the switch learned of the port is forgotten.
func (d *Device) ended(i int) {
	d.nic.NoteRing(i, nil)
	d.rings[i].bytes.Store(0)
	d.rings[i].set(ringStarted|ringBroken, false)
	d.leaveAllGivenUp()
	if d.ctrl != nil && i == d.controlIndex() {
		d.ctrl = nil
		d.nic.SetModes(nil)
		d.nic.UsePairs(0)
	}
	for j := range d.rings {
		if d.rings[j].is(ringStarted) {
			return
		}
	}
	d.pauseQueue()
	d.known = d.o.Switch.Addresses(d.port, maxMoved)
	d.o.Switch.Forget(d.port)
}

// attend lets the worker poll ring i if it is to be polled and is not.
func (d *Device) attend(i int) error {
	r := &d.rings[i]
	if r.task == nil || !r.polled() {
		return nil
	}
	d.tasks.Lock()
	defer d.tasks.Unlock()
	w := d.worker(i / 2)
	if r.at != nil {
		return nil
	}
	if err := w.Add(context.Background(), r.task, d.modeOf(r)); err != nil {
		return fmt.Errorf("netdev: ring %d of port %q: %w", i, d.o.Name, err)
	}
	r.at = w
	return nil
}

// modeOf is how a ring is polled: a control queue is asked for little.
func (d *Device) modeOf(r *ring) worker.Mode {
	if _, ok := r.task.(*ctrlRing); ok {
		return worker.Interrupt
	}
	return worker.Mode(d.mode.Load())
}

// leave takes ring i from its worker, if it is there, and finishes what it
// holds. Afterwards only the session uses the ring.
func (d *Device) leave(i int, reason metrics.Reason) {
	r := &d.rings[i]
	if !d.unpoll(r, i) || r.task.held() == 0 {
		return
	}
	if err := d.onWorker(i/2, func(c *worker.Context) { r.task.finish(c, reason) }); err != nil {
		d.o.Log.Error("ring not finished in order", "ring", i, "error", err)
		r.task.finish(nil, reason)
	}
}

// unpoll takes ring i from its worker and answers whether it was there.
func (d *Device) unpoll(r *ring, i int) bool {
	d.tasks.Lock()
	defer d.tasks.Unlock()
	if r.at == nil {
		return false
	}
	if err := r.at.Remove(context.Background(), r.task); err != nil {
		d.o.Log.Error("worker did not leave a ring in order", "ring", i, "error", err)
	}
	r.at = nil
	return true
}

// breakTask ends ring i, which no worker polls, for a reason of ours.
func (d *Device) breakTask(i int, cause error) {
	r := &d.rings[i]
	err := d.onWorker(i/2, func(c *worker.Context) {
		r.task.broken(cause)
		c.Call(r.task.queue().TakeErr())
	})
	if err != nil {
		d.o.Log.Error("ring not served", "ring", i, "error", errors.Join(cause, err))
	}
}

// finish ends ring i, which has a task: its worker leaves it, what it still
// holds is dropped and published, and its state is the answer.
func (d *Device) finish(i int) virtqueue.State {
	r := &d.rings[i]
	d.leave(i, metrics.ReasonStopped)
	state := r.task.queue().Suspend()
	r.task = nil
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
	d.guestLeft()
	d.nic.SetMemory(nil)
	if d.o.Queue == QueueManual {
		d.account() // the queue stays, without the guest's memory
	}
	d.mem = nil
	d.features.Store(0)
	d.known, d.arrived = nil, false
	d.Reset()
}
