package vswitch

import (
	"fmt"
	"slices"

	"vhostnet/sharedmem"
)

// Several ports may want the same address, as during a migration on one host.
// The switch remembers all their claims, filters by their order, then static
// ones as they came, and the table holds the first: when it goes, the next
// takes over.

// claim is a port's wish to have an address's frames. It is in claims under its key,
// or, if it is a filter of a VLAN in which the port is not, in waiting.
type claim struct {
	port  PortID
	kind  kind
	queue sharedmem.QueueID // of a filter
	order uint32            // among filters; the lowest counts
	vlan  uint16            // as the port says it
	mac   [6]byte
}

// Steering puts the filters of one port into the forwarding table: frames to
// an address go to the port by the way of a queue. It is bound to one
// attachment: after the port's Detach it does nothing. Its methods may be
// called from any goroutine, and a Forward that begins after they have
// returned goes by the new state.
type Steering struct {
	s  *Switch
	id PortID
}

// Steering is how the filters of port id are set.
func (s *Switch) Steering(id PortID) *Steering { return &Steering{s, id} }

// Set sends frames to mac in vlan (0: those that are untagged at the port;
// AnyVLAN: all of its VLANs) to the port,
// marked with queue q. What was learned about the address is void. If several
// ports have filters of it, the one with the lowest order counts, and of equals
// the last: Set at one port and Clear at another, of the same order, hand the
// address over in one step. Setting it again changes queue and order. A group
// address or zero is ignored: frames to groups are flooded. One of a VLAN in which the
// port is not waits until it is ([Switch.Reconfigure]).
func (st *Steering) Set(vlan uint16, mac [6]byte, q sharedmem.QueueID, order uint32) {
	st.s.claim(claim{st.id, filter, q, order, vlan, mac})
}

// Clear takes the filter back. Frames to the address take queue 0's way again,
// or that of the next port that wants it.
func (st *Steering) Clear(vlan uint16, mac [6]byte) {
	st.s.unclaim(vlan, mac, st.id, filter)
}

// AddStatic sends frames to mac in vlan (0: untagged ones; AnyVLAN: all) to
// port id on queue 0's way. The address is not learned from frames any more; a
// filter of it, of whatever port, goes before it.
func (s *Switch) AddStatic(id PortID, vlan uint16, mac [6]byte) error {
	if !s.claim(claim{id, static, 0, 0, vlan, mac}) {
		return fmt.Errorf("vswitch: static address %x for port %d: the address of one station and the id of a port that is attached, and in VLAN %d, are needed", mac, id, vlan)
	}
	return nil
}

// RemoveStatic takes a static address back. One that is not there is ignored.
func (s *Switch) RemoveStatic(id PortID, vlan uint16, mac [6]byte) {
	s.unclaim(vlan, mac, id, static)
}

// steeringKey is the key of an address that a port wants, false if it is no
// station's, or the port is not there or not in the VLAN. The caller holds mu.
func (s *Switch) steeringKey(id PortID, vlan uint16, mac [6]byte) (uint64, bool) {
	n := uint64(0)
	for _, b := range mac {
		n = n<<8 | uint64(b)
	}
	p := s.ports.Load().find(id)
	if p == nil || n == 0 || n&groupBit != 0 {
		return 0, false
	}
	return p.key(vlan, n)
}

func (s *Switch) claim(c claim) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.place(c)
}

// place makes a claim count, and reports whether it does now. The caller holds mu.
func (s *Switch) place(c claim) bool {
	key, ok := s.steeringKey(c.port, c.vlan, c.mac)
	if !ok {
		s.wait(c)
		return false
	}
	list := slices.DeleteFunc(s.claims[key], c.replaces)
	at := slices.IndexFunc(list, c.before)
	if at < 0 {
		at = len(list)
	}
	s.setClaims(key, slices.Insert(list, at, c))
	return true
}

// wait keeps a filter of a port until the port is in its VLAN. The caller holds mu.
func (s *Switch) wait(c claim) {
	if c.kind != filter || s.ports.Load().find(c.port) == nil || c.mac[0]&1 != 0 || c.mac == [6]byte{} {
		return
	}
	s.waiting = append(slices.DeleteFunc(s.waiting, c.same), c)
}

func (s *Switch) unclaim(vlan uint16, mac [6]byte, id PortID, k kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = slices.DeleteFunc(s.waiting, claim{port: id, kind: k, vlan: vlan, mac: mac}.same)
	key, _ := s.steeringKey(id, vlan, mac)
	if list, ok := s.claims[key]; ok {
		s.setClaims(key, slices.DeleteFunc(list, claim{port: id, kind: k}.replaces))
	}
}

// dropClaims removes all claims of a port. The caller holds mu.
func (s *Switch) dropClaims(id PortID) {
	s.waiting = slices.DeleteFunc(s.waiting, func(c claim) bool { return c.port == id })
	for key, list := range s.claims {
		if slices.ContainsFunc(list, func(c claim) bool { return c.port == id }) {
			s.setClaims(key, slices.DeleteFunc(list, func(c claim) bool { return c.port == id }))
		}
	}
}

// setClaims makes list the claims of key and its first the entry. The caller
// holds mu.
func (s *Switch) setClaims(key uint64, list []claim) {
	if len(list) == 0 {
		delete(s.claims, key)
		s.table.remove(key)
		return
	}
	s.claims[key] = list
	s.table.install(key, makeEntry(list[0].kind, tag(list[0].port), uint32(list[0].queue)))
}

// before reports whether c, which is new, counts before o: a filter before what
// is static, of filters the lower order, else the new one; of static ones the
// old one.
func (c claim) before(o claim) bool {
	if c.kind != o.kind {
		return c.kind > o.kind
	}
	return c.kind == filter && c.order <= o.order
}

// same reports whether both are the same wish of the same port.
func (c claim) same(o claim) bool { return c.replaces(o) && c.vlan == o.vlan && c.mac == o.mac }

// replaces reports whether c takes the place of o: both are the same kind of
// the same port.
func (c claim) replaces(o claim) bool { return c.port == o.port && c.kind == o.kind }
