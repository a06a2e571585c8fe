package netdev

import (
	"fmt"

	"vhostnet/queues"
)

// QueueMode says who drives the VMQ verbs of a port's queue.
type QueueMode uint8

// The modes of a port's queue.
const (
	// QueueAuto: the session drives them. Others may add filters, clear their
	// own, and move the queue to another worker.
	QueueAuto QueueMode = iota
	// QueueManual: the control API owns the queue. The session starts and
	// stops rings and tells what memory there is.
	QueueManual
)

// The session drives the VMQ verbs of its port's queue in QueueAuto:
//
//	features set        ALLOCATE_QUEUE
//	first ring starts   SET_FILTER for the port's own address, QUEUE_ALLOCATION_COMPLETE
//	further rings, Map  allocations made anew
//	last ring stops     CLEAR_FILTER: the queue pauses with its memory
//	disconnect          FREE_QUEUE in the background
//
// In QueueManual only the third is its.

// QueueMode is who drives the verbs of the port's queue.
func (d *Device) QueueMode() QueueMode { return d.o.Queue }

// QueueID is the port's queue, whoever allocated it; 0: queue 0 serves it. It
// may be called concurrently with everything.
func (d *Device) QueueID() queues.QueueID { return d.nic.QueueID() }

// SuggestBuffers changes how many receive buffers would be good on the port's
// queue, in QueueAuto: a hint to the guest's side. It may be called concurrently
// with everything.
func (d *Device) SuggestBuffers(n uint32) error {
	return d.verbs.SetQueueParameters(d.nic.QueueID(), queues.QueueChange{Flags: queues.SuggestedBuffersChanged, SuggestedBuffers: n})
}

// QueueParameters are what a queue for this port is to be allocated with.
func (d *Device) QueueParameters() queues.QueueParameters {
	return queues.QueueParameters{
		VMName: d.o.Name, NIC: d.nic, Steering: d.steering, Placement: (*placement)(d),
		Shared: d.o.Queue == QueueAuto,
	}
}

// allocateQueue asks for a queue. Without one the NIC is served by queue 0. The
// log says so once until there is one again: the front-end decides how often
// we ask.
func (d *Device) allocateQueue() {
	if d.o.Queue == QueueManual {
		return
	}
	id, err := d.verbs.AllocateQueue(d.QueueParameters())
	if err != nil {
		if !d.lacking {
			d.o.Log.Warn("no queue of its own for the port; queue 0 serves it", "error", err)
		}
		d.lacking = true
		return
	}
	d.queue, d.completed, d.lacking = id, false, false
}

// grow follows the start of a ring. A port that got no queue asks again: that of
// its session before may have been freed by now.
func (d *Device) grow() error {
	if d.o.Queue == QueueManual {
		return d.remakeMemory()
	}
	if d.queue == 0 {
		d.allocateQueue()
	}
	if d.queue == 0 {
		return nil
	}
	if err := d.setFilters(); err != nil {
		return err
	}
	if d.completed {
		return d.remakeMemory()
	}
	if status := d.verbs.CompleteAllocation([]queues.QueueID{d.queue})[0]; status != queues.StatusSuccess {
		return fmt.Errorf("netdev: queue %d of port %q could not allocate its memory: %w", d.queue, d.o.Name, status)
	}
	d.completed = true
	return nil
}

// remakeMemory makes the queue's allocations anew from the Map and the rings as
// they are noted. On error it keeps those it has.
func (d *Device) remakeMemory() error {
	if id := d.nic.QueueID(); id != 0 {
		return d.o.Adapter.Remake(id)
	}
	return nil
}

// account is remakeMemory for who cannot go back: what failed is the queue's
// accounting only.
func (d *Device) account() {
	if err := d.remakeMemory(); err != nil {
		d.o.Log.Error("memory of the queue not accounted anew", "queue", d.nic.QueueID(), "error", err)
	}
}

// pauseQueue clears the filters: the queue keeps its memory.
func (d *Device) pauseQueue() {
	if d.queue == 0 {
		return
	}
	d.dropFilters()
	if err := d.verbs.ClearFilters(d.queue); err != nil {
		d.o.Log.Error("filters not cleared", "queue", d.queue, "error", err)
	}
}

// freeQueue gives the queue back, whatever its state, in the background.
func (d *Device) freeQueue() {
	id := d.queue
	if id == 0 {
		return
	}
	d.pauseQueue()
	d.queue, d.completed = 0, false
	d.freeing.Go(func() {
		if err := d.verbs.FreeQueue(d.freeCtx, id); err != nil {
			d.o.Log.Error("queue not freed", "queue", id, "error", err)
		}
	})
}
