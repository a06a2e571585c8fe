package queues

import (
	"errors"
	"fmt"

	"vhostnet/sharedmem"
)

// memory is what a queue has allocated: views of the guest's memory under its
// id. Views are made from one Map; another Map means other views.
type memory struct {
	allocator *sharedmem.Allocator
	handles   []sharedmem.AllocationHandle
}

// allocate makes the queue's views: the whole Map for receive buffers and for
// transmit buffers, and each ring area for other uses. On an error nothing is
// left allocated.
func allocate(id QueueID, m *sharedmem.Map, areas []sharedmem.Block) (memory, error) {
	allocator, err := sharedmem.NewGuestAllocator(m, areas)
	if err != nil {
		return memory{}, fmt.Errorf("queues: memory of queue %d: %w", id, errors.Join(StatusResources, err))
	}
	mem := memory{allocator: allocator}
	wanted := []sharedmem.Parameters{
		{Queue: id, Usage: sharedmem.Receive, Length: m.Size()},
		{Queue: id, Usage: sharedmem.Xmit, Length: m.Size()},
	}
	for _, area := range areas {
		wanted = append(wanted, sharedmem.Parameters{Queue: id, Usage: sharedmem.Other, Length: area.Len()})
	}
	for _, p := range wanted {
		a, err := allocator.Allocate(p)
		if err != nil {
			return memory{}, fmt.Errorf("queues: memory of queue %d: %w", id, errors.Join(StatusResources, err, mem.free()))
		}
		mem.handles = append(mem.handles, a.AllocationHandle)
	}
	return mem, nil
}

// free gives back every view. What the allocator finds wrong is a defect of
// this package and is reported, not hidden.
func (m *memory) free() error {
	if m.allocator == nil {
		return nil
	}
	var errs []error
	for _, h := range m.handles {
		errs = append(errs, m.allocator.Free(h))
	}
	errs = append(errs, m.allocator.Close())
	*m = memory{}
	return errors.Join(errs...)
}

func (m *memory) accounts() []sharedmem.Account {
	if m.allocator == nil {
		return nil
	}
	return m.allocator.Accounts()
}
