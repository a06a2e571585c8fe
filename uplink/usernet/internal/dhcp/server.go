package dhcp

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/metrics"
	"vhostnet/uplink/usernet/internal/limit"
)

// Counters count what a Server was asked. They may be read at any time.
type Counters struct {
	Offers    metrics.Counter // addresses offered
	Acks      metrics.Counter // addresses given, or given again
	Naks      metrics.Counter // requests for an address that the client cannot have
	Informs   metrics.Counter // requests for everything but an address, answered
	Releases  metrics.Counter // addresses given back
	Declines  metrics.Counter // addresses found in use by their client
	Full      metrics.Counter // messages without an answer because the pool is full
	OverShare metrics.Counter // messages without an answer because the guest has its share of addresses
	TooOften  metrics.Counter // messages of guests that sent too many, not looked at
	Relayed   metrics.Counter // messages of relays, which are refused
	Foreign   metrics.Counter // messages for another server, or about a MAC that did not send them
	Malformed metrics.Counter // messages that break the rules
	SaveFails metrics.Counter // times the lease file could not be written
}

// Reply is a message to send back, to the MAC of the client that asked.
type Reply struct {
	Payload []byte
	To      netip.AddrPort // UDP destination; 255.255.255.255 for clients without an address
}

// Messages of one guest: more in a second than any client sends, and once after
// a rest.
const (
	messagesPerSecond = 20
	messagesAtOnce    = 50
	countedGuests     = 4096
)

const (
	offerTime   = time.Minute      // an address is kept for who was offered it
	declineTime = 10 * time.Minute // one that somebody else uses is not given
)

// Server answers DHCPv4 and DHCPv6. Its methods may be called concurrently.
type Server struct {
	cfg  Config
	log  hclog.Logger
	rate *limit.Rate[string]
	duid []byte

	// Counters count. They are the Server's to add to.
	Counters Counters

	mu     sync.Mutex
	v4, v6 *pool // guarded by mu; nil: not answered

	saveEdge limit.Edge    // Run's
	dirty    chan struct{} // something is to be saved; it holds one
}

// New makes a Server, with the leases of its file if it has one. It starts
// nothing; Run saves leases.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Lease == 0 {
		cfg.Lease = defaultLease
	}
	if cfg.PerGuest == 0 {
		cfg.PerGuest = defaultPerGuest
	}
	rate, err := limit.NewRate[string](messagesPerSecond, messagesAtOnce, countedGuests)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Log, rate: rate, dirty: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = hclog.NewNullLogger()
	}
	if c := cfg.IPv4; c != nil {
		s.v4 = newPool(cfg, c.First, c.Last, func(r Reservation) netip.Addr { return r.IPv4 })
	}
	if c := cfg.IPv6; c != nil {
		s.v6 = newPool(cfg, c.First, c.Last, func(r Reservation) netip.Addr { return r.IPv6 })
		s.duid = append([]byte{0, 3, 0, 1}, c.MAC[:]...) // DUID-LL, Ethernet (RFC 8415, 11.4)
	}
	if cfg.File != "" {
		s.load()
	}
	return s, nil
}

// hostname is what a client is called; empty: nothing.
func (s *Server) hostname(c Client) string {
	for _, r := range s.cfg.Reservations {
		if r.Hostname != "" && r.Matches(c) {
			return r.Hostname
		}
	}
	if isName(c.Port) && !strings.Contains(c.Port, ".") {
		return c.Port
	}
	return ""
}

// search are the domains in which clients look up short names.
func (s *Server) search() []string {
	if s.cfg.Domain == "" {
		return s.cfg.Search
	}
	return append([]string{s.cfg.Domain}, s.cfg.Search...)
}

// note counts and tells what became of a wish for an address. It reports
// whether there is a lease. The caller holds mu.
func (s *Server) note(now time.Time, c Client, p *pool, o outcome) bool {
	kind := "DHCPv4"
	if p == s.v6 {
		kind = "DHCPv6"
	}
	switch o {
	case given:
		if p.fullEdge.Set(now, false) {
			s.log.Info("addresses are free again", "for", kind)
		}
		if e := p.shareEdges[c.guest()]; e != nil {
			e.Set(now, false)
		}
		return true
	case full:
		s.Counters.Full.Add(1)
		if p.fullEdge.Set(now, true) {
			s.log.Warn("no address is left; give the network a greater range, or a shorter lease", "for", kind,
				"first", p.first, "last", p.last, "port", c.Port)
		}
	case overShare:
		s.Counters.OverShare.Add(1)
		if p.shareEdge(c).Set(now, true) {
			s.log.Warn("a guest asks for more addresses than one may have", "for", kind, "port", c.Port,
				"mac", net.HardwareAddr(c.MAC[:]), "most", p.perGuest)
		}
	case refused:
	}
	return false
}

// changed has the leases saved, by Run.
func (s *Server) changed() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// Lease is an address and who has it.
type Lease struct {
	Client
	Address netip.Addr
	Until   time.Time
}

// Leases are all that last at now, in no order.
func (s *Server) Leases(now time.Time) (all []Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.each(func(l *lease) {
		if l.state == bound && now.Before(l.until) {
			all = append(all, Lease{Client: l.client, Address: l.address, Until: l.until})
		}
	})
	return all
}

func (s *Server) each(f func(*lease)) {
	for _, p := range []*pool{s.v4, s.v6} {
		if p != nil {
			for _, l := range p.byAddress {
				f(l)
			}
		}
	}
}

// Addresses are those that clients at a port of the switch have at now.
func (s *Server) Addresses(now time.Time, port string) (all []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range []*pool{s.v4, s.v6} {
		if p == nil {
			continue
		}
		for _, l := range p.byGuest[port] {
			if l.state == bound && now.Before(l.until) {
				all = append(all, l.address)
			}
		}
	}
	return all
}

// Holder is the client that has an address at now.
func (s *Server) Holder(now time.Time, a netip.Addr) (c Client, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.v4
	if a.Is6() {
		p = s.v6
	}
	if p == nil {
		return c, false
	}
	l := p.byAddress[a]
	if l == nil || l.state != bound || !now.Before(l.until) {
		return c, false
	}
	return l.client, true
}

// Reserved is the reservation of an address. It may be called by any goroutine, and
// takes no lock.
func (s *Server) Reserved(a netip.Addr) (r Reservation, ok bool) {
	p := s.v4
	if a.Is6() {
		p = s.v6
	}
	if p == nil {
		return r, false
	}
	r, ok = p.reserved[a] // as it was made
	return r, ok
}
