package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"vhostnet/control"
	"vhostnet/netdev"
	"vhostnet/queues"
)

// backend carries out what the control API asks for.
type backend struct {
	d      *daemon
	origin netdev.Origin // of the filters that are set by it
}

var _ control.Backend = (*backend)(nil)

// verbs are what the control API owns queues and filters by.
func (b *backend) verbs() *queues.Binding { return b.d.verbs }

// ndis is an error as the API tells it: with the status of a verb, or as a
// mistake of whoever asked.
func ndis(err error) error {
	if err == nil {
		return nil
	}
	e := &control.Error{Status: queues.StatusOf(err).String(), Message: sentence(err)}
	if length, ok := errors.AsType[*queues.LengthError](err); ok {
		e.Needed = length.Needed
	}
	if _, usage := errors.AsType[usageError](err); usage {
		e.Status = queues.StatusInvalidParameter.String()
	}
	if errors.Is(err, errEnding) {
		e.Status = queues.StatusAdapterNotReady.String()
	}
	return e
}

// sentence is an error without the packages that it came through and without
// the status, which is told beside it.
func sentence(err error) string {
	s := oneLine(err)
	for _, prefix := range []string{"queues: ", "netdev: ", "usernet: "} {
		s = strings.ReplaceAll(s, prefix, "")
	}
	return strings.TrimSuffix(s, ": "+queues.StatusOf(err).String())
}

// wrong is a mistake of whoever asked.
func wrong(format string, args ...any) error {
	return control.Errorf(control.StatusInvalidParameter, format, args...)
}

// vmPortOf is a VM's port, by name.
func (b *backend) vmPortOf(name string) (*port, error) {
	p := b.d.ports.find(name)
	switch {
	case p == nil:
		return nil, wrong("there is no port %s", name)
	case p.vm == nil:
		return nil, wrong("port %s is not a VM's", name)
	}
	return p, nil
}

// Queues lists the adapter's queues.
func (b *backend) Queues() []control.Queue {
	infos := b.d.adapter.EnumQueues()
	list := make([]control.Queue, len(infos))
	for i, q := range infos {
		out := control.Queue{
			ID: uint16(q.ID), Port: q.VMName, Name: q.Name, Owner: q.Owner,
			State: q.State.String(), OperationalState: q.State.Operational().String(),
			Filters: q.Filters, Affinity: workersOf(q.Affinity), SuggestedBuffers: q.SuggestedBuffers,
		}
		if q.Worker >= 0 {
			out.Worker = &q.Worker
		}
		for _, a := range q.Accounts {
			out.Memory = append(out.Memory, control.Memory{Usage: a.Usage.String(), Bytes: a.Bytes, Allocations: a.Count})
		}
		list[i] = out
	}
	return list
}

// workersOf are the workers of an affinity.
func workersOf(mask uint64) (list []int) {
	for i := range 64 {
		if mask>>i&1 != 0 {
			list = append(list, i)
		}
	}
	return list
}

// maskOf is the affinity of workers.
func maskOf(workers []int) (mask uint64, err error) {
	for _, w := range workers {
		if w < 0 || w > 63 {
			return 0, wrong("worker %d: an affinity names workers 0 to 63", w)
		}
		mask |= 1 << w
	}
	return mask, nil
}

// Capabilities are the adapter's.
func (b *backend) Capabilities() control.Capabilities {
	set := func(c queues.Capabilities) control.CapabilitySet {
		return control.CapabilitySet{
			EnabledFilterTypes: c.EnabledFilterTypes, EnabledQueueTypes: c.EnabledQueueTypes, NumQueues: c.NumQueues,
			SupportedQueueProperties: uint32(c.SupportedQueueProperties), SupportedFilterTests: c.SupportedFilterTests,
			SupportedHeaders: c.SupportedHeaders, SupportedMACHeaderFields: c.SupportedMACHeaderFields, MaxMACHeaderFilters: c.MaxMACHeaderFilters,
		}
	}
	return control.Capabilities{Hardware: set(b.d.adapter.HardwareCapabilities()), Current: set(b.d.adapter.CurrentCapabilities())}
}

// AllocateQueue is ALLOCATE_QUEUE, for a port whose queue is driven by hand.
func (b *backend) AllocateQueue(r control.QueueRequest) (uint16, error) {
	p, err := b.vmPortOf(r.Port)
	if err != nil {
		return 0, err
	}
	if p.vm.device.QueueMode() != netdev.QueueManual {
		return 0, wrong("the queue of port %s is its session's; a port with queue=manual takes this verb", r.Port)
	}
	mask, err := maskOf(r.Affinity)
	if err != nil {
		return 0, err
	}
	q := p.vm.device.QueueParameters()
	q.QueueName, q.Affinity, q.SuggestedBuffers = r.Name, mask, r.SuggestedBuffers
	if !p.vm.allocate() {
		return 0, wrong("port %s is being removed", r.Port)
	}
	defer p.vm.allocating.Done()
	id, err := b.verbs().AllocateQueue(q)
	return uint16(id), ndis(err)
}

// CompleteQueues is QUEUE_ALLOCATION_COMPLETE.
func (b *backend) CompleteQueues(ids []uint16) []control.Completion {
	wanted := make([]queues.QueueID, len(ids))
	for i, id := range ids {
		wanted[i] = queues.QueueID(id)
	}
	errs := b.verbs().CompleteEach(wanted)
	states := map[uint16]string{}
	for _, q := range b.d.adapter.EnumQueues() {
		states[uint16(q.ID)] = q.State.String()
	}
	list := make([]control.Completion, len(ids))
	for i, id := range ids {
		list[i] = control.Completion{Queue: id, Status: queues.StatusOf(errs[i]).String(), State: states[id]}
		if errs[i] != nil {
			list[i].Error = sentence(errs[i])
		}
	}
	return list
}

// SetQueue is QUEUE_PARAMETERS.
func (b *backend) SetQueue(id uint16, c control.QueueChange) error {
	var change queues.QueueChange
	if c.Name != nil {
		change.Flags |= queues.NameChanged
		change.QueueName = *c.Name
	}
	if c.SuggestedBuffers != nil {
		change.Flags |= queues.SuggestedBuffersChanged
		change.SuggestedBuffers = *c.SuggestedBuffers
	}
	if c.Affinity != nil {
		mask, err := maskOf(*c.Affinity)
		if err != nil {
			return err
		}
		change.Flags |= queues.AffinityChanged
		change.Affinity = mask
	}
	return ndis(b.verbs().SetQueueParameters(queues.QueueID(id), change))
}

// FreeQueue is FREE_QUEUE. When ctx ends first it goes on in the background.
func (b *backend) FreeQueue(ctx context.Context, id uint16) error {
	done := make(chan error, 1)
	b.d.freeing.Go(func() {
		err := b.verbs().FreeQueue(b.d.freeCtx, queues.QueueID(id))
		if err != nil && ctx.Err() != nil { // nobody waits for it
			b.d.log.Warn("queue not freed", "queue", id, "error", err)
		}
		done <- err
	})
	select {
	case err := <-done:
		return ndis(err)
	case <-ctx.Done():
		return control.Errorf(control.StatusPending, "queue %d is on its way out; packets of it are still held, and it is freed when the last one is back", id)
	}
}

// Memory is what queues have allocated, and what VMs' ports take themselves.
func (b *backend) Memory() control.MemoryReport {
	r := control.MemoryReport{Allocations: []control.QueueMemory{}, Ports: []control.PortMemory{}, Note: control.MemoryNote}
	for _, q := range b.Queues() {
		for _, m := range q.Memory {
			r.Allocations = append(r.Allocations, control.QueueMemory{Queue: q.ID, Port: q.Port, Memory: m})
			r.Total += m.Bytes
		}
	}
	for _, p := range b.d.ports.all() {
		if p.vm != nil {
			r.Ports = append(r.Ports, control.PortMemory{Port: p.name, Bytes: p.vm.device.Snapshot().Memory})
		}
	}
	return r
}

// Subscribe begins a stream of events.
func (b *backend) Subscribe(port string) *control.Subscription { return b.d.hub.Subscribe(port) }

// freeManual takes back what the control API owns of a port that leaves.
func (d *daemon) freeManual(p *port) error {
	if p.vm == nil {
		return nil
	}
	p.vm.leave()
	id := p.vm.device.QueueID()
	if p.vm.device.QueueMode() != netdev.QueueManual || id == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), quiesceTimeout)
	defer cancel()
	err := d.verbs.ClearFilters(id)
	if err == nil {
		err = d.verbs.FreeQueue(ctx, id)
	}
	if err != nil && slices.ContainsFunc(d.adapter.EnumQueues(), func(q queues.QueueInfo) bool { return q.ID == id }) {
		return fmt.Errorf("queue %d of port %s: %w", id, p.name, err)
	}
	return nil
}
