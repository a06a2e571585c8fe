package usernet

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"vhostnet/vswitch"
)

// guest is a port of the switch that sends to the Network: what limits and
// fairness go by. Addresses can be forged, the port cannot.
type guest struct {
	name string // of the port

	conns      atomic.Int32
	connecting atomic.Int32
	flows      atomic.Int32
	addresses  atomic.Int32
	coming     atomic.Int32 // packets to it that wait for the worker

	stayed  stayed       // VMs whose addresses it wanted
	seen    atomic.Int64 // ns, when it last sent
	waiting []*packet    // for the goroutine that looks at them; guarded by inbox

	pieces     []*pieces // packets of which not all fragments are there, oldest first; guarded by reassembly
	pieceBytes int       // of them; likewise
}

// take adds 1 to n unless it is at limit.
func take(n *atomic.Int32, limit int) bool {
	if n.Add(1) > int32(limit) {
		n.Add(-1)
		return false
	}
	return true
}

// stayedFor is for how long it is believed that a VM has not left its port, ns: a
// guest that borrows its address asks with each packet.
const stayedFor = 1e9

// maxStayed is how many such VMs a guest is remembered to have asked for.
const maxStayed = 64

// stayed is the VMs that have not left their ports for a guest's, as of late.
type stayed struct {
	mu sync.Mutex
	m  map[vmAt]int64 // ns, until when
}

// vmAt is a VM by its MAC, and the port at which it was.
type vmAt struct {
	mac  uint64
	port string
}

func (s *stayed) has(vm vmAt, now int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now < s.m[vm]
}

func (s *stayed) note(vm vmAt, now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m == nil || len(s.m) >= maxStayed {
		s.m = map[vmAt]int64{}
	}
	s.m[vm] = now + stayedFor
}

// guests are those that have sent lately.
type guests struct {
	mu sync.RWMutex
	m  map[vswitch.PortID]*guest
}

// of is the guest at port id.
func (s *guests) of(sw *vswitch.Switch, id vswitch.PortID, now int64) *guest {
	s.mu.RLock()
	g := s.m[id]
	s.mu.RUnlock()
	if g == nil {
		s.mu.Lock()
		if g = s.m[id]; g == nil {
			g = s.arrive(sw, id)
		}
		s.mu.Unlock()
	}
	g.seen.Store(now)
	return g
}

// arrive is the guest at a port that has not sent yet: the one that was at a
// port of its name, if that is detached, with all that it has. The caller holds
// mu.
func (s *guests) arrive(sw *vswitch.Switch, id vswitch.PortID) *guest {
	name := sw.PortName(id)
	if name == "" {
		return &guest{} // the port is detached, and there is nobody to remember
	}
	for old, g := range s.m {
		if g.name == name && sw.PortName(old) == "" {
			delete(s.m, old)
			s.m[id] = g
			return g
		}
	}
	g := &guest{name: name}
	s.m[id] = g
	return g
}

// named are the guests of a name, in lower case.
func (s *guests) named(name string) (list []*guest) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, g := range s.m {
		if strings.EqualFold(g.name, name) {
			list = append(list, g)
		}
	}
	return list
}

// sweep forgets guests that have nothing and were silent since before, and
// answers their names.
func (s *guests) sweep(before int64) (gone []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, g := range s.m {
		if g.seen.Load() < before && g.conns.Load()|g.connecting.Load()|g.flows.Load()|g.addresses.Load() == 0 {
			delete(s.m, id)
			gone = append(gone, g.name)
		}
	}
	return gone
}

// stationIdle is how long an address belongs to a guest that does not use it,
// ns.
const (
	stationIdle   = 300e9
	stationClaims = 30e9 // and after which another guest may take it
)

// station is who has an IP address.
type station struct {
	mac   uint64 // as nbl.List.Src
	guest *guest
	seen  atomic.Int64 // ns
}

// stations is who has which IP address, learned from what guests send. An
// address stays with the guest that used it first until that one is silent, so
// that no guest can take another's.
type stations struct {
	mu      sync.RWMutex
	m       map[netip.Addr]*station
	limit   int
	each    int
	mayHave func(a netip.Addr, mac uint64, g *guest, now int64) bool
	moved   func(mac uint64, from string, to *guest, now int64) bool
	learned chan struct{} // closed and made anew when one was learned

	conflicts, refused *counter
}

// find is the station of an address, nil when none is known.
func (s *stations) find(a netip.Addr) *station {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.m[a]
}

// learn notes that g uses the address from mac, and answers nil when it may
// not.
func (s *stations) learn(a netip.Addr, mac uint64, g *guest, now int64) *station {
	had := s.find(a)
	if had.is(mac, g) {
		had.seen.Store(now)
		return had
	}
	// What others answer is asked for without the lock, which every packet takes.
	if !s.mayHave(a, mac, g, now) || !s.mayTake(had, mac, g, now) {
		s.conflicts.Add(1)
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.m[a]
	switch {
	case old.is(mac, g):
		return old
	case old != nil && old != had: // somebody was faster
		s.conflicts.Add(1)
		return nil
	case old == nil && len(s.m) >= s.limit:
		s.refused.Add(1)
		return nil
	case old == nil || old.guest != g:
		if !take(&g.addresses, s.each) {
			s.refused.Add(1)
			return nil
		}
	}
	if old != nil && old.guest != g {
		old.guest.addresses.Add(-1)
	}
	st := &station{mac: mac, guest: g}
	st.seen.Store(now)
	s.m[a] = st
	close(s.learned)
	s.learned = make(chan struct{})
	return st
}

// is reports whether the station is g with a MAC; none is nobody.
func (st *station) is(mac uint64, g *guest) bool { return st != nil && st.guest == g && st.mac == mac }

// mayTake reports whether g may use an address that another guest has used: that
// one is silent, or it is the VM that has come to g's port.
func (s *stations) mayTake(st *station, mac uint64, g *guest, now int64) bool {
	return st == nil || st.guest == g || now-st.seen.Load() >= stationClaims || st.mac == mac && s.moved(mac, st.guest.name, g, now)
}

// next is closed when another station is learned.
func (s *stations) next() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.learned
}

// sweep forgets addresses that were not used since before.
func (s *stations) sweep(before int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a, st := range s.m {
		if st.seen.Load() < before {
			st.guest.addresses.Add(-1)
			delete(s.m, a)
		}
	}
}

// of is the addresses of a guest.
func (s *stations) of(g *guest) (list []netip.Addr) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for a, st := range s.m {
		if st.guest == g {
			list = append(list, a)
		}
	}
	return list
}

// count is how many addresses are known.
func (s *stations) count() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.m)
}
