package control

import (
	"slices"
	"sync"
	"time"
)

// Kinds of events.
const (
	EventPortAdded    = "port-added"
	EventPortRemoved  = "port-removed"
	EventConnected    = "connected"    // a front-end
	EventDisconnected = "disconnected" // it, and nothing writes to its memory any more
	EventLink         = "link"         // was taken down or up
	EventQueueState   = "queue-state"
	EventDMAStopped   = "dma-stopped" // NDIS: DmaStopped, once for each FREE_QUEUE
	EventRingBroken   = "ring-broken"
	EventAdapterState = "adapter-state"

	EventForwardAdded   = "forward-added"   // it listens
	EventForwardRemoved = "forward-removed" // it does not any more; its network may have gone
	EventForwardFailed  = "forward-failed"  // the host does not let it listen; nothing has changed

	EventLost = "lost" // the subscriber was too slow for Count events before the next one
)

// Event is something that has happened.
type Event struct {
	Seq   uint64    `json:"seq"` // of all events of the program, from 1 up; EventLost has none
	Time  time.Time `json:"time"`
	Kind  string    `json:"kind"`
	Port  string    `json:"port,omitempty"`
	Queue uint16    `json:"queue,omitempty"`
	State string    `json:"state,omitempty"` // of a queue, the adapter or a link
	Ring  *int      `json:"ring,omitempty"`
	Error string    `json:"error,omitempty"` // of EventRingBroken and EventForwardFailed
	Count uint64    `json:"count,omitempty"` // of EventLost

	// Forward is the way into the user-mode network at Port that has come, gone or
	// failed.
	Forward *Forward `json:"forward,omitempty"`
}

// eventRoom is how many events wait for a subscriber.
const eventRoom = 256

// Hub gives events to whoever has subscribed. Publish and Subscribe may be
// called from any goroutine: both hold a lock for an instant and wait for no
// subscriber.
type Hub struct {
	mu   sync.Mutex
	seq  uint64
	subs []*Subscription
}

// Subscription is the events since Subscribe, in the order in which they were
// published. What finds no room is lost.
type Subscription struct {
	hub    *Hub
	events chan Event
	last   uint64 // Seq of the event that was read last
}

// Publish numbers and dates an event and gives it to every subscriber.
func (h *Hub) Publish(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	e.Seq, e.Time = h.seq, time.Now()
	for _, s := range h.subs {
		select {
		case s.events <- e:
		default: // Lost sees that its number is missing
		}
	}
}

// Subscribe begins a Subscription, which its Close ends.
func (h *Hub) Subscribe() *Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &Subscription{hub: h, events: make(chan Event, eventRoom), last: h.seq}
	h.subs = append(h.subs, s)
	return s
}

// Subscribers is how many Subscriptions there are.
func (h *Hub) Subscribers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subs)
}

// Events is where events come from. It is not closed: who reads it watches
// something else, too.
func (s *Subscription) Events() <-chan Event { return s.events }

// Lost is how many events were lost before e, which was read just now. Every
// event that is read is asked about once, in order.
func (s *Subscription) Lost(e Event) uint64 {
	lost := e.Seq - s.last - 1
	s.last = e.Seq
	return lost
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.hub.subs = slices.DeleteFunc(s.hub.subs, func(other *Subscription) bool { return other == s })
}
