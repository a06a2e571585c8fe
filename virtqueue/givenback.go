package virtqueue

import "slices"

// Theory of operation.
//
// While nobody serves a ring its front-end may answer the driver's kick. QEMU
// does so for a transmit ring, as the link is down then: it gives back, unsent,
// every chain that is available. In a split ring that is no harm. It begins at
// the used.idx in memory and moves it, and the next device begins there.
//
// In a packed ring it begins at the position that it was told last, and a device
// that is killed tells it nothing: the position is that of the last clean stop,
// or of the ring's first start. Whatever slot there looks available is taken for
// the first one of a chain: one that waits, one amid such a chain, or one amid a
// chain that has long come back. Its id stays, its length becomes 0 and its flags
// those of a used slot without NEXT, and the position moves behind the last slot
// of the chain. QEMU is to go on there until nothing is available; a count that goes
// wrong in it can end that after the first one.
//
// A used slot between where the ring stands and where the driver stands stops the
// next device for ever, and one amid a chain cuts that short. Neither can be there
// otherwise: the driver has made every slot between the two available since it was
// used last. So the next device looks at its start whether there are any. Where
// they end is what the front-end says is the ring's base, as it stands there; that
// is more than the slots tell, which do not say how long a used chain is. All
// chains up to there are given back, also those before the first used slot: the
// driver takes chains back in the order of the ring, the front-end has dropped what
// was sent without a link, and what lies in the ring cannot be moved without a
// moment in which a kill would lose it.
//
// The position can be that of the first chain of a push that the device was killed
// in, too. Then the driver sees that one, which the front-end has used, and those
// behind it that the device had used, up to the first that is still available. What
// was to be pushed from there on lies in the ring as the driver made it, so that is
// where the next device goes on, and it serves those chains once more. Nothing is
// written for it. If none is available, that push was over, or is now.
//
// If the used slots begin where the ring stands, the driver sees them at once and
// may have made them available again, as those of its next lap. Then nothing is
// written, and the ring goes on behind them.

// behind is where p stands, whose device was killed when it pushed chains of so
// many slots from one position to another, and whose first one is not available
// any more: at the first of the others that is, or, if there is none, behind them.
// Of an inflight region, either of these two may say less than is true.
func (p *packed) behind(from, to uint32, chains []uint32) uint32 {
	pos := from
	for i, slots := range chains {
		if i > 0 && p.available(pos) {
			return pos
		}
		pos = p.add(pos, slots)
	}
	if p.sub(to, from) > p.sub(pos, from) {
		return to
	}
	return pos
}

// overtaken is the chains between where p stands, as recovered, and base, where
// the front-end stands, if it has given chains back there: they are for
// [Queue.giveBack]. It moves p behind them when the driver has seen that they are
// back. Each slot is read once, or, if it is that of both positions, once for each.
// Whatever is in them p stands at its place or at base afterwards.
func (p *packed) overtaken(base uint32) []taken {
	n := p.sub(base, p.nextUsed)
	if n == 0 || n > p.size {
		return nil // the front-end is behind
	}
	switch first := p.readSlot(p.nextUsed); {
	case first.is == slotLast || first.is == slotMore:
		return chainsOf(append([]seenSlot{first}, p.readSlots(p.add(p.nextUsed, 1), n-1)...))
	case n == p.size && first.is == slotOther && slices.ContainsFunc(p.readSlots(p.add(base, 1), n-1), seenSlot.used):
		return nil // of the lap before: nobody has used slots of the next one yet
	case first.is == slotUsed || p.available(base): // available to the next lap, perhaps, if not used in this
		p.nextAvail, p.nextUsed = base, base
	}
	return nil
}

// seenSlot is what a slot says at a position, read once.
type seenSlot struct {
	is slotState
	id uint16
}

type slotState uint8

const (
	slotOther slotState = iota // neither available nor used in this lap
	slotUsed
	slotMore // available, with NEXT
	slotLast // available, without
)

func (p *packed) readSlot(pos uint32) seenSlot {
	word := p.ring.LoadAcquire32(descSize*p.slot(pos) + packedIDFlags)
	s := seenSlot{id: uint16(word)}
	switch lap := word & wordAvailUsed; {
	case lap == p.usedAs(pos):
		s.is = slotUsed
	case lap != p.availableAs(pos):
	case word&(flagNext<<16) != 0:
		s.is = slotMore
	default:
		s.is = slotLast
	}
	return s
}

// readSlots reads the n slots from pos on.
func (p *packed) readSlots(pos, n uint32) []seenSlot {
	list := make([]seenSlot, n)
	for i := range list {
		list[i] = p.readSlot(p.add(pos, uint32(i)))
	}
	return list
}

// chainsOf is the chains that slots are, if they make sense and one of them is
// used; none otherwise.
func chainsOf(slots []seenSlot) (chains []taken) {
	if !slices.ContainsFunc(slots, seenSlot.used) {
		return nil
	}
	for len(slots) > 0 {
		n := chainLen(slots)
		if n == 0 {
			return nil
		}
		chains = append(chains, takenChain(slots[n-1].id, uint32(n)))
		slots = slots[n:]
	}
	return chains
}

func (s seenSlot) used() bool { return s.is == slotUsed }
func (s seenSlot) ends() bool { return s.is != slotMore }

// chainLen is how many of slots the chain has that they begin with, or 0. A used
// slot does not say whether its chain goes on, but what follows up to the next
// one does.
func chainLen(slots []seenSlot) int {
	n := 0
	for n < len(slots) && slots[n].is == slotMore {
		n++
	}
	if n == len(slots) || slots[n].is == slotOther {
		return 0
	}
	n++
	if slots[n-1].is == slotLast {
		return n
	}
	rest := slots[n:]
	if i := slices.IndexFunc(rest, seenSlot.used); i >= 0 {
		rest = rest[:i]
	}
	if len(rest) == 0 {
		return n
	}
	if end := slices.IndexFunc(rest, seenSlot.ends); end != len(rest)-1 || rest[end].is != slotLast {
		return 0
	}
	return n + len(rest)
}

// giveBack gives back chains that [packed.overtaken] has found, from where the ring
// stands on.
func (q *Queue) giveBack(chains []taken) {
	if len(chains) == 0 {
		return
	}
	p, t := &q.ring.packed, &q.take
	used, slots := make([]Used, len(chains)), uint32(0)
	for i, c := range chains {
		t.note(uint32(i), c)
		used[i].Head = c.head()
		slots += c.slots()
	}
	p.nextAvail, p.slots = p.add(p.nextUsed, slots), slots
	t.last = t.first + uint32(len(used))
	p.push(t, used, slots)
	t.first = t.last
	q.givenBack = len(chains)
}

// GivenBack is how many chains New has given back unserved, because the front-end
// had begun to while nobody served the ring.
func (q *Queue) GivenBack() int { return q.givenBack }
