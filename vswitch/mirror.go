package vswitch

import (
	"vhostnet/metrics"
	"vhostnet/nbl"
)

// A mirrored port's frames, those it sends and those it is given, are copied to
// another port, its sink. A sink gets nothing else, and what it sends is
// dropped: it watches. Copies never wait; one for which the sink has no room is
// lost and counted for the sink. They come as they are at the mirrored port,
// tags included.

// mirror copies lists to the sink of p.
func (b *batch) mirror(p *port, lists []*nbl.List) {
	sink := b.ports.find(p.mirror)
	if sink == nil || !sink.sink || len(lists) == 0 {
		return
	}
	n, _ := sink.deliver(b.c, lists)
	if n < len(lists) {
		more, _ := sink.deliver(b.c, lists[n:])
		n += more
	}
	sink.counters.Drops.Add(metrics.ReasonBusyFlood, uint64(len(lists)-n))
}

// mirrorSent copies what b's sender sends for the first time.
func (b *batch) mirrorSent(lists []*nbl.List) {
	b.sameVLAN = b.sameVLAN[:0]
	for _, l := range lists {
		if l.Status == nbl.Pending {
			b.sameVLAN = append(b.sameVLAN, l)
		}
	}
	b.mirror(b.from, b.sameVLAN)
	clear(b.sameVLAN)
}

// offer hands lists to p as p wants them, and to its sink what p accepts. For a
// port that is direct it is p.deliver, which callers that see that call
// themselves.
func (b *batch) offer(p *port, lists []*nbl.List) (accepted int, part bool) {
	if p.vlans != nil {
		lists = b.retag(p, lists)
	}
	accepted, part = p.deliver(b.c, lists)
	if p.mirror != 0 {
		b.mirror(p, lists[:accepted])
	}
	return accepted, part
}
