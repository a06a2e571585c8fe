package virtqueue

import (
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// Offsets in a descriptor of the packed ring, bytes (virtio 1.3, section
// 2.8.13). id and flags are accessed as one aligned word of 32 bits, or of 64
// together with len.
const (
	packedAddr    = 0
	packedLen     = 8
	packedIDFlags = 12
)

// Flags of a packed descriptor beside those of both formats, in its flags and
// in the word id | flags<<16 (virtio 1.3, section 2.8.1).
const (
	flagAvail = 1 << 7
	flagUsed  = 1 << 15

	wordAvail     = flagAvail << 16
	wordUsed      = flagUsed << 16
	wordAvailUsed = wordAvail | wordUsed
)

// eventAreaLen is the length of an event suppression area, bytes.
const eventAreaLen = 4

// wrapBit is the wrap counter in a State, in vhost-user's bases, and in the
// off_wrap of an event suppression area.
const wrapBit = 1 << 15

// packed is a packed ring (virtio 1.3, section 2.8): its words, and where the
// device stands in it.
//
// A position counts from 0 to 2*size-1 and is both the index of a slot and the
// wrap counter, which is 1 in the first half: one add moves both, for any
// size.
type packed struct {
	ring   sharedmem.Block // the descriptors
	pairs  sharedmem.Pairs // the same as words
	table  table           // the same for a walk
	driver sharedmem.Block // the driver's event suppression area: whether it wants calls
	device sharedmem.Block // the device's: whether it wants kicks

	size     uint32 // entries, not only powers of two
	eventIdx bool
	inOrder  bool // the driver takes one used descriptor for many chains

	nextAvail uint32 // position of the next slot to take
	nextUsed  uint32 // position of the next slot to write as used
	keep      keep   // where nextUsed outlives the process
	slots     uint32 // occupied by the chains that are taken
	gathered  uint32 // slots of the chains that gather found last
}

// newPacked lays the views over a ring that Config.check has accepted.
func newPacked(c *Config) packed {
	return packed{
		ring: c.Desc, pairs: c.Desc.Pairs(), driver: c.Avail, device: c.Used,
		table:    table{block: c.Desc, size: uint32(c.Size), order: consecutive},
		size:     uint32(c.Size),
		eventIdx: c.Features.Has(virtio.EventIdx),
		inOrder:  c.Features.Has(virtio.InOrder),
	}
}

// start finds the ring's place: that of r, or the first slot, with both wrap
// counters 1 (virtio 1.3, section 2.8.1). Nothing in memory tells it.
func (p *packed) start(r *State) {
	if r != nil {
		p.nextAvail, p.nextUsed = p.positionOf(r.Avail), p.positionOf(r.Used)
	}
}

// add moves a position n slots forward, n at most size.
func (p *packed) add(pos, n uint32) uint32 {
	if pos += n; pos >= 2*p.size {
		pos -= 2 * p.size
	}
	return pos
}

// sub moves a position n slots back, n at most size.
func (p *packed) sub(pos, n uint32) uint32 {
	if pos < n {
		pos += 2 * p.size
	}
	return pos - n
}

// slot is the index of a position.
func (p *packed) slot(pos uint32) uint32 {
	if pos >= p.size {
		return pos - p.size
	}
	return pos
}

// wrap is the wrap counter of a position.
func (p *packed) wrap(pos uint32) bool { return pos < p.size }

// offWrap is a position as States, bases and event areas carry it: the index,
// and the wrap counter as bit 15.
func (p *packed) offWrap(pos uint32) uint16 {
	if p.wrap(pos) {
		return uint16(pos) | wrapBit
	}
	return uint16(pos - p.size)
}

// positionOf is the inverse of offWrap. The index is below size.
func (p *packed) positionOf(offWrap uint16) uint32 {
	pos := uint32(offWrap &^ wrapBit)
	if offWrap&wrapBit == 0 {
		pos += p.size
	}
	return pos
}

// availableAs is what AVAIL and USED of a slot are, in the word id |
// flags<<16, when the driver has made it available at pos: AVAIL as the wrap
// counter, USED its inverse.
func (p *packed) availableAs(pos uint32) uint32 {
	if p.wrap(pos) {
		return wordAvail
	}
	return wordUsed
}

// available reports whether the driver has made the slot at pos available.
func (p *packed) available(pos uint32) bool {
	word := p.ring.LoadAcquire32(descSize*p.slot(pos) + packedIDFlags)
	return word&wordAvailUsed == p.availableAs(pos)
}

// ready knows of the next chain only: what is behind it depends on its length.
func (p *packed) ready() (int, error) {
	if !p.available(p.nextAvail) {
		return 0, nil
	}
	if p.slots == p.size {
		return 0, broken(ReasonOverrun, uint64(p.slot(p.nextAvail)), uint64(p.size))
	}
	return 1, nil
}

// gather takes plain chains run by run, and each other chain by a walk.
func (p *packed) gather(t *taker, dst []Chain) (n, arena int, err error) {
	arena, p.gathered = t.used(), 0
	for n < len(dst) {
		if p.slots+p.gathered == p.size { // only a driver that rewrites slots it does not own goes on
			if pos := p.add(p.nextAvail, p.gathered); p.available(pos) {
				err = broken(ReasonOverrun, uint64(p.slot(pos)), uint64(p.size))
			}
			return n, arena, err
		}
		plain, why, d := p.run(t, dst[n:], uint32(n))
		n += int(plain)
		switch why {
		case runEmpty:
			return n, arena, nil
		case runWalk:
			if arena, err = p.walk(t, &dst[n], uint32(n), d, arena); err != nil {
				return n, arena, err
			}
			n++
		case runFull, runHead: // the next run is elsewhere in memory
		}
	}
	return n, arena, nil
}

// run takes chains of one buffer from slots that lie one behind the other, as
// the chains behind the taken ones by behind. d is the slot that is to be
// walked, read already.
func (p *packed) run(t *taker, dst []Chain, behind uint32) (n uint32, why runEnd, d descriptor) {
	pos, note := p.add(p.nextAvail, p.gathered), (t.last+behind)&t.mask
	slot, want := p.slot(pos), uint64(p.availableAs(pos))<<32
	most := min(uint32(len(dst)), uint32(len(t.fifo))-note, p.size-slot, p.size-p.slots-p.gathered)
	dst = dst[:most]
	fifo, window, slow := t.fifo[note:][:len(dst)], t.window, t.slow<<16
	slots := p.pairs.Run(slot, len(dst))
	for i := 0; i < len(dst); i, n = i+1, n+1 {
		// When the bits say that the slot is available, all that the driver
		// wrote for the chain before is seen by this read and those that
		// follow: pairs with its release store of the first slot's flags.
		meta := slots.AcquireSecond(uint64(i))
		if meta&(wordAvailUsed<<32) != want {
			why = runEmpty
			break
		}
		addr := slots.LoadFirst(uint64(i))
		c := &dst[i]
		if meta&slow != 0 || !window.Holds(addr, uint64(uint32(meta))) {
			why, d = runWalk, packedDescriptor(addr, meta)
			break
		}
		c.setOne(uint16(meta>>32), window.At(addr, uint64(uint32(meta))), meta&(flagWrite<<48) != 0)
		fifo[i] = takenChain(uint16(meta>>32), 1)
	}
	p.gathered += n
	return n, why, d
}

// walk is gather's way for a chain of more than one buffer. Its name is the id
// of its last slot, and it may have all slots that are not taken.
func (p *packed) walk(t *taker, c *Chain, behind uint32, d descriptor, arena int) (int, error) {
	p.table.at, p.table.limit = p.slot(p.add(p.nextAvail, p.gathered)), p.size-p.slots-p.gathered
	arena, err := t.walk(c, d, &p.table, arena)
	if err != nil {
		return arena, err
	}
	c.Head = p.table.id
	t.note(behind, takenChain(c.Head, p.table.slots))
	p.gathered += p.table.slots
	return arena, nil
}

// took follows a gather whose chains were all taken.
func (p *packed) took() {
	p.nextAvail = p.add(p.nextAvail, p.gathered)
	p.slots += p.gathered
	p.gathered = 0
}

func (p *packed) untook(t *taker, n int) {
	slots := t.slots(t.last-uint32(n), t.last)
	p.nextAvail = p.sub(p.nextAvail, slots)
	p.slots -= slots
}

// push writes one used descriptor per chain, into the chain's first slot, and
// the flags of the first chain last: until then the driver, which looks at one
// slot after the other, sees none of them, so all buffers of a packet come to
// it at once (virtio 1.3, sections 2.8.4 to 2.8.6). A single one in the first slot of
// several chains is for [ring.pushRead].
func (p *packed) push(t *taker, used []Used, slots uint32) {
	if p.keep.mark != 0 {
		p.keep.note(p, t, used, slots)
	}
	slot, wrap := p.slot(p.nextUsed), p.usedAs(p.nextUsed)
	first, rest := used[0], used[1:]
	if slots == uint32(len(used)) { // one slot each
		n := min(len(rest), int(p.size-slot-1))
		writeRun(p.pairs.Run(slot+1, n), rest[:n], wrap)
		writeRun(p.pairs.Run(0, len(rest)-n), rest[n:], wrap^wordAvailUsed) // the next lap
	} else {
		p.writeChains(t, rest, slot, wrap)
	}
	p.ring.Store32(descSize*slot+packedLen, first.Len)
	// What was written before is seen by the driver that finds the slot used:
	// pairs with its acquire load of the slot's flags.
	p.ring.StoreRelease32(descSize*slot+packedIDFlags, usedWord(first, wrap))
	p.nextUsed = p.add(p.nextUsed, slots)
	p.slots -= slots
	if p.keep.mark != 0 {
		p.keep.over(p, t, slots)
	}
}

// writeRun writes used descriptors of chains that have one slot each into as
// many slots.
//
//go:noinline
func writeRun(slots sharedmem.Pairs, used []Used, wrap uint32) {
	for i := range min(uint64(len(used)), slots.Len()) {
		u := &used[i]
		slots.StoreSecond(i, uint64(usedWord(*u, wrap))<<32|uint64(u.Len))
	}
}

// writeChains writes used descriptors of chains behind the oldest, which
// begins at slot at.
func (p *packed) writeChains(t *taker, used []Used, at, wrap uint32) {
	for i, u := range used {
		if at += t.oldest(i).slots(); at >= p.size {
			at, wrap = at-p.size, wrap^wordAvailUsed // the next lap
		}
		p.pairs.StoreSecond(uint64(at), uint64(usedWord(u, wrap))<<32|uint64(u.Len))
	}
}

// usedAs is what AVAIL and USED of a slot are, in the word id | flags<<16,
// when the device has used it at pos: both as the wrap counter.
func (p *packed) usedAs(pos uint32) uint32 {
	if p.wrap(pos) {
		return wordAvailUsed
	}
	return 0
}

// usedWord is id | flags<<16 of a used descriptor with these AVAIL and USED:
// WRITE when bytes were written, without which len means nothing (virtio 1.3,
// section 2.8.4).
func usedWord(u Used, wrap uint32) uint32 {
	word := uint32(u.Head) | wrap
	if u.Len > 0 {
		word |= flagWrite << 16
	}
	return word
}

func (p *packed) suspend() State {
	p.nextAvail, p.slots = p.nextUsed, 0
	pos := p.offWrap(p.nextUsed)
	return State{Avail: pos, Used: pos, Packed: true}
}
