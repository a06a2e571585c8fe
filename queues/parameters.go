package queues

import (
	"errors"
	"fmt"
	"math/bits"
)

// QueueFlags are the flags of QueueParameters and of a change of them, with the
// values of NDIS.
type QueueFlags uint32

// Flags of a queue, and what a change of its parameters changes.
const (
	// PerQueueIndication promises that no batch mixes queues. Deliveries here
	// are always by NIC, so it changes nothing.
	PerQueueIndication QueueFlags = 0x1
	// LookaheadSplit is accepted and ignored, as from NDIS 6.30 on: frames
	// are filtered before a byte of them reaches a guest.
	LookaheadSplit QueueFlags = 0x2

	FlagsChanged            QueueFlags = 0x10000
	AffinityChanged         QueueFlags = 0x20000
	SuggestedBuffersChanged QueueFlags = 0x40000
	NameChanged             QueueFlags = 0x80000
	CoalescingChanged       QueueFlags = 0x100000 // not supported
	QoSChanged              QueueFlags = 0x200000 // not supported

	changeMask QueueFlags = 0xffff0000
)

// QueueParameters is what ALLOCATE_QUEUE is given
// (NDIS_RECEIVE_QUEUE_PARAMETERS).
type QueueParameters struct {
	Flags     QueueFlags
	VMName    string   // the port's name
	QueueName string   // free text, at most 256 bytes; may be empty
	NIC       *NIC     // whose frames the queue takes
	Steering  Steering // where its filters become entries of the forwarding table

	// Affinity is which workers may carry the NIC's rings, as a mask: of
	// several bits the lowest counts (NDIS: ProcessorAffinity). 0: wherever
	// load sends them.
	Affinity uint64
	// Placement moves the NIC's rings. nil: they stay where they are, and
	// Affinity must be 0.
	Placement Placement

	// SuggestedBuffers is how many receive buffers would be good, a hint: the
	// guest decides how many it posts.
	SuggestedBuffers uint32
	// LookaheadSize must be 0 (NDIS 6.30).
	LookaheadSize uint32

	// Shared lets other bindings set filters on the queue, each clearing its
	// own, and change its affinity.
	Shared bool
}

// Placement is where a NIC's rings are polled. Its methods are called from any
// goroutine but a worker's.
type Placement interface {
	// Worker is the index of the worker that polls the NIC's first pair.
	Worker() int
	// Move gives the rings to another worker: the old one leaves them, then
	// the new one takes them, so that no frame is lost or overtaken. With an
	// error they are where they were.
	Move(worker int) error
}

// check refuses parameters that no queue of the adapter can have.
func (p *QueueParameters) check(a *Adapter) error {
	switch {
	case p.NIC == nil || p.NIC.adapter != a || p.Steering == nil:
		return fmt.Errorf("queues: allocate: a queue needs a NIC of this adapter and a Steering: %w", StatusInvalidParameter)
	case p.Flags&^(PerQueueIndication|LookaheadSplit) != 0:
		return fmt.Errorf("queues: allocate: flags %#x; %#x are known: %w", uint32(p.Flags), uint32(PerQueueIndication|LookaheadSplit), StatusInvalidParameter)
	case p.LookaheadSize != 0:
		return fmt.Errorf("queues: allocate: a lookahead of %d bytes; frames are not split, so 0 it must be: %w", p.LookaheadSize, StatusInvalidParameter)
	}
	if err := checkName(p.VMName); err != nil {
		return err
	}
	if err := checkName(p.QueueName); err != nil {
		return err
	}
	return a.checkAffinity(p.Affinity, p.Placement)
}

const maxName = 256

func checkName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("queues: a name of %d bytes; %d are possible: %w", len(name), maxName, StatusInvalidParameter)
	}
	return nil
}

func (a *Adapter) checkAffinity(mask uint64, p Placement) error {
	switch {
	case mask == 0:
		return nil
	case p == nil:
		return fmt.Errorf("queues: affinity %#x: nobody can move the queue's rings: %w", mask, StatusNotSupported)
	case bits.TrailingZeros64(mask) >= a.workers:
		return fmt.Errorf("queues: affinity %#x: there are %d workers, the first is bit 0: %w", mask, a.workers, StatusInvalidParameter)
	}
	return nil
}

// QueueChange is a change of a queue's parameters. Only members whose flag is
// set count; with none nothing changes.
type QueueChange struct {
	Flags            QueueFlags // also the new value of the flags, with FlagsChanged
	Affinity         uint64     // with AffinityChanged
	SuggestedBuffers uint32     // with SuggestedBuffersChanged
	QueueName        string     // with NameChanged
}

// GetQueueParameters is what the queue was allocated with and what has changed
// since (OID_RECEIVE_FILTER_QUEUE_PARAMETERS, a query).
func (a *Adapter) GetQueueParameters(id QueueID) (QueueParameters, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q, err := a.lookup(id, "queue parameters")
	if err != nil {
		return QueueParameters{}, err
	}
	if err := q.move(evParameters, "queue parameters"); err != nil {
		return QueueParameters{}, err
	}
	return q.params, nil
}

// SetQueueParameters changes what can change while a queue lives
// (OID_RECEIVE_FILTER_QUEUE_PARAMETERS, a set). Other members stay. A new
// affinity moves the NIC's rings before it returns; when they cannot move,
// nothing has changed and the status is StatusResources.
func (b *Binding) SetQueueParameters(id QueueID, c QueueChange) error {
	a := b.a
	a.mu.Lock()
	q, err := b.change(id, c)
	if err != nil {
		a.mu.Unlock()
		return err
	}
	if c.Flags&AffinityChanged != 0 {
		q.moving = true
		p := q.params.Placement
		a.mu.Unlock()
		err = place(p, c.Affinity)
		a.mu.Lock()
		q.moving = false
		if err != nil {
			a.mu.Unlock()
			return fmt.Errorf("queues: queue parameters: queue %d stays where it is: %w", id, errors.Join(StatusResources, err))
		}
	}
	q.apply(c)
	a.mu.Unlock()
	return nil
}

// change checks a change. The caller holds mu.
func (b *Binding) change(id QueueID, c QueueChange) (*Queue, error) {
	q, err := b.a.lookup(id, "queue parameters")
	if err != nil {
		return nil, err
	}
	if c.Flags&(CoalescingChanged|QoSChanged) != 0 || c.Flags&changeMask&^(FlagsChanged|AffinityChanged|SuggestedBuffersChanged|NameChanged) != 0 {
		return nil, fmt.Errorf("queues: queue parameters: flags %#x; only flags, affinity, suggested buffers and name can change: %w", uint32(c.Flags), StatusNotSupported)
	}
	if c.Flags&FlagsChanged != 0 && c.Flags&^(changeMask|PerQueueIndication|LookaheadSplit) != 0 {
		return nil, fmt.Errorf("queues: queue parameters: flags %#x; %#x are known: %w", uint32(c.Flags&^changeMask), uint32(PerQueueIndication|LookaheadSplit), StatusInvalidParameter)
	}
	if err := q.ownedBy(b, c.Flags&changeMask == AffinityChanged, "queue parameters"); err != nil {
		return nil, err
	}
	if c.Flags&AffinityChanged != 0 {
		if err := b.a.checkAffinity(c.Affinity, q.params.Placement); err != nil {
			return nil, err
		}
		if q.moving {
			return nil, fmt.Errorf("queues: queue parameters: queue %d is being moved already; ask again: %w", id, StatusResources)
		}
	}
	if c.Flags&NameChanged != 0 {
		if err := checkName(c.QueueName); err != nil {
			return nil, err
		}
	}
	return q, q.move(evParameters, "queue parameters")
}

// place moves rings to the worker that an affinity names.
func place(p Placement, mask uint64) error {
	if mask == 0 {
		return nil
	}
	return p.Move(bits.TrailingZeros64(mask))
}

// apply takes over what c changes. The caller holds mu.
func (q *Queue) apply(c QueueChange) {
	if c.Flags&FlagsChanged != 0 {
		q.params.Flags = c.Flags &^ changeMask
	}
	if c.Flags&AffinityChanged != 0 {
		q.params.Affinity = c.Affinity
	}
	if c.Flags&SuggestedBuffersChanged != 0 {
		q.params.SuggestedBuffers = c.SuggestedBuffers
	}
	if c.Flags&NameChanged != 0 {
		q.params.QueueName = c.QueueName
	}
}
