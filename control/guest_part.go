package control

import (
	"net"
	"slices"
	"sync"
)

// GuestHost carries out what guests ask for: a Backend, and what is done in a
// guest's name. Its methods may be called from any goroutine.
type GuestHost interface {
	Backend
	// Taken reports whether another port that shares a VLAN with this one has an
	// address, as its own or by a filter. It waits for nobody.
	Taken(port string, mac [6]byte) bool
	// Seen reports whether the switch has seen an address at such a port lately.
	Seen(port string, mac [6]byte) bool
	// SetGuestFilter sets a filter of the origin guest. The port keeps it until
	// its front-end disconnects, and has none while there is no front-end.
	SetGuestFilter(port string, a Address) (Filter, error)
	// DropGuestFilter takes it back.
	DropGuestFilter(port string, a Address) error
	// SuggestBuffers says how many receive buffers are good for a port's queue.
	SuggestBuffers(port string, n uint32) error
}

// OriginGuest is the Origin of filters that a guest has set.
const OriginGuest = "guest"

// guestPart is a guest's part of the host: what its own port has, without what
// tells of the host, and what its policy opens.
type guestPart struct {
	Nothing
	host   GuestHost
	port   string
	policy GuestPolicy
	// changing is held from the look at who has an address until it is set, so
	// nobody is waited for meanwhile. All guests of a host share it.
	changing *sync.Mutex
	events   *Hub // of the port
}

// Ports is the guest's own port.
func (p *guestPart) Ports() []Port {
	for _, o := range p.host.Ports() {
		if o.Name == p.port {
			rings := slices.Clone(o.Rings)
			for i := range rings {
				rings[i].Polling = nil // the host's affair
			}
			return []Port{{
				Name: o.Name, Kind: o.Kind, MAC: o.MAC, Link: o.Link, Connected: o.Connected, Driver: o.Driver,
				QueueMode: o.QueueMode, Queue: o.Queue, Rings: rings, Stalled: o.Stalled,
			}}
		}
	}
	return nil
}

// Queues is that of the port, if it has one of its own.
func (p *guestPart) Queues() (list []Queue) {
	for _, q := range p.host.Queues() {
		if q.Port == p.port && q.ID != 0 {
			q.Affinity, q.Worker = nil, nil // the host's affair
			list = append(list, q)
		}
	}
	return list
}

// Filters are those of the port.
func (p *guestPart) Filters() (list []Filter) {
	for _, f := range p.host.Filters() {
		if f.Port == p.port {
			list = append(list, f)
		}
	}
	return list
}

// Capabilities are the host's.
func (p *guestPart) Capabilities() Capabilities { return p.host.Capabilities() }

// Counters are those of the port.
func (p *guestPart) Counters() []Counters {
	for _, c := range p.host.Counters() {
		if c.Port == p.port {
			return []Counters{c}
		}
	}
	return nil
}

// Subscribe begins to tell events of the port; of another one there are none.
func (p *guestPart) Subscribe(port string) *Subscription { return p.events.Subscribe(port) }

// SetFilter sets a filter for the guest, within the policy.
func (p *guestPart) SetFilter(r FilterRequest) (Filter, error) {
	if r.Port != "" && r.Port != p.port {
		return Filter{}, noPort(r.Port)
	}
	if r.Queue != 0 && !p.hasQueue(r.Queue) {
		return Filter{}, noQueue(r.Queue)
	}
	mac, err := p.policy.admits(r.Address)
	if err != nil {
		return Filter{}, err
	}
	taken := Errorf(StatusNotAccepted, "%s is the address of another port", r.MAC)
	if p.host.Seen(p.port, mac) {
		return Filter{}, taken
	}
	p.changing.Lock()
	defer p.changing.Unlock()
	if n := p.count(); n >= p.policy.Filters {
		return Filter{}, Errorf(StatusResources, "the guest has set %d filters, which is as many as it may have; clear one first", n)
	}
	if p.host.Taken(p.port, mac) {
		return Filter{}, taken
	}
	return p.host.SetGuestFilter(p.port, r.Address)
}

func (p *guestPart) count() (n int) {
	for _, f := range p.Filters() {
		if f.Origin == OriginGuest {
			n++
		}
	}
	return n
}

// ClearFilter clears a filter that the guest has set.
func (p *guestPart) ClearFilter(id uint32) error {
	for _, f := range p.Filters() {
		if id != 0 && f.ID == id {
			return p.drop(f)
		}
	}
	return noFilter(id)
}

// DropFilter clears a filter that the guest has set, by its address.
func (p *guestPart) DropFilter(port string, a Address) error {
	if port != p.port {
		return noPort(port)
	}
	for _, f := range p.Filters() {
		if sameAddress(f.Address, a) {
			return p.drop(f)
		}
	}
	return Errorf(StatusFileNotFound, "there is no filter of %s like that", a.MAC)
}

// sameAddress compares what two addresses mean.
func sameAddress(a, b Address) bool {
	x, err1 := net.ParseMAC(a.MAC)
	y, err2 := net.ParseMAC(b.MAC)
	return err1 == nil && err2 == nil && slices.Equal(x, y) && a.VLAN == b.VLAN && a.AnyVLAN == b.AnyVLAN
}

func (p *guestPart) drop(f Filter) error {
	if f.Origin != OriginGuest {
		return Errorf(StatusNotAccepted, "the filter of %s was not set by the guest (origin: %s)", f.MAC, f.Origin)
	}
	return p.host.DropGuestFilter(p.port, f.Address)
}

// SetQueue lets the guest say how many receive buffers are good, and nothing
// else.
func (p *guestPart) SetQueue(id uint16, c QueueChange) error {
	switch {
	case !p.hasQueue(id):
		return noQueue(id)
	case p.policy.Buffers == 0:
		return Errorf(StatusNotAccepted, "the guest of this port may look and change nothing; its host would have to say guest=filters")
	case c.Name != nil || c.Affinity != nil || c.SuggestedBuffers == nil:
		return Errorf(StatusNotAccepted, "a guest may change suggested_buffers of its queue and nothing else")
	case *c.SuggestedBuffers > p.policy.Buffers:
		e := Errorf(StatusInvalidParameter, "%d buffers; a guest may ask for at most %d", *c.SuggestedBuffers, p.policy.Buffers)
		e.Needed = int(p.policy.Buffers)
		return e
	}
	return p.host.SuggestBuffers(p.port, *c.SuggestedBuffers)
}

func (p *guestPart) hasQueue(id uint16) bool {
	for _, q := range p.Queues() {
		if q.ID == id {
			return true
		}
	}
	return false
}
