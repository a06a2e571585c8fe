package control

import "context"

// Backend is what requests are carried out by: the whole switch for the control
// socket, a part of it for a guest. Its methods may be called from any goroutine,
// several at a time. An error that is an *Error is the answer as it is. None
// waits for the network or for a VM, but where ctx is given; FreeQueue waits for
// packets that somebody holds.
type Backend interface {
	Ports() []Port
	AddPort(r PortRequest) (Port, error)
	RemovePort(name string) error
	SetLink(ctx context.Context, name string, up bool) error

	Queues() []Queue
	Capabilities() Capabilities
	AllocateQueue(r QueueRequest) (id uint16, err error)
	CompleteQueues(ids []uint16) []Completion
	SetQueue(id uint16, c QueueChange) error
	// FreeQueue begins to free a queue and waits until it is done or ctx ends;
	// then the answer is an Error with StatusPending, and it goes on by itself.
	FreeQueue(ctx context.Context, id uint16) error

	Filters() []Filter
	SetFilter(r FilterRequest) (Filter, error)
	// ClearFilter clears a filter that is set.
	ClearFilter(id uint32) error
	// DropFilter is ClearFilter for a filter that a port wants, set or not.
	DropFilter(port string, a Address) error
	MoveFilter(ctx context.Context, id uint32, queue uint16) error

	// Forwards are the ways in of the user-mode networks; one is known by its network
	// and its address.
	Forwards() []Forward
	AddForward(r ForwardRequest) (Forward, error)
	RemoveForward(network, listen string) error

	Memory() MemoryReport
	Table() []Entry
	Counters() []Counters

	// Subscribe begins to tell the events of a port or, with "", all; see Hub.
	Subscribe(port string) *Subscription
}

// Nothing is a Backend that shows nothing and does nothing. Who embeds it in a
// Backend of his own opens what he implements and nothing else, also when the
// interface grows.
type Nothing struct{}

var _ Backend = Nothing{}

// errNotYours is the answer of Nothing.
var errNotYours = Errorf(StatusNotAccepted, "this is not open to the caller")

// Ports are none.
func (Nothing) Ports() []Port { return nil }

// AddPort is refused.
func (Nothing) AddPort(PortRequest) (Port, error) { return Port{}, errNotYours }

// RemovePort is refused.
func (Nothing) RemovePort(string) error { return errNotYours }

// SetLink is refused.
func (Nothing) SetLink(context.Context, string, bool) error { return errNotYours }

// Queues are none.
func (Nothing) Queues() []Queue { return nil }

// Capabilities are none.
func (Nothing) Capabilities() Capabilities { return Capabilities{} }

// AllocateQueue is refused.
func (Nothing) AllocateQueue(QueueRequest) (uint16, error) { return 0, errNotYours }

// CompleteQueues refuses each queue.
func (Nothing) CompleteQueues(ids []uint16) []Completion {
	list := make([]Completion, len(ids))
	for i, id := range ids {
		list[i] = Completion{Queue: id, Status: errNotYours.Status}
	}
	return list
}

// SetQueue is refused.
func (Nothing) SetQueue(uint16, QueueChange) error { return errNotYours }

// FreeQueue is refused.
func (Nothing) FreeQueue(context.Context, uint16) error { return errNotYours }

// Filters are none.
func (Nothing) Filters() []Filter { return nil }

// SetFilter is refused.
func (Nothing) SetFilter(FilterRequest) (Filter, error) { return Filter{}, errNotYours }

// ClearFilter is refused.
func (Nothing) ClearFilter(uint32) error { return errNotYours }

// DropFilter is refused.
func (Nothing) DropFilter(string, Address) error { return errNotYours }

// MoveFilter is refused.
func (Nothing) MoveFilter(context.Context, uint32, uint16) error { return errNotYours }

// Forwards are none.
func (Nothing) Forwards() []Forward { return nil }

// AddForward is refused.
func (Nothing) AddForward(ForwardRequest) (Forward, error) { return Forward{}, errNotYours }

// RemoveForward is refused.
func (Nothing) RemoveForward(string, string) error { return errNotYours }

// Memory is none.
func (Nothing) Memory() MemoryReport { return MemoryReport{} }

// Table is empty.
func (Nothing) Table() []Entry { return nil }

// Counters are none.
func (Nothing) Counters() []Counters { return nil }

// Subscribe tells nothing: the stream is refused.
func (Nothing) Subscribe(string) *Subscription { return nil }
