package ndp

import (
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// table is which MAC has which address. Each guest has a share: the addresses
// that it claimed, oldest first.
type table struct {
	perGuest, most int
	byAddress      map[netip.Addr]neighbour
	byGuest        map[string][]netip.Addr
}

type neighbour struct {
	mac   [6]byte
	guest string
}

func newTable(perGuest, most int) table {
	return table{perGuest: perGuest, most: most, byAddress: map[netip.Addr]neighbour{}, byGuest: map[string][]netip.Addr{}}
}

// put remembers n at a. It reports how many of the guest's own addresses made
// room, and whether there was any.
func (t *table) put(a netip.Addr, n neighbour) (forgotten int, ok bool) {
	old, known := t.byAddress[a]
	if known && old.guest == n.guest {
		t.byAddress[a] = n
		return 0, true
	}
	if known {
		t.drop(a, old.guest)
	}
	if own := t.byGuest[n.guest]; len(own) >= t.perGuest {
		t.drop(own[0], n.guest)
		forgotten = 1
	}
	if len(t.byAddress) >= t.most {
		return forgotten, false
	}
	t.byAddress[a] = n
	t.byGuest[n.guest] = append(t.byGuest[n.guest], a)
	return forgotten, true
}

func (t *table) drop(a netip.Addr, guest string) {
	delete(t.byAddress, a)
	own := t.byGuest[guest]
	if i := slices.Index(own, a); i >= 0 {
		own = slices.Delete(own, i, i+1)
	}
	if len(own) == 0 {
		delete(t.byGuest, guest)
		return
	}
	t.byGuest[guest] = own
}

// learn remembers that guest has address a at mac, unless it cannot be.
func (g *Gateway) learn(guest string, a netip.Addr, mac [6]byte) {
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return
	}
	if g.owns(a) {
		g.Counters.Forged.Add(1)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cfg.Holder != nil {
		if holder, ok := g.cfg.Holder(a); ok && holder != mac {
			g.Counters.Forged.Add(1)
			return
		}
	}
	forgotten, ok := g.table.put(a, neighbour{mac: mac, guest: guest})
	g.Counters.ManyClaimed.Add(uint64(forgotten))
	if !ok {
		g.Counters.TableFull.Add(1)
	}
}

// Lookup is the MAC at which a was last seen. Not seen is no error: Ask makes
// the frame that finds out.
func (g *Gateway) Lookup(a netip.Addr) (mac [6]byte, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, ok := g.table.byAddress[a]
	return n.mac, ok
}

// Forget forgets all addresses of a guest, who has left.
func (g *Gateway) Forget(guest string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, a := range g.table.byGuest[guest] {
		delete(g.table.byAddress, a)
	}
	delete(g.table.byGuest, guest)
}

// Ask appends the frame, to everybody, that asks who has a. Without an address
// of the gateway of a's kind nothing is appended.
func (g *Gateway) Ask(a netip.Addr, dst []byte) []byte {
	if a.Is4() {
		for _, own := range g.cfg.Addresses {
			if own.Is4() {
				return g.arp(dst, header.ARPRequest, header.EthernetBroadcastAddress, own, "", a)
			}
		}
		return dst
	}
	if !g.linkLocal.IsValid() || !a.Is6() || a.IsMulticast() {
		return dst
	}
	// The solicited-node group (RFC 4291, 2.7.1) and its MAC (RFC 2464, 7).
	t := a.As16()
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]})
	return g.neighbour(dst, header.ICMPv6NeighborSolicit, [6]byte{0x33, 0x33, 0xff, t[13], t[14], t[15]}, g.linkLocal, group, a)
}
