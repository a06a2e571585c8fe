package queues

import (
	"fmt"
	"slices"
	"sync/atomic"

	"vhostnet/sharedmem"
)

// QueueID names a queue on its adapter. 0 is the default queue.
type QueueID = sharedmem.QueueID

// Steering is where a queue's filters take effect: the forwarding table of the
// switch that the NIC is a port of, bound to that port. Its methods may be
// called from any goroutine and take effect before they return.
//
// Several queues may want the same address, as during a migration on one host.
// The one with the lowest order gets its frames, the last that was set among
// equals; when it is cleared the next takes over, with no instant in between.
type Steering interface {
	Set(vlan uint16, mac [6]byte, id QueueID, order uint32)
	Clear(vlan uint16, mac [6]byte)
}

// Queue is a NIC's VMQ state: its filters and its tagged memory. All fields
// but running are guarded by the adapter's lock.
type Queue struct {
	id      QueueID
	owner   *Binding
	params  QueueParameters
	state   State
	told    State // that OnEvent was told last
	filters []FilterInfo
	leaving int // filters that moved away, and whose last frames are still on their way here
	memory  memory

	moving bool        // a change of its affinity is under way
	abort  func(error) // ends the wait of a FREE_QUEUE; nil: none waits

	// running is read by workers in the middle of a delivery.
	running atomic.Bool
}

// move takes the queue through e or says why that is not allowed now. Filters
// are in the forwarding table while the queue runs: until it has memory, and
// when it has none any more, their frames go queue 0's way.
func (q *Queue) move(e event, verb string) error {
	to, ok := q.state.next(e)
	if !ok {
		return fmt.Errorf("queues: %s: queue %d (%s) is %s: %w", verb, q.id, q.params.VMName, q.state, StatusInvalidParameter)
	}
	if q.state == Running && to != Running {
		for _, f := range q.filters {
			q.params.Steering.Clear(f.VLAN, f.MAC)
		}
	}
	starts := q.state != Running && to == Running
	q.state = to
	q.running.Store(to == Running)
	if starts {
		for _, f := range q.filters {
			q.steer(f)
		}
	}
	return nil
}

// steer puts a filter of a running queue into the forwarding table.
func (q *Queue) steer(f FilterInfo) {
	q.params.Steering.Set(f.VLAN, f.MAC, q.id, uint32(f.ID))
}

// find is the place of a filter among the queue's, -1: it has none of that id.
func (q *Queue) find(filter FilterID) int {
	return slices.IndexFunc(q.filters, func(f FilterInfo) bool { return f.ID == filter })
}

// clearEvent is what the end of one of the queue's filters is to its state.
func (q *Queue) clearEvent() event {
	if len(q.filters)+q.leaving == 1 {
		return evClearLast
	}
	return evClearNotLast
}

// QueueInfo is a queue as ENUM_QUEUES tells it (NDIS_RECEIVE_QUEUE_INFO).
type QueueInfo struct {
	ID       QueueID
	VMName   string
	Name     string
	Owner    string // the binding that allocated it; queue 0: none
	State    State
	Filters  int
	Affinity uint64 // workers, as a mask; 0: it goes where load sends it
	Worker   int    // that polls its first pair now; -1: nobody says

	SuggestedBuffers uint32
	Accounts         []sharedmem.Account // bytes by usage
}

func (q *Queue) info() QueueInfo {
	info := QueueInfo{
		ID: q.id, VMName: q.params.VMName, Name: q.params.QueueName, State: q.state,
		Filters: len(q.filters), Affinity: q.params.Affinity, Worker: -1,
		SuggestedBuffers: q.params.SuggestedBuffers, Accounts: q.memory.accounts(),
	}
	if q.owner != nil {
		info.Owner = q.owner.name
	}
	if q.params.Placement != nil {
		info.Worker = q.params.Placement.Worker()
	}
	return info
}
