package usernet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"vhostnet/worker"
)

// sum is the checksum of b as a message carries it.
func sum(b []byte) uint16 { return ^checksum.Checksum(b, 0) }

const (
	broadcastMAC = 1<<48 - 1
	arpRequest   = 1
	arpReply     = 2
)

// handleARP answers who has the gateway's IPv4 address, and learns who has which
// (RFC 826).
func (n *Network) handleARP(p *packet) {
	b := p.frame[ethernetLen:]
	if len(b) < arpLen || binary.BigEndian.Uint64(b)>>16 != 0x0001_0800_0604 {
		n.counters.malformed.Add(1)
		return
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	if !sender.IsUnspecified() && !n.learn(sender, p.mac(), p.guest, worker.Now()) {
		return
	}
	if binary.BigEndian.Uint16(b[6:]) != arpRequest || target != n.o.IPv4.Addr() {
		return
	}
	out := n.arp(p.mac(), arpReply)
	copy(out.frame[ethernetLen+18:], b[8:18])
	n.out.putOwn(out)
}

// arp is an ARP packet of the gateway's; whom it is about is left zero.
func (n *Network) arp(to uint64, operation uint16) *packet {
	p := newPacket(ethernetLen + arpLen)
	n.putEthernet(p.frame, to, etherARP)
	b := p.frame[ethernetLen:]
	clear(b)
	binary.BigEndian.PutUint64(b, 0x0001_0800_0604_0000|uint64(operation))
	copy(b[8:], n.o.MAC[:])
	a := n.o.IPv4.Addr().As4()
	copy(b[14:], a[:])
	return p
}

// Lengths and flags of neighbour discovery (RFC 4861, sections 4.3, 4.4).
const (
	solicitLen = 24
	linkOption = 8
	advertises = 0xe0000000 // a router, asked, overriding
)

var allNodes = netip.MustParseAddr("ff02::1")

// advertise answers who has one of the gateway's IPv6 addresses.
func (n *Network) advertise(p *packet, h ip) {
	b := h.payload
	if len(b) < solicitLen || h.packet[7] != 255 {
		n.counters.malformed.Add(1)
		return
	}
	target := netip.AddrFrom16([16]byte(b[8:24]))
	if !n.isGateway(target) {
		return // others', or whether an address is free
	}
	to, flags := h.src, uint32(advertises)
	if to.IsUnspecified() {
		to, flags = allNodes, flags&^0x40000000
	}
	out, m := n.newIP(p.mac(), target, to, protoICMPv6, solicitLen+linkOption)
	out.frame[ethernetLen+7] = 255
	clear(m)
	m[0] = icmp6Advertise
	binary.BigEndian.PutUint32(m[4:], flags)
	copy(m[8:], b[8:24])
	m[24], m[25] = 2, 1
	copy(m[26:], n.o.MAC[:])
	putICMPSum(m, target, to)
	n.sendWhole(out)
}

// solicit asks who has an IPv6 address.
func (n *Network) solicit(a netip.Addr) {
	b := a.As16()
	to := netip.AddrFrom16([16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
	mac := uint64(0x3333ff)<<24 | uint64(b[13])<<16 | uint64(b[14])<<8 | uint64(b[15])
	src := n.o.IPv6.Addr()
	if a.IsLinkLocalUnicast() {
		src = n.linkLocal
	}
	out, m := n.newIP(mac, src, to, protoICMPv6, solicitLen+linkOption)
	out.frame[ethernetLen+7] = 255
	clear(m)
	m[0] = icmp6Solicit
	copy(m[8:], b[:])
	m[24], m[25] = 1, 1
	copy(m[26:], n.o.MAC[:])
	putICMPSum(m, src, to)
	n.sendWhole(out)
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
	switch {
	case n.o.IPv4.Contains(a):
		if n.asked.may(a, worker.Now()) {
			out := n.arp(broadcastMAC, arpRequest)
			b := a.As4()
			copy(out.frame[ethernetLen+24:], b[:])
			n.out.putOwn(out)
		}
	case n.o.IPv6.Contains(a), a.Is6() && a.IsLinkLocalUnicast():
		if n.asked.may(a, worker.Now()) {
			n.solicit(a)
		}
	}
}

// resolveWait is how long an answer is waited for.
const resolveWait = 3 * time.Second

var errNobody = errors.New("no guest has the address")

// resolve returns when it is known who has an address.
func (n *Network) resolve(ctx context.Context, a netip.Addr) error {
	ctx, cancel := context.WithTimeoutCause(ctx, resolveWait, errNobody)
	defer cancel()
	again := time.NewTicker(askEvery)
	defer again.Stop()
	for {
		learned := n.stations.next()
		if n.stations.find(a) != nil {
			return nil
		}
		n.ask(a)
		select {
		case <-learned:
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("%v: %w", a, context.Cause(ctx))
		}
	}
}
