package vswitch

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"vhostnet/nbl"
	"vhostnet/worker"
)

// Options is what a Switch is made from.
type Options struct {
	// MaxEntries is for how many addresses the forwarding table has room;
	// 0 means 65536. Its memory, 37 to 73 bytes for each, is taken at once.
	// It is not an exact limit: addresses that share a full window of the
	// table displace each other, which is rare up to MaxEntries.
	MaxEntries int

	// Age is how long a learned address lives without being seen as a source,
	// to within a hundredth; 0 means 300 s.
	Age time.Duration
}

// Switch joins ports by one forwarding table. Forward may be called by any
// number of workers at once, the other methods from any goroutine.
type Switch struct {
	table table
	tick  int64 // ns of a tick of the table's clock
	ports atomic.Pointer[portSet]

	mu        sync.Mutex         // guards changes: what follows, ports, fixed entries
	lastIndex int                // the most recently given port index
	claims    map[uint64][]claim // by key, see steering.go
	waiting   []claim            // of no key
}

// New makes a Switch without ports.
func New(o Options) (*Switch, error) {
	if o.MaxEntries < 0 || o.MaxEntries > maxEntries {
		return nil, fmt.Errorf("vswitch: a forwarding table for %d addresses; 1 to %d, or 0 for %d, are possible",
			o.MaxEntries, maxEntries, defaultEntries)
	}
	if o.Age != 0 && o.Age < shortestAge {
		return nil, fmt.Errorf("vswitch: learned addresses to be forgotten after %v; %v or longer, or 0 for %v, is possible",
			o.Age, shortestAge, defaultAge)
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = defaultEntries
	}
	if o.Age == 0 {
		o.Age = defaultAge
	}
	s := &Switch{tick: int64(o.Age) / ageTicks, lastIndex: MaxPorts - 1, claims: map[uint64][]claim{}}
	s.table.init(o.MaxEntries)
	s.ports.Store(new(portSet))
	return s, nil
}

// errTooManyPorts is the answer to one port more than MaxPorts.
var errTooManyPorts = errors.New("all places are taken; detach a port first")

// Attach adds a port. From now on frames are flooded to it and it may be the
// from of Forward.
func (s *Switch) Attach(p Port, o PortOptions) (PortID, error) {
	added, err := newPort(p, o)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ports := s.ports.Load()
	if err := ports.mayMirror(added, 0); err != nil {
		return 0, err
	}
	if len(ports.all) == MaxPorts {
		return 0, fmt.Errorf("vswitch: attach port %q to %d others: %w", o.Name, MaxPorts, errTooManyPorts)
	}
	// Indexes go round, so that one is not used again soon.
	index := (s.lastIndex + 1) % MaxPorts
	for ports.byIndex[index] != nil {
		index = (index + 1) % MaxPorts
	}
	s.lastIndex = index
	added.id = PortID(s.table.retag(index))
	s.ports.Store(ports.with(index, added))
	return added.id, nil
}

// Detach removes a port, its filters, its static addresses, and the learned
// addresses that still point to it. A worker that is inside Forward may still
// deliver to the port: it is unused after the workers' next Quiesce. An
// unknown id is ignored.
func (s *Switch) Detach(id PortID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ports := s.ports.Load()
	if ports.find(id) == nil {
		return
	}
	index := tag(id).index()
	s.ports.Store(ports.with(index, nil))
	s.table.retag(index)
	s.dropClaims(id)
}

// Forget makes the switch forget what it has learned about a port; what has
// moved to another port stays, and so do filters. An unknown id is ignored.
func (s *Switch) Forget(id PortID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports.Load().find(id) != nil {
		s.table.retag(tag(id).index())
	}
}

// Forward decides where each frame of batch, sent by port from, goes, and
// delivers it. Afterwards each List is
//
//	Done     delivered, or flooded to those ports that had room
//	Dropped  for its Reason, which was counted
//	Busy     its receiver has no room now: hand it to Forward again, in the
//	         same order, before any newer frame of the same ring
//
// Lists that are Done or Dropped already are left alone. Frames from one batch
// to one port are delivered in order; a frame behind a Busy one to the same
// port stays behind it. A panic of a Port's Deliver passes through: the Lists
// that it left undecided are Pending or Busy.
func (s *Switch) Forward(c *worker.Context, from PortID, batch []*nbl.List) {
	b := batches.Get(c)
	if !b.begin(c, s, from, len(batch)) {
		refuse(batch)
		return
	}
	defer b.end() // also when the sender's memory faults in a Deliver
	if b.from.down.Load() {
		b.unplugged(batch)
		return
	}
	if b.from.mirror != 0 {
		b.mirrorSent(batch)
	}
	if !b.from.plain {
		b.permit(batch)
	}
	b.classify(batch)
	b.flood()
	b.unicast(batch)
	b.floodAgain()
}
