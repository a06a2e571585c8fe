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
	for _, p := range b.ports.all {
		if p == b.from {
			continue
		}
		n, _ := p.deliver(b.c, b.floods)
		b.floodTaken = max(b.floodTaken, n)
		if n < len(b.floods) {
			b.late = append(b.late, late{p, n})
		}
	}
}

// floodAgain asks once more the ports that accepted too little and decides the
// floods. A frame that somebody accepted is Done; each copy that is lost is
// counted.
func (b *batch) floodAgain() {
	lost := 0
	for _, l := range b.late {
		if !l.port.stalled.Load() {
			n, _ := l.port.deliver(b.c, b.floods[l.taken:])
			l.taken += n
		}
		b.floodTaken = max(b.floodTaken, l.taken)
		lost += len(b.floods) - l.taken
	}
	if lost > 0 {
		b.from.counters.Drops.Add(metrics.ReasonBusyFlood, uint64(lost))
	}
	done(b.floods[:b.floodTaken])
	for _, l := range b.floods[b.floodTaken:] {
		l.Drop(metrics.ReasonBusyFlood)
	}
}
