package vswitch

import (
	"fmt"
	"slices"
)

// Reconfigure makes other options those of a port, which stays attached: its name and
// its counters remain, and so do its link and its filters and static addresses, each
// as far as the port is in its VLAN. What was learned about a port is forgotten when
// its VLANs are others, or it becomes or ceases to be a sink. A sink stays one as long
// as another port is mirrored to it. On error nothing has changed.
//
// A Forward that begins after Reconfigure has returned goes by the new options, one
// that is under way by the old ones: none does after the workers' next Quiesce. It
// may be called from any goroutine.
func (s *Switch) Reconfigure(id PortID, o PortOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ports := s.ports.Load()
	was := ports.find(id)
	if was == nil {
		return fmt.Errorf("vswitch: port %d is not attached; its options cannot change", id)
	}
	o.Name, o.Counters = was.options.Name, was.counters
	is, err := newPort(was.out, o)
	if err != nil {
		return err
	}
	if err := ports.mayMirror(is, id); err != nil {
		return err
	}
	is.id = id
	is.stalled.Store(was.stalled.Load())
	is.down.Store(was.down.Load())
	index := tag(id).index()
	if was.sink == is.sink && was.vlans.equal(is.vlans) {
		s.ports.Store(ports.with(index, is))
		return nil
	}
	claims := s.claimsOf(id)
	s.dropClaims(id)
	s.ports.Store(ports.with(index, is))
	s.table.retag(index)
	for _, c := range claims {
		s.place(c)
	}
	return nil
}

// mayMirror refuses a port whose sink is none, and one that ceases to be the sink of
// others. id is the port's, if it is attached.
func (s *portSet) mayMirror(p *port, id PortID) error {
	name := p.options.Name
	if sink := s.find(p.mirror); p.mirror != 0 && (sink == nil || !sink.sink || p.mirror == id) {
		return fmt.Errorf("vswitch: attach port %q: port %d, to which it is to be mirrored, is no sink that is attached", name, p.mirror)
	}
	if p.sink || id == 0 {
		return nil
	}
	if at := slices.IndexFunc(s.all, func(q *port) bool { return q.mirror == id }); at >= 0 {
		return fmt.Errorf("vswitch: port %q is mirrored to port %q, which stays a sink as long as it is", s.all[at].options.Name, name)
	}
	return nil
}

// equal reports whether both are the same VLANs.
func (v *vlans) equal(o *vlans) bool {
	if v == nil || o == nil {
		return v == o
	}
	return *v == *o
}

// claimsOf are those of a port, the ones that others come behind last: so they come
// in that order again. The caller holds mu.
func (s *Switch) claimsOf(id PortID) (list []claim) {
	for _, claims := range s.claims {
		for _, c := range slices.Backward(claims) {
			if c.port == id {
				list = append(list, c)
			}
		}
	}
	for _, c := range s.waiting {
		if c.port == id {
			list = append(list, c)
		}
	}
	return list
}
