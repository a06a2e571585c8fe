package virtqueue

import (
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// Offsets in a descriptor of the packed ring, bytes (virtio 1.3, section
// 2.8.13). id and flags are accessed as one aligned 32-bit word.
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
	table  table           // the same for a walk
	driver sharedmem.Block // the driver's event suppression area: whether it wants calls
	device sharedmem.Block // the device's: whether it wants kicks

	size     uint32 // entries, not only powers of two
	eventIdx bool

	nextAvail uint32 // position of the next slot to take
	nextUsed  uint32 // position of the next slot to write as used
	slots     uint32 // occupied by the chains that are taken
	gathered  uint32 // slots of the chains that gather found last
}

// newPacked lays the views over a ring that Config.check has accepted.
func newPacked(c *Config) packed {
	return packed{
		ring: c.Desc, driver: c.Avail, device: c.Used,
		table:    table{block: c.Desc, size: uint32(c.Size), order: consecutive},
		size:     uint32(c.Size),
		eventIdx: c.Features.Has(virtio.EventIdx),
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

func (p *packed) gather(t *taker, dst []Chain) (n, arena int, err error) {
	arena, p.gathered = t.used(), 0
	ring, fifo, room, slow := p.ring, t.behind(), p.size-p.slots, t.slow
	slot, want := p.slot(p.nextAvail), p.availableAs(p.nextAvail)
	for n < len(dst) {
		// When the bits say that the slot is available, all that the driver
		// wrote for the chain before is seen by reads that follow: pairs with
		// its release store of the first slot's flags.
		word := ring.LoadAcquire32(descSize*slot + packedIDFlags)
		if word&wordAvailUsed != want {
			break
		}
		if room == 0 { // only a driver that rewrites slots it does not own gets here
			return n, arena, broken(ReasonOverrun, uint64(slot), uint64(p.size))
		}
		c, chain := &dst[n], taken{uint16(word), 1}
		d := packedDescriptor(ring.Load64(descSize*slot+packedAddr), uint64(ring.Load32(descSize*slot+packedLen))|uint64(word)<<32)
		if b, ok := t.window.Block(d.addr, d.meta&metaLen); ok && d.meta&slow == 0 {
			c.setOne(b, d.meta)
		} else if chain, arena, err = p.walk(t, c, slot, d, room, arena); err != nil {
			return n, arena, err
		}
		c.Head = chain.head
		fifo.set(n, chain)
		n++
		p.gathered += uint32(chain.slots)
		room -= uint32(chain.slots)
		if slot += uint32(chain.slots); slot >= p.size {
			slot -= p.size
			want ^= wordAvailUsed // the next lap
		}
	}
	return n, arena, nil
}

// walk is gather's way for a chain of more than one buffer. Its name is the id
// of its last slot, and it may have room slots.
func (p *packed) walk(t *taker, c *Chain, slot uint32, d descriptor, room uint32, arena int) (taken, int, error) {
	p.table.at, p.table.limit = slot, room
	arena, err := t.walk(c, d, &p.table, arena)
	return taken{p.table.id, uint16(p.table.slots)}, arena, err
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
// it at once (virtio 1.3, sections 2.8.4 to 2.8.6).
func (p *packed) push(t *taker, used []Used) error {
	if len(used) > int(t.count()) {
		return t.stranger(used)
	}
	first, pos, slots, fifo := uint32(0), p.nextUsed, uint32(0), t.oldest()
	for i := range used {
		u, chain := used[i], fifo.at(i)
		if chain.head != u.Head {
			return t.stranger(used)
		}
		at := descSize * p.slot(pos)
		word := p.usedWord(u, pos)
		if i == 0 {
			first = word
			p.ring.Store32(at+packedLen, u.Len)
		} else {
			p.ring.Store64(at+packedLen, uint64(word)<<32|uint64(u.Len))
		}
		slots += uint32(chain.slots)
		pos = p.add(pos, uint32(chain.slots))
	}
	// What was written before is seen by the driver that finds the slot used:
	// pairs with its acquire load of the slot's flags.
	p.ring.StoreRelease32(descSize*p.slot(p.nextUsed)+packedIDFlags, first)
	p.nextUsed = pos
	p.slots -= slots
	return nil
}

// usedWord is id | flags<<16 of a used descriptor at pos: AVAIL and USED both
// as the wrap counter, WRITE when bytes were written, without which len means
// nothing (virtio 1.3, section 2.8.1, 2.8.4).
func (p *packed) usedWord(u Used, pos uint32) uint32 {
	word := uint32(u.Head)
	if p.wrap(pos) {
		word |= wordAvailUsed
	}
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
