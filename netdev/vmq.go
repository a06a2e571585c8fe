package netdev

import (
	"context"
	"errors"
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

// allocateQueue asks for a queue. Without one the NIC is served by queue 0.
func (d *Device) allocateQueue() {
	id, err := d.o.Adapter.AllocateQueue(queues.QueueParameters{
		VMName: d.o.Name, NIC: d.nic, Steering: d.o.Switch.Steering(d.port),
	})
	if errors.Is(err, queues.StatusResources) {
		d.o.Log.Warn("no queue left; the port is served by queue 0", "error", err)
		return
	}
	if err != nil {
		d.o.Log.Error("no queue", "error", err)
		return
	}
	d.queue, d.completed = id, false
}

// grow follows the start of a ring.
func (d *Device) grow() error {
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

func (d *Device) remakeMemory() error {
	if d.queue == 0 || !d.completed {
		return nil
	}
	return d.o.Adapter.Remake(d.queue)
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

func (d *Device) freeQueue() {
	id := d.queue
	if id == 0 {
		return
	}
	d.queue, d.completed = 0, false
	d.freeing.Go(func() {
		if err := d.o.Adapter.FreeQueue(context.Background(), id); err != nil {
			d.o.Log.Error("queue not freed", "queue", id, "error", err)
		}
	})
}
