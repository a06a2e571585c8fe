package vswitch

import (
	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/worker"
)

// batch is a worker's scratch memory for Forward: arrays that would cost more
// to clear on the stack than the frames cost to switch, and the forwarding
// cache. It is used by one Forward at a time and remembers nothing from one to
// the next but the room that it has.
type batch struct {
	c        *worker.Context
	table    *table
	ports    *portSet
	from     *port
	learnTag tag    // of from, for what it teaches
	now      int64  // ns
	tick     uint32 // of the table's clock

	round uint64          // number of this Forward; what a hint of another round says is void
	hints [hintSlots]hint // the forwarding cache

	dests  []int32     // per List of the batch: a group, or nowhere
	groups []group     // the ports that unicast frames of the batch go to
	order  []*nbl.List // the Lists by group, so many of them as ordered says
	floods []*nbl.List // the Lists for every other port
	late   []late      // ports that did not accept all of floods

	view     []*nbl.List // of retag
	retagged []nbl.List  // of retag: what view points to
	sameVLAN []*nbl.List // floods of one VLAN, or what is mirrored

	reach      int    // of others: to how many ports floods go
	reachVLAN  uint16 // in this VLAN
	reachRound uint64 // of this round

	ordered    int
	floodBytes uint64 // that the copies of floods cost
	floodTaken int    // how many of floods at least one port accepted
	lastSource uint64 // key of the source looked at last
	lastLesson lesson // what came of it
	sent       tally
}

// batches is where each worker keeps its batch.
var batches = worker.NewSlot(func() *batch { return new(batch) })

const (
	hintSlots = 16 // power of two
	hintShift = 64 - 4

	nowhere   = -1 // decided: dropped, or among floods
	everyone  = -2 // of a hint: the address is not known
	itself    = -3 // of a hint: the address is the sender's
	protected = -4 // of a hint: sender and receiver are to be kept apart
)

// hint is what a lookup of this batch said about a destination.
type hint struct {
	key   uint64
	round uint64
	dest  int32 // a group, everyone, itself or protected
	queue sharedmem.QueueID
}

// group is the frames of a batch that go to one port: those of order from end-n
// to end, once order is filled.
type group struct {
	port   *port
	n, end int
}

// tally is what the sender's counters get at the end of a Forward.
type tally struct{ frames, bytes, moved, foreign, full uint64 }

// begin makes b ready for n frames of from, or answers false when there is no
// such port.
func (b *batch) begin(c *worker.Context, s *Switch, from PortID, n int) bool {
	ports := s.ports.Load()
	sender := ports.find(from)
	if sender == nil {
		return false
	}
	b.c, b.table, b.ports, b.from = c, &s.table, ports, sender
	b.learnTag = s.table.tagOf(tag(from).index())
	b.now = c.Now()
	b.tick = uint32(b.now / s.tick)
	b.round++
	if cap(b.dests) < n {
		b.dests = make([]int32, n)
		b.order = make([]*nbl.List, n)
		b.floods = make([]*nbl.List, 0, n)
		b.groups = make([]group, 0, n)
	}
	b.dests = b.dests[:n]
	b.groups, b.floods, b.late = b.groups[:0], b.floods[:0], b.late[:0]
	b.ordered, b.floodBytes, b.floodTaken = 0, 0, 0
	b.lastSource = 0
	b.sent = tally{}
	return true
}

// refuse drops a batch that comes from no port, so there is nobody to count
// it for.
func refuse(lists []*nbl.List) {
	for _, l := range lists {
		if !decided(l) {
			l.Drop(metrics.ReasonNoPort)
		}
	}
}

func decided(l *nbl.List) bool { return l.Status == nbl.Done || l.Status == nbl.Dropped }

// classify learns each frame's source and finds its destination: a group, the
// floods, or nowhere.
func (b *batch) classify(lists []*nbl.List) {
	for i, next := 0, 0; i < len(lists); i = next {
		l, dest := lists[i], int32(nowhere)
		if !decided(l) && b.admit(l) {
			dest = b.route(l)
		}
		next = i + 1
		if dest >= 0 {
			if l.Status == nbl.Pending && b.lastLesson == known {
				next += b.follow(lists[next:], l)
			}
			b.groups[dest].n += next - i
		}
		for j, dests := 0, b.dests[i:next]; j < len(dests); j++ {
			dests[j] = dest
		}
	}
}

// follow sends the frames at the head of lists the way of first, which they come
// behind, as long as they are new and have its addresses and VLAN: what was
// learned of the one holds for the others. It answers how many they are.
func (b *batch) follow(lists []*nbl.List, first *nbl.List) int {
	dst, src, vlan, queue := first.Dst, first.Src, first.VLAN, first.QueueID
	n, bytes := 0, uint64(0)
	for ; n < len(lists); n++ {
		l := lists[n]
		if l.Status != nbl.Pending || l.Dst != dst || l.Src != src || l.VLAN != vlan {
			break
		}
		l.QueueID = queue
		bytes += uint64(l.Length)
	}
	b.sent.frames += uint64(n)
	b.sent.bytes += bytes
	return n
}

// admit counts a new frame and learns its source. It answers false, having
// dropped l, when that is no station's address: zero, or a group. A bridge that
// forwarded those would spread forgeries that no station can have sent;
// Linux's drops them too.
func (b *batch) admit(l *nbl.List) bool {
	if l.Status == nbl.Busy {
		return true // counted and learned when it came; its source may have moved on
	}
	b.sent.frames++
	b.sent.bytes += uint64(l.Length)
	if l.Src == 0 || l.Src&groupBit != 0 {
		b.drop(l, metrics.ReasonHeader)
		return false
	}
	if key := frameKey(l.VLAN, l.Src); key != b.lastSource {
		b.lastSource = key
		b.lastLesson = b.learn(key)
	}
	switch b.lastLesson {
	case foreign:
		b.sent.foreign++
	case full:
		b.sent.full++
	default: // known now
	}
	return true
}

// permit decides on the VLANs of new frames, if their sender is in any, and
// drops and counts those that it must not send.
func (b *batch) permit(lists []*nbl.List) {
	for _, l := range lists {
		if l.Status != nbl.Pending {
			continue
		}
		switch v := b.from.vlans; {
		case b.from.sink:
			b.drop(l, metrics.ReasonSink)
		case v == nil:
			continue
		case !v.enter(l):
			b.drop(l, metrics.ReasonVLAN)
		case l.Offload.HdrLen > nbl.MaxTaggedHeaders:
			b.drop(l, metrics.ReasonHeader) // a tag might not fit in front
		default:
			continue
		}
		b.sent.frames++
		b.sent.bytes += uint64(l.Length)
	}
}

// learn learns key as a source of from, unless the table knows as much.
func (b *batch) learn(key uint64) lesson {
	e := b.table.lookup(key, b.tick)
	switch {
	case e.isFixed() && PortID(e.tag()) != b.from.id:
		return foreign
	case e.isFixed():
		return known
	case e.tag() == b.learnTag && int32(b.tick-e.low()) <= 0:
		return known // in this tick, or in a later one by a worker whose clock is ahead
	}
	outcome := b.table.learn(key, b.learnTag, b.tick)
	if outcome == moved {
		b.sent.moved++
	}
	return outcome
}

// route finds where l goes. Frames to nobody are dropped, frames to everybody
// are put among the floods; both are nowhere.
func (b *batch) route(l *nbl.List) int32 {
	l.QueueID = 0
	if l.Dst&groupBit != 0 {
		if l.Dst&^0xf == reserved && !b.from.transparent {
			b.drop(l, metrics.ReasonReserved)
			return nowhere
		}
		b.addFlood(l)
		return nowhere
	}
	key := frameKey(l.VLAN, l.Dst)
	h := &b.hints[key*0x9e3779b97f4a7c15>>hintShift]
	if h.key != key || h.round != b.round {
		b.lookup(h, key)
	}
	if h.dest < 0 {
		b.nowhere(l, h.dest)
		return nowhere
	}
	l.QueueID = h.queue
	return h.dest
}

// nowhere does with l what a hint without a group says.
func (b *batch) nowhere(l *nbl.List, why int32) {
	switch why {
	case everyone:
		b.addFlood(l)
	case itself:
		b.drop(l, metrics.ReasonHairpin)
	case protected:
		b.drop(l, metrics.ReasonProtected)
	}
}

// reserved is the first of the 16 group addresses that bridges keep between
// neighbours (IEEE 802.1Q, table 8-1).
const reserved = 0x0180c2000000

// lookup asks the table for key's port and leaves the answer in h.
func (b *batch) lookup(h *hint, key uint64) {
	*h = hint{key: key, round: b.round, dest: everyone}
	e := b.table.lookup(key, b.tick)
	if e == 0 {
		return
	}
	to := b.ports.byIndex[e.tag().index()]
	switch {
	case to == nil || e.isFixed() && to.id != PortID(e.tag()):
		// Its port is being detached, or was attached after ports was read.
	case to == b.from:
		h.dest = itself
	case !to.plain && !b.reaches(to, uint16(key>>macBits)):
		// Its filter of any VLAN is not meant for this one.
	case !b.from.plain && to.plain && !b.reaches(to, uint16(key>>macBits)):
		// Nor does what is in a VLAN reach a port that is in none.
	case to.protected && b.from.protected:
		h.dest = protected
	default:
		h.dest = b.groupOf(to)
		if e.kind() == filter {
			h.queue = sharedmem.QueueID(e.low())
		}
	}
}

// groupOf is the group of frames to p.
func (b *batch) groupOf(p *port) int32 {
	for i := range b.groups {
		if b.groups[i].port == p {
			return int32(i)
		}
	}
	b.groups = append(b.groups, group{port: p})
	return int32(len(b.groups) - 1)
}

// unicast delivers each group in one call.
func (b *batch) unicast(lists []*nbl.List) {
	if len(b.groups) == 1 && b.groups[0].n == len(lists) {
		b.hand(b.groups[0].port, lists)
		return
	}
	for i := range b.groups {
		b.groups[i].end = b.ordered
		b.ordered += b.groups[i].n
	}
	for i, dest := range b.dests {
		if dest >= 0 {
			g := &b.groups[dest]
			b.order[g.end] = lists[i]
			g.end++
		}
	}
	for i := range b.groups {
		g := &b.groups[i]
		b.hand(g.port, b.order[g.end-g.n:g.end])
	}
}

// hand delivers lists to p and settles what p did not accept.
func (b *batch) hand(p *port, lists []*nbl.List) {
	var n int
	var part bool
	if p.direct {
		n, part = p.deliver(b.c, lists)
	} else {
		n, part = b.offer(p, lists)
	}
	done(lists[:n])
	if n < len(lists) {
		b.hold(p, lists[n:], n > 0, part)
	}
}

// done marks lists as delivered.
func done(lists []*nbl.List) {
	for _, l := range lists {
		l.Status = nbl.Done
	}
}

// drop drops l for reason and counts it for its sender.
func (b *batch) drop(l *nbl.List, reason metrics.Reason) {
	l.Drop(reason)
	b.from.counters.Drops.Add(reason, 1)
}

// dropAll is drop for many.
func (b *batch) dropAll(lists []*nbl.List, reason metrics.Reason) {
	if len(lists) == 0 {
		return
	}
	for _, l := range lists {
		l.Drop(reason)
	}
	b.from.counters.Drops.Add(reason, uint64(len(lists)))
}

// end adds to the sender's counters what they have not got yet, and lets go of
// what belongs to others.
func (b *batch) end() {
	counters := b.from.counters
	if b.sent.frames != 0 {
		counters.TxFrames.Add(b.sent.frames)
		counters.TxBytes.Add(b.sent.bytes)
	}
	if n := len(b.floods); n != 0 {
		counters.Flooded.Add(uint64(n))
	}
	if b.sent.moved|b.sent.foreign|b.sent.full != 0 {
		counters.Moved.Add(b.sent.moved)
		counters.ForeignSource.Add(b.sent.foreign)
		counters.TableFull.Add(b.sent.full)
	}
	clear(b.order[:b.ordered])
	clear(b.floods)
	clear(b.groups)
	clear(b.late)
	b.c, b.table, b.ports, b.from = nil, nil, nil, nil
}
