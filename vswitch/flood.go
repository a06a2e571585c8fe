package vswitch

import (
	"vhostnet/metrics"
	"vhostnet/nbl"
)

// Flooded frames go to every port but their sender's, each port in one call
// for the whole batch: to one other port that is what unicast costs. They
// never wait, so that a slow port cannot hold up what others are waiting for.
// A port may refuse because another worker is just filling its ring; that is
// why those that accepted too little are asked a second time, after the
// unicast frames. What they do not take then is lost to them.

// late is a port that accepted only the first taken of the floods.
type late struct {
	port  *port
	taken int
}

// addFlood puts l among the floods, or drops it: there is no other port, or
// the sender's budget is spent.
func (b *batch) addFlood(l *nbl.List) {
	others := len(b.ports.all) - 1
	if !b.ports.simple {
		others = b.others(l.VLAN)
	}
	if others == 0 {
		b.drop(l, metrics.ReasonNoPort)
		return
	}
	cost := uint64(l.Length) * uint64(others)
	if len(b.floods) == b.from.stormFrames || b.floodBytes+cost > b.from.stormBytes {
		b.drop(l, metrics.ReasonStorm)
		return
	}
	b.floodBytes += cost
	b.floods = append(b.floods, l)
}

// flood delivers the floods to every other port.
func (b *batch) flood() {
	if len(b.floods) == 0 {
		return
	}
	if b.from.vlans != nil {
		b.floodVLANs()
		return
	}
	b.floodTo(b.floods)
}

// others is to how many ports a flood in vlan goes.
func (b *batch) others(vlan uint16) (n int) {
	if b.reachVLAN == vlan && b.reachRound == b.round {
		return b.reach
	}
	for _, p := range b.ports.all {
		if p != b.from && !b.apart(p, vlan) {
			n++
		}
	}
	b.reach, b.reachVLAN, b.reachRound = n, vlan, b.round
	return n
}

// floodAll is floodTo in a switch that knows no VLANs and no policy.
func (b *batch) floodAll(floods []*nbl.List) {
	for _, p := range b.ports.all {
		if p == b.from {
			continue
		}
		n, _ := p.deliver(b.c, floods)
		b.floodTaken = max(b.floodTaken, n)
		if n < len(floods) {
			b.late = append(b.late, late{p, n})
		}
	}
}

// floodTo delivers floods, which are of one VLAN, to the ports that they are for.
func (b *batch) floodTo(floods []*nbl.List) {
	if b.ports.simple {
		b.floodAll(floods)
		return
	}
	vlan := floods[0].VLAN
	for _, p := range b.ports.all {
		if p == b.from || (!p.plain || !b.from.plain) && b.apart(p, vlan) {
			continue
		}
		n, _ := b.offer(p, floods)
		b.floodTaken = max(b.floodTaken, n)
		if n < len(floods) {
			b.late = append(b.late, late{p, n})
		}
	}
}

// floodAgain asks once more the ports that accepted too little and decides the
// floods. A frame that somebody accepted is Done; each copy that is lost is
// counted.
func (b *batch) floodAgain() {
	if b.from.vlans == nil {
		b.floodLate(b.floods)
	}
}

// floodLate is floodAgain for some of the floods.
func (b *batch) floodLate(floods []*nbl.List) {
	lost := 0
	for _, l := range b.late {
		if !l.port.stalled.Load() {
			n, _ := b.offer(l.port, floods[l.taken:])
			l.taken += n
		}
		b.floodTaken = max(b.floodTaken, l.taken)
		lost += len(floods) - l.taken
	}
	if lost > 0 {
		b.from.counters.Drops.Add(metrics.ReasonBusyFlood, uint64(lost))
	}
	done(floods[:b.floodTaken])
	for _, l := range floods[b.floodTaken:] {
		l.Drop(metrics.ReasonBusyFlood)
	}
}
