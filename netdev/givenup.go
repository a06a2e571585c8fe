package netdev

import (
	"vhostnet/metrics"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

// Theory of operation.
//
// A driver that goes on with fewer queue pairs has its front-end disable the
// rings of the others, and may have left frames in their transmit rings, or be
// about to: Linux moves its senders to other rings only when the command is
// done. Nobody would send those frames, and Linux sends no TCP segment again
// that it thinks is still about to be sent, so the stream would wait for as long
// as the ring is disabled. Such a ring is given up: its chains are taken, counted
// as dropped and given back (vhost-user, "Ring states": a disabled transmit
// ring is processed by discarding the data).
//
// Other front-ends disable all rings to pause a device, or to reset it. What
// was a ring's memory then belongs to the next kernel, so it is not to be
// touched until the ring is set up anew or enabled. The two are told apart by
// pair 0, which every driver uses: a ring is given up by being disabled while
// pair 0 runs, and only for as long as pair 0 does. A ring that was never
// enabled is not given up: its driver is about to use it.

// Runs reports whether the driver's first pair of rings is served: it is not
// before a guest has started its driver, while the guest is reset, and after it
// has migrated. It may be called concurrently with everything.
func (d *Device) Runs() bool { return d.pair0Runs() }

// pair0Runs reports whether both rings of pair 0 are started and enabled.
func (d *Device) pair0Runs() bool {
	const runs = ringStarted | ringEnabled
	return d.rings[0].state.Load()&d.rings[1].state.Load()&runs == runs
}

// giveUp follows the disabling of ring i, which its worker has left.
func (d *Device) giveUp(i int) {
	t, ok := d.rings[i].task.(*txRing)
	if !ok || !d.pair0Runs() {
		return
	}
	t.givenUp = true
	if err := d.attend(i); err != nil {
		d.breakTask(i, err)
	}
}

// leaveGivenUp takes ring i from its worker if it is one that was given up.
func (d *Device) leaveGivenUp(i int) {
	if t, ok := d.rings[i].task.(*txRing); ok && t.givenUp {
		d.leave(i, metrics.ReasonDisabled)
		t.givenUp = false
	}
}

// leaveAllGivenUp follows whatever may have ended pair 0.
func (d *Device) leaveAllGivenUp() {
	if d.pair0Runs() {
		return
	}
	for i := range d.rings {
		d.leaveGivenUp(i)
	}
}

// discard is a visit to a ring that was given up.
func (t *txRing) discard(c *worker.Context, budget int) (busy bool) {
	n, err := t.q.Pop(t.chains[:budget])
	if err != nil {
		t.broken(err)
		return true
	}
	if n == 0 {
		return false
	}
	t.dev.counters.Drops.Add(metrics.ReasonGivenUp, uint64(n))
	var used [visitChains]virtqueue.Used // not PushRead: nobody has looked whether they are to be written
	for i := range n {
		used[i].Head = t.chains[i].Head
	}
	if t.q.Push(used[:n]) && !c.Call(t.q.Call()) {
		t.broken(errCallBlocked)
	}
	return true
}
