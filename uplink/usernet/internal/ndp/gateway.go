package ndp

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"vhostnet/metrics"
)

// Counters count what a Gateway was asked. They may be read at any time.
type Counters struct {
	ARP         metrics.Counter // ARP requests answered
	Solicited   metrics.Counter // neighbour solicitations answered
	Routers     metrics.Counter // router solicitations answered
	Advertised  metrics.Counter // advertisements to everybody
	Malformed   metrics.Counter // frames of these protocols that break their rules
	Forged      metrics.Counter // claims of the gateway's own address, or of one that another was given
	ManyClaimed metrics.Counter // addresses forgotten because their guest had more than its share
	TableFull   metrics.Counter // addresses not remembered because all places are taken
}

// Gateway answers ARP and neighbour discovery. Its methods may be called
// concurrently.
type Gateway struct {
	cfg       Config
	link      tcpip.LinkAddress
	linkLocal netip.Addr // source of what is said; invalid without IPv6
	advert    []byte     // the advertisement to everybody, a whole frame
	farewell  []byte     // the one that takes it back

	// Counters count. They are the Gateway's to add to.
	Counters Counters

	mu    sync.Mutex
	table table     // guarded by mu
	next  time.Time // guarded by mu: when the next advertisement is due; zero: before the first
	sent  int       // guarded by mu: how many were
}

// New makes a Gateway. It starts nothing.
func New(cfg Config) (*Gateway, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.PerGuest == 0 {
		cfg.PerGuest = defaultPerGuest
	}
	if cfg.Neighbours == 0 {
		cfg.Neighbours = defaultNeighbours
	}
	cfg.Addresses = slices.Clone(cfg.Addresses)
	g := &Gateway{cfg: cfg, link: tcpip.LinkAddress(cfg.MAC[:])}
	g.table = newTable(cfg.PerGuest, cfg.Neighbours)
	for _, a := range cfg.Addresses {
		if a.Is6() && a.IsLinkLocalUnicast() {
			g.linkLocal = a
			break
		}
	}
	if cfg.Router != nil {
		r := *cfg.Router
		if r.Interval == 0 {
			r.Interval = defaultInterval
		}
		g.cfg.Router = &r
		g.advert = g.advertisement(r, 3*r.Interval)
		g.farewell = g.advertisement(r, 0)
	}
	return g, nil
}

func (g *Gateway) owns(a netip.Addr) bool { return slices.Contains(g.cfg.Addresses, a) }

// Answer looks at a whole Ethernet frame without VLAN tag that guest sent, a
// name for whoever may have a share of the table. mine says that the frame is
// one of these protocols, and nobody else need look at it; the frame to send
// back to the same guest, if any, is appended to dst. frame is not kept.
func (g *Gateway) Answer(guest string, frame, dst []byte) (reply []byte, mine bool) {
	if len(frame) < header.EthernetMinimumSize {
		return dst, false
	}
	eth := header.Ethernet(frame)
	switch body := frame[header.EthernetMinimumSize:]; eth.Type() {
	case header.ARPProtocolNumber:
		return g.answerARP(guest, frame, dst), true
	case header.IPv6ProtocolNumber:
		if len(body) < header.IPv6MinimumSize+header.ICMPv6HeaderSize || header.IPv6(body).NextHeader() != uint8(header.ICMPv6ProtocolNumber) {
			return dst, false
		}
		return g.answerICMP(guest, frame, dst)
	default:
		return dst, false
	}
}

// Next is when Advertise has something to say; the zero time: never, or at
// once if nothing was said yet.
func (g *Gateway) Next() (at time.Time, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.next, g.advert != nil
}

// The first advertisements follow each other faster (RFC 4861, 6.2.4).
const (
	initialAdverts  = 3
	initialInterval = 16 * time.Second
)

// Advertise appends the frame that is due for everybody at now, if one is.
func (g *Gateway) Advertise(now time.Time, dst []byte) (frame []byte, due bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.advert == nil || now.Before(g.next) {
		return dst, false
	}
	most := g.cfg.Router.Interval
	least := max(most/3, minInterval*3/4)
	wait := least + rand.N(most-least+1)
	if g.sent++; g.sent < initialAdverts {
		wait = min(wait, initialInterval)
	}
	g.next = now.Add(wait)
	g.Counters.Advertised.Add(1)
	return append(dst, g.advert...), true
}

// Farewell appends the frame by which everybody forgets this router, if it
// advertised itself.
func (g *Gateway) Farewell(dst []byte) []byte { return append(dst, g.farewell...) }
