package dhcp

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"vhostnet/uplink/usernet/internal/limit"
)

// lease binds an address to a client.
type lease struct {
	client  Client
	address netip.Addr
	state   state
	until   time.Time // from then on the address may be given to another
}

type state uint8

const (
	offered  state = iota // not yet taken
	bound                 // taken
	declined              // the client found another using it: nobody gets it for a while
)

// outcome is what became of the wish for an address.
type outcome uint8

const (
	given     outcome = iota
	refused           // the address is another's
	full              // all addresses are taken
	overShare         // the client's guest has as many as it may
)

// pool is the addresses of one kind and their leases. Every lease is in
// byAddress and byGuest; those that are not declined in byClient too.
type pool struct {
	first, last netip.Addr
	size        int // addresses from first to last
	perGuest    int
	reserved    map[netip.Addr]Reservation
	wanted      func(Client) netip.Addr // the reservation of a client
	moved       func(c Client, to string) bool
	taken       func(a netip.Addr, c Client) bool

	byAddress map[netip.Addr]*lease
	byClient  map[Client]*lease
	byGuest   map[string][]*lease
	inside    int // how many leases are of addresses from first to last

	// What the log was told: that no address is left, and that a guest asks for
	// more than its share.
	fullEdge   limit.Edge
	shareEdges map[string]*limit.Edge // by guest; "" is all that found no place
}

func newPool(cfg Config, first, last netip.Addr, of func(Reservation) netip.Addr) *pool {
	p := &pool{
		first: first, last: last, size: size(first, last),
		perGuest: cfg.PerGuest, moved: cfg.Moved, taken: cfg.Taken,
		reserved:  map[netip.Addr]Reservation{},
		byAddress: map[netip.Addr]*lease{}, byClient: map[Client]*lease{}, byGuest: map[string][]*lease{},
		shareEdges: map[string]*limit.Edge{},
	}
	for _, r := range cfg.Reservations {
		if a := of(r); a.IsValid() {
			p.reserved[a] = r
		}
	}
	p.wanted = func(c Client) netip.Addr {
		for _, r := range cfg.Reservations {
			if a := of(r); a.IsValid() && r.Matches(c) {
				return a
			}
		}
		return netip.Addr{}
	}
	return p
}

// number is the low 64 bits of an address.
func number(a netip.Addr) uint64 {
	b := a.As16()
	return binary.BigEndian.Uint64(b[8:])
}

// size is how many addresses there are from first to last, a great number for
// more than 2^64.
func size(first, last netip.Addr) int {
	a, b := first.As16(), last.As16()
	n := number(last) - number(first)
	if [8]byte(a[:8]) != [8]byte(b[:8]) || n >= 1<<30 {
		return 1 << 30
	}
	return int(n) + 1
}

// at is the address i after first.
func (p *pool) at(i int) netip.Addr {
	b := p.first.As16()
	binary.BigEndian.PutUint64(b[8:], number(p.first)+uint64(i))
	a := netip.AddrFrom16(b)
	if p.first.Is4() {
		return a.Unmap()
	}
	return a
}

func (p *pool) contains(a netip.Addr) bool {
	return a.IsValid() && a.Is4() == p.first.Is4() && !a.Less(p.first) && !p.last.Less(a)
}

// free reports whether c may be given a at now: it is the pool's, nobody else's
// by reservation, and no lease of another that still lasts.
func (p *pool) free(now time.Time, c Client, a netip.Addr) bool {
	if r, ok := p.reserved[a]; ok {
		if !r.Matches(c) {
			return false
		}
	} else if !p.contains(a) {
		return false
	}
	l := p.byAddress[a]
	if (l == nil || l.client != c) && p.taken != nil && p.taken(a, c) {
		return false
	}
	return l == nil || l.state != declined && (l.client == c || p.follows(l, c)) || !now.Before(l.until)
}

// follows reports whether a lease goes with its MAC to c's port.
func (p *pool) follows(l *lease, c Client) bool {
	return l.client.MAC == c.MAC && p.moved != nil && p.moved(l.client, c.Port)
}

// left is the newest lease of c's MAC at a port that it has left.
func (p *pool) left(c Client) (newest *lease) {
	for _, l := range p.byAddress {
		if l.client.MAC == c.MAC && (newest == nil || newest.until.Before(l.until)) && p.follows(l, c) {
			newest = l
		}
	}
	return newest
}

// lease is c's lease, made if need be: the reserved address, else the one that
// it had, else the one that it asks for, else the one that it had at another port,
// else one that nobody had, else the one that has been free for longest.
func (p *pool) lease(now time.Time, c Client, asked netip.Addr) (*lease, outcome) {
	l := p.byClient[c]
	if a := p.wanted(c); a.IsValid() && (l == nil || l.address != a) && p.free(now, c, a) {
		if l != nil {
			p.remove(l)
		}
		return p.give(now, c, a)
	}
	if l != nil {
		return l, given
	}
	if p.free(now, c, asked) {
		return p.give(now, c, asked)
	}
	if l := p.left(c); l != nil && p.free(now, c, l.address) {
		return p.give(now, c, l.address)
	}
	if a := p.unused(c); a.IsValid() {
		return p.give(now, c, a)
	}
	if l := p.oldest(now, c); l != nil {
		return p.give(now, c, l.address)
	}
	return nil, full
}

// unused is an address that nobody has or had, the same for c each time while
// the pool is nearly empty.
func (p *pool) unused(c Client) netip.Addr {
	if p.inside >= p.size {
		return netip.Addr{}
	}
	start := int(hash(c) % uint64(p.size))
	for i := range p.size {
		a := p.at((start + i) % p.size)
		if _, reserved := p.reserved[a]; !reserved && p.byAddress[a] == nil && p.free(time.Time{}, c, a) {
			return a
		}
	}
	return netip.Addr{}
}

// oldest is the lease that ended first, of those whose address c may have.
func (p *pool) oldest(now time.Time, c Client) (oldest *lease) {
	for _, l := range p.byAddress {
		if (oldest == nil || l.until.Before(oldest.until)) && !now.Before(l.until) && p.free(now, c, l.address) {
			oldest = l
		}
	}
	return oldest
}

// claim is c's lease of an address that it says it has.
func (p *pool) claim(now time.Time, c Client, a netip.Addr) (*lease, outcome) {
	if l := p.byClient[c]; l != nil {
		if l.address == a {
			return l, given
		}
		return nil, refused
	}
	if own := p.wanted(c); own.IsValid() && own != a && p.free(now, c, own) || !p.free(now, c, a) {
		return nil, refused
	}
	return p.give(now, c, a)
}

// give makes a lease of a for c, unless its guest has its share.
func (p *pool) give(now time.Time, c Client, a netip.Addr) (*lease, outcome) {
	old := p.byAddress[a]
	if own := p.byGuest[c.guest()]; len(own) >= p.perGuest && !slices.Contains(own, old) {
		oldest := slices.MinFunc(own, func(a, b *lease) int { return a.until.Compare(b.until) })
		if now.Before(oldest.until) {
			return nil, overShare
		}
		p.remove(oldest)
	}
	if old != nil {
		p.remove(old)
	}
	l := &lease{client: c, address: a, until: now}
	p.add(l)
	return l, given
}

// hash spreads clients over the pool, the same way in each process.
func hash(c Client) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(c.MAC[:])
	_, _ = h.Write([]byte(c.Port))
	return h.Sum64()
}

func (p *pool) add(l *lease) {
	guest := l.client.guest()
	p.byAddress[l.address] = l
	p.byClient[l.client] = l
	p.byGuest[guest] = append(p.byGuest[guest], l)
	if p.contains(l.address) {
		p.inside++
	}
}

func (p *pool) remove(l *lease) {
	guest := l.client.guest()
	delete(p.byAddress, l.address)
	if p.byClient[l.client] == l {
		delete(p.byClient, l.client)
	}
	own := p.byGuest[guest]
	i := slices.Index(own, l)
	if p.byGuest[guest] = slices.Delete(own, i, i+1); len(own) == 1 {
		delete(p.byGuest, guest)
	}
	if p.contains(l.address) {
		p.inside--
	}
}

// decline keeps an address from everybody until a time. It stays a part of the
// share of the guest that declined it.
func (p *pool) decline(l *lease, until time.Time) {
	delete(p.byClient, l.client)
	l.state, l.until = declined, until
}

// shareEdge is what the log was told of c's guest.
func (p *pool) shareEdge(c Client) *limit.Edge {
	guest := c.guest()
	if p.shareEdges[guest] == nil && len(p.shareEdges) >= countedGuests {
		guest = ""
	}
	if p.shareEdges[guest] == nil {
		p.shareEdges[guest] = new(limit.Edge)
	}
	return p.shareEdges[guest]
}
