package control

import (
	"context"
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
	EventForwardFailed  = "forward-failed"  // the host does not let it listen, be it new or be it to come back; it is not there

	EventLost = "lost" // Count events at this place, as the subscriber was too slow; no other need follow
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

// Room for what waits for a subscriber. Forwards have their own, so that a network
// that goes with all of them hides nothing else, its end least of all: as many as a
// network may have, twice, since one that is made anew loses all and gets all.
const (
	eventRoom   = 256
	forwardRoom = 2 * 1024
)

// Hub gives events to whoever has subscribed. Publish and Subscribe may be
// called from any goroutine: both hold a lock for an instant and wait for no
// subscriber.
type Hub struct {
	mu   sync.Mutex
	seq  uint64
	subs []*Subscription
}

// Subscription is the events since Subscribe, in the order in which they were
// published. What finds no room is lost, and EventLost is in its place. One goroutine
// at a time reads it.
type Subscription struct {
	hub  *Hub
	port string        // whose events it is; "": all
	wake chan struct{} // one slot: something waits

	// The hub's lock guards the rest.
	events        []Event // that wait; EventLost needs no room, as another one follows each
	room, forward int     // that is left, forward for those with a Forward
	lost          uint64  // after events
}

// Publish numbers and dates an event and gives it to every subscriber.
func (h *Hub) Publish(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	e.Seq, e.Time = h.seq, time.Now()
	for _, s := range h.subs {
		if s.port == "" || s.port == e.Port {
			s.put(e)
		}
	}
}

// lose tells subscribers that count events of a port were lost before the hub got them.
func (h *Hub) lose(port string, count uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq += count
	for _, s := range h.subs {
		if s.port == "" || s.port == port {
			s.lost += count
			s.rouse()
		}
	}
}

// Subscribe begins a Subscription to the events of a port or, with "", to all. Its
// Close ends it.
func (h *Hub) Subscribe(port string) *Subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &Subscription{hub: h, port: port, wake: make(chan struct{}, 1), room: eventRoom, forward: forwardRoom}
	h.subs = append(h.subs, s)
	return s
}

// Subscribers is how many Subscriptions there are.
func (h *Hub) Subscribers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subs)
}

// roomFor is how many more events of e's sort may wait.
func (s *Subscription) roomFor(e Event) *int {
	if e.Forward != nil {
		return &s.forward
	}
	return &s.room
}

// put adds an event to those that wait, if there is room. The caller holds the hub's
// lock.
func (s *Subscription) put(e Event) {
	defer s.rouse()
	room := s.roomFor(e)
	if *room == 0 {
		s.lost++
		return
	}
	*room--
	if s.lost > 0 {
		s.events = append(s.events, s.loss())
	}
	s.events = append(s.events, e)
}

// loss is the event that tells of what was lost. The caller holds the hub's lock.
func (s *Subscription) loss() Event {
	e := Event{Time: time.Now(), Kind: EventLost, Count: s.lost}
	s.lost = 0
	return e
}

func (s *Subscription) rouse() {
	select {
	case s.wake <- struct{}{}:
	default: // it is awake
	}
}

// take takes what is next, if anything is.
func (s *Subscription) take() (e Event, ok bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	switch {
	case len(s.events) > 0:
		e, s.events[0] = s.events[0], Event{}
		s.events = s.events[1:]
		if e.Kind != EventLost {
			*s.roomFor(e)++
		}
	case s.lost > 0: // nothing need follow for it to be told
		e = s.loss()
	default:
		s.events = nil // a burst leaves no memory behind
		return e, false
	}
	return e, true
}

// Next waits for the next event, or for ctx to end, whose error it is then.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		if err := ctx.Err(); err != nil {
			return Event{}, err
		}
		if e, ok := s.take(); ok {
			return e, nil
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		}
	}
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.hub.subs = slices.DeleteFunc(s.hub.subs, func(other *Subscription) bool { return other == s })
}
