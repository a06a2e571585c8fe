package queues

import (
	"fmt"
	"sync/atomic"

	"vhostnet/sharedmem"
)

// QueueID names a queue on its adapter. 0 is the default queue.
type QueueID = sharedmem.QueueID

// FilterID names a filter on its adapter, from 1 up.
type FilterID uint32

// QueueParameters is what ALLOCATE_QUEUE is given
// (NDIS_RECEIVE_QUEUE_PARAMETERS).
type QueueParameters struct {
	VMName    string   // the port's name
	QueueName string   // free text, may be empty
	NIC       *NIC     // whose frames the queue takes
	Steering  Steering // where its filters become entries of the forwarding table
}

// Steering is where a queue's filters take effect: the forwarding table of the
// switch that the NIC is a port of. Its methods may be called from any
// goroutine and take effect before they return.
type Steering interface {
	Set(vlan uint16, mac [6]byte, id QueueID)
	Clear(vlan uint16, mac [6]byte)
}

// Filter is a destination: a MAC address, and a VLAN or AnyVLAN.
type Filter struct {
	MAC  [6]byte
	VLAN uint16
}

// FilterInfo is a filter as ENUM_FILTERS tells it.
type FilterInfo struct {
	ID FilterID
	Filter
}

// Queue is a NIC's VMQ state: its filters and its tagged memory. All fields
// but running are guarded by the adapter's lock.
type Queue struct {
	id      QueueID
	params  QueueParameters
	state   State
	told    State // that OnEvent was told last
	filters []FilterInfo
	memory  memory

	// running is read by workers in the middle of a delivery.
	running atomic.Bool
}

// QueueInfo is a queue as ENUM_QUEUES tells it (NDIS_RECEIVE_QUEUE_INFO).
type QueueInfo struct {
	ID       QueueID
	VMName   string
	Name     string
	State    State
	Filters  int
	Accounts []sharedmem.Account // bytes by usage
}

// move takes the queue through e or says why that is not allowed now.
func (q *Queue) move(e event, verb string) error {
	to, ok := q.state.next(e)
	if !ok {
		return fmt.Errorf("queues: %s: queue %d (%s) is %s: %w", verb, q.id, q.params.VMName, q.state, StatusInvalidParameter)
	}
	q.state = to
	q.running.Store(to == Running)
	return nil
}

func (q *Queue) info() QueueInfo {
	return QueueInfo{
		ID: q.id, VMName: q.params.VMName, Name: q.params.QueueName, State: q.state,
		Filters: len(q.filters), Accounts: q.memory.accounts(),
	}
}
