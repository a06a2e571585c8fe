package vqtest

import (
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// Flags of a slot that say whose it is (virtio 1.3, section 2.8.1), and the bit
// of a position that is the wrap counter.
const (
	FlagAvail = 1 << 7
	FlagUsed  = 1 << 15

	WrapBit = 1 << 15
)

// Flags of the event suppression areas (virtio 1.3, section 2.8.10).
const (
	EventEnable  = 0 // notify always
	EventDisable = 1 // never
	EventDesc    = 2 // when a position is passed; with EVENT_IDX only
)

// packed is the driver side of a packed ring. A position is a slot and, as bit
// 15, the wrap counter.
type packed struct {
	d            *Driver
	desc         sharedmem.Block
	avail, used  sharedmem.Block // event suppression: the driver's, the device's
	eventIdx     bool
	availPos     uint16 // behind the last chain posted
	usedPos      uint16 // behind the last chain reaped
	unused       int    // slots that no chain has
	ids          []uint16
	pending      uint16 // slots that were written and not published
	firstPending uint32 // the first of them
	firstWord    uint32 // its id and flags, which publish all of them
}

func newPacked(d *Driver) *packed {
	c := &d.cfg
	n := c.Lens()
	p := &packed{
		d:        d,
		desc:     c.Mem.Sub(d.at.Desc, n.Desc),
		avail:    c.Mem.Sub(d.at.Avail, n.Avail),
		used:     c.Mem.Sub(d.at.Used, n.Used),
		eventIdx: c.Features.Has(virtio.EventIdx),
		unused:   c.Size,
	}
	p.availPos = uint16(int(c.Start) % c.Size)
	if int(c.Start)/c.Size%2 == 0 {
		p.availPos |= WrapBit
	}
	p.usedPos = p.availPos
	for i := range c.Size {
		p.ids = append(p.ids, uint16(i))
		// As the laps before have left it: used, in this lap or in the last one.
		if (i < int(p.usedPos&^WrapBit)) == (p.usedPos&WrapBit != 0) {
			p.desc.Store16(uint32(descSize*i+14), FlagAvail|FlagUsed)
		}
	}
	return p
}

// plus is the position n slots behind pos.
func (p *packed) plus(pos uint16, n int) uint16 {
	at, wrap := int(pos&^WrapBit)+n, pos&WrapBit
	if at >= p.d.cfg.Size {
		at, wrap = at-p.d.cfg.Size, wrap^WrapBit
	}
	return uint16(at) | wrap
}

// availFlags make the slot at pos the device's.
func availFlags(pos uint16) uint16 {
	if pos&WrapBit != 0 {
		return FlagAvail
	}
	return FlagUsed
}

func (p *packed) free() int { return p.unused }

func (p *packed) reserve(entries int) (head uint16) {
	head, p.ids = p.ids[0], p.ids[1:]
	p.unused -= entries
	c := &p.d.chains[head]
	*c = chain{state: reaped, entries: entries, bufs: c.bufs[:0]}
	return head
}

func (p *packed) release(head uint16) {
	p.unused += p.d.chains[head].entries
	p.ids = append(p.ids, head)
}

// describe: slots are written whenever the chain is posted, as the device
// writes over them.
func (p *packed) describe(*chain) {}

func (p *packed) post(head uint16, c *chain) {
	for i := range c.entries {
		b, flags := c.entry(i)
		if i+1 < c.entries {
			flags |= FlagNext
		}
		p.put(b.GPA, b.Len, head, flags|availFlags(p.availPos))
	}
}

// put writes the slot at the driver's position, except for what makes the
// first of a batch the device's. The device looks at none behind it before.
func (p *packed) put(addr uint64, length uint32, id, flags uint16) {
	at := descSize * uint32(p.availPos&^WrapBit)
	p.desc.Store64(at, addr)
	p.desc.Store32(at+8, length)
	word := uint32(flags)<<16 | uint32(id)
	if p.pending == 0 {
		p.firstPending, p.firstWord = at, word
	} else {
		p.desc.Store32(at+12, word)
	}
	p.pending++
	p.availPos = p.plus(p.availPos, 1)
}

func (p *packed) publish() (kick bool) {
	moved := p.pending
	if p.pending = 0; moved == 0 {
		return false
	}
	p.desc.StoreRelease32(p.firstPending+12, p.firstWord)
	// The release store above and this acquire load are in order: pairs with
	// the device's fence between arming and its look at the ring.
	word := p.used.LoadAcquire32(0)
	switch off, flags := uint16(word), uint16(word>>16); {
	case flags == EventDisable:
		return false
	case flags != EventDesc:
		return true
	default:
		return p.passed(off, p.availPos, moved)
	}
}

// passed says whether a position that came to pos by so many slots went past
// event (virtio 1.3, section 2.8.10).
func (p *packed) passed(event, pos, moved uint16) bool {
	at := event &^ WrapBit
	if (event^pos)&WrapBit != 0 {
		at -= uint16(p.d.cfg.Size)
	}
	idx := pos &^ WrapBit
	return passed(at, idx, idx-moved)
}

// usedAt is what the device has written to the slot at pos; ok says whether it
// is the driver's (virtio 1.3, section 2.8.22). Pairs with the device's release
// store of the flags.
func (p *packed) usedAt(pos uint16) (id, length uint32, ok bool) {
	at := descSize * uint32(pos&^WrapBit)
	word := p.desc.LoadAcquire32(at + 12)
	flags := uint16(word >> 16)
	avail, used, wrap := flags&FlagAvail != 0, flags&FlagUsed != 0, pos&WrapBit != 0
	if avail != used || used != wrap {
		return 0, 0, false
	}
	if flags&FlagWrite != 0 { // without it nothing was written and len has no meaning
		length = p.desc.Load32(at + 8)
	}
	return uint32(uint16(word)), length, true
}

func (p *packed) next() (e usedEntry, err error) {
	id, length, ok := p.usedAt(p.usedPos)
	if !ok {
		return e, nil
	}
	return usedEntry{id: id, len: length, ready: p.d.cfg.Size}, nil
}

func (p *packed) advance(c *chain) { p.usedPos = p.plus(p.usedPos, c.entries) }

// returned goes from entry to entry, as far as they make sense: each takes as
// many slots as its chains have.
func (p *packed) returned() (chains int, pos uint16) {
	pos = p.usedPos
	for range p.d.batch { // of an entry that Reap has read
		pos = p.behind(pos, p.d.last.Head, chains)
		chains++
	}
	for chains < p.d.cfg.Size {
		id, _, ok := p.usedAt(pos)
		if !ok {
			break
		}
		n := p.d.until(chains, id)
		if n == 0 {
			return chains + 1, pos // for Reap to find
		}
		for range n {
			pos = p.behind(pos, uint16(id), chains)
			chains++
		}
	}
	return chains, pos
}

// behind is the position behind a chain at pos: the i-th in order behind the
// last one reaped, or head without IN_ORDER.
func (p *packed) behind(pos, head uint16, i int) uint16 {
	if p.d.inOrder {
		head = p.d.inOrderHead(i)
	}
	return p.plus(pos, p.d.chains[head].entries)
}

func (p *packed) wantCalls() {
	if p.eventIdx {
		p.setEvent(p.usedPos, EventDesc)
	} else {
		p.setEvent(0, EventEnable)
	}
}

func (p *packed) noCalls() { p.setEvent(0, EventDisable) }

func (p *packed) setEvent(pos, flags uint16) {
	p.avail.StoreRelease32(0, uint32(flags)<<16|uint32(pos))
}

func (p *packed) position() (avail, used uint16) { return p.availPos, p.usedPos }
