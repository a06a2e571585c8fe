package usernet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"vhostnet/uplink/usernet/internal/ndp"
	"vhostnet/worker"
)

// sum is the checksum of b as a message carries it.
func sum(b []byte) uint16 { return ^checksum.Checksum(b, 0) }

// handleNeighbour answers ARP and neighbour discovery, and learns who has which
// address. It reports whether that is what the packet is.
func (n *Network) handleNeighbour(p *packet) bool {
	out := newPacket(packetSize)
	out.guest = p.guest
	reply, mine := n.services.ndp.Answer(p.guest.name, p.frame, out.frame[:0])
	if mine {
		if a := speaker(p.frame); a.IsValid() && !a.IsUnspecified() {
			n.learn(a, p.mac(), p.guest, worker.Now())
		}
	}
	n.sayOrFree(out, reply)
	return mine
}

// speaker is who says something about itself in an ARP or a neighbour discovery
// packet.
func speaker(frame []byte) netip.Addr {
	b := frame[ethernetLen:]
	switch etherType := binary.BigEndian.Uint16(frame[12:]); {
	case etherType == etherARP && len(b) >= arpLen:
		return netip.AddrFrom4([4]byte(b[14:18]))
	case etherType == etherIPv6 && len(b) >= ipv6Len:
		return netip.AddrFrom16([16]byte(b[8:24]))
	}
	return netip.Addr{}
}

// sayOrFree sends the frame that was put into p, if one was.
func (n *Network) sayOrFree(p *packet, frame []byte) {
	if len(frame) == 0 {
		p.free()
		return
	}
	p.frame = frame
	n.out.putOwn(p)
}

// newGateway is what speaks ARP and neighbour discovery for the gateway, and
// advertises it as the router.
func (n *Network) newGateway(domain string) (*ndp.Gateway, error) {
	return ndp.New(ndp.Config{
		MAC:       n.o.MAC,
		Addresses: []netip.Addr{n.o.IPv4.Addr(), n.linkLocal, n.o.IPv6.Addr()},
		Router: &ndp.Router{
			Prefix: n.o.IPv6.Masked(), Autonomous: true, Managed: true, Other: true, MTU: uint32(n.o.MTU),
			DNS: []netip.Addr{n.o.IPv6.Addr()}, Search: []string{domain},
		},
		Holder: func(a netip.Addr) (mac [6]byte, ok bool) {
			c, ok := n.services.dhcp.Holder(time.Now(), a)
			return c.MAC, ok
		},
		PerGuest: n.o.Limits.GuestAddresses, Neighbours: n.o.Limits.Addresses,
	})
}

// advertise says to all guests that there is a router, when that is due.
func (n *Network) advertise(now time.Time) {
	out := newPacket(packetSize)
	frame, _ := n.services.ndp.Advertise(now, out.frame[:0])
	n.sayOrFree(out, frame)
}

// askEvery is how often one address is asked for at most, ns; askedMost, how many
// are remembered.
const (
	askEvery  = 500e6
	askedMost = 4096
)

// asked is when which address was asked for.
type asked struct {
	mu sync.Mutex
	m  map[netip.Addr]int64
}

// may reports whether a may be asked for now.
func (q *asked) may(a netip.Addr, now int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	at, known := q.m[a]
	if known && now-at < askEvery || !known && len(q.m) >= askedMost {
		return false
	}
	q.m[a] = now
	return true
}

func (q *asked) sweep(now int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for a, at := range q.m {
		if now-at > askEvery {
			delete(q.m, a)
		}
	}
}

// ask asks the guests who has an address of their network.
func (n *Network) ask(a netip.Addr) {
	if !n.isLocal(a) || !n.asked.may(a, worker.Now()) {
		return
	}
	out := newPacket(packetSize)
	n.sayOrFree(out, n.services.ndp.Ask(a, out.frame[:0]))
}

// isLocal reports whether a is an address of the guests' network.
func (n *Network) isLocal(a netip.Addr) bool {
	return n.o.IPv4.Contains(a) || n.o.IPv6.Contains(a) || a.Is6() && a.IsLinkLocalUnicast()
}

// resolveWait is how long an answer is waited for.
const resolveWait = 3 * time.Second

var errNobody = errors.New("no guest has the address")

// resolve returns when it is known who has an address.
func (n *Network) resolve(ctx context.Context, a netip.Addr) error {
	ctx, cancel := context.WithTimeoutCause(ctx, resolveWait, errNobody)
	defer cancel()
	_, err := n.resolveOne(ctx, []netip.AddrPort{netip.AddrPortFrom(a, 0)})
	return err
}

// resolveOne returns when it is known who has one of some addresses, and answers
// the place of the first of which it is. All are asked for at once, until ctx ends.
func (n *Network) resolveOne(ctx context.Context, list []netip.AddrPort) (at int, err error) {
	again := time.NewTicker(askEvery)
	defer again.Stop()
	for {
		learned := n.stations.next()
		if at = slices.IndexFunc(list, func(a netip.AddrPort) bool { return n.stations.find(a.Addr()) != nil }); at >= 0 {
			return at, nil
		}
		for _, a := range list {
			n.ask(a.Addr())
		}
		select {
		case <-learned:
		case <-again.C:
		case <-ctx.Done():
			return -1, fmt.Errorf("%v: %w", list[0].Addr(), context.Cause(ctx))
		}
	}
}
