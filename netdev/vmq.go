package netdev

import (
	"fmt"

	"vhostnet/queues"
)

// The session drives the VMQ verbs of its port's queue:
//
//	features set        ALLOCATE_QUEUE
//	first ring starts   SET_FILTER for the port's own address, QUEUE_ALLOCATION_COMPLETE
//	further rings, Map  allocations made anew
//	last ring stops     CLEAR_FILTER: the queue pauses with its memory
//	disconnect          FREE_QUEUE in the background

// allocateQueue asks for a queue. Without one the NIC is served by queue 0. The
// log says so once until there is one again: the front-end decides how often
// we ask.
func (d *Device) allocateQueue() {
	id, err := d.o.Adapter.AllocateQueue(queues.QueueParameters{
		VMName: d.o.Name, NIC: d.nic, Steering: d.o.Switch.Steering(d.port),
	})
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
	if status := d.o.Adapter.CompleteAllocation([]queues.QueueID{d.queue})[0]; status != queues.StatusSuccess {
		return fmt.Errorf("netdev: queue %d of port %q could not allocate its memory: %w", d.queue, d.o.Name, status)
	}
	d.completed = true
	return nil
}

// setFilters sets the port's wanted filters unless they are set.
func (d *Device) setFilters() error {
	if d.o.MAC == [6]byte{} {
		return nil
	}
	have, err := d.o.Adapter.EnumFilters(d.queue)
	if err != nil || len(have) > 0 {
		return err
	}
	_, err = d.o.Adapter.SetFilter(d.queue, queues.Filter{MAC: d.o.MAC, VLAN: 0})
	return err
}

// remakeMemory makes the queue's allocations anew from the Map and the rings as
// they are noted. On error it keeps those it has.
func (d *Device) remakeMemory() error {
	if d.queue == 0 || !d.completed {
		return nil
	}
	return d.o.Adapter.Remake(d.queue)
}

// account is remakeMemory for who cannot go back: what failed is the queue's
// accounting only.
func (d *Device) account() {
	if err := d.remakeMemory(); err != nil {
		d.o.Log.Error("memory of the queue not accounted anew", "queue", d.queue, "error", err)
	}
}

// pauseQueue clears the filters: the queue keeps its memory.
func (d *Device) pauseQueue() {
	if d.queue == 0 {
		return
	}
	if err := d.o.Adapter.ClearFilters(d.queue); err != nil {
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
		if err := d.o.Adapter.FreeQueue(d.freeCtx, id); err != nil {
			d.o.Log.Error("queue not freed", "queue", id, "error", err)
		}
	})
}
