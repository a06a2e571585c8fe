package virtqueue_test

import (
	"math/bits"
	"slices"

	"vhostnet/virtqueue/internal/model"
)

// What the driver of the differential does: it sets the ring up, adds chains,
// publishes them and takes them back, as sections 2.7.13 to 2.7.14 and 2.8.21
// to 2.8.22 say.

// begin sets a ring up: areas zero (2.7.10.1, 2.8.13), indices at start.
func (g *diffGuest) begin(s ringShape, start uint16) {
	g.shape = s
	g.cfg = s.config()
	g.free = 1<<s.size - 1
	g.hidden, g.slots, g.room = g.hidden[:0], 0, s.size
	g.owned = [diffMaxSize]uint64{}
	for addr := uint64(diffDesc); addr < diffBuffers; addr += 8 {
		g.store(addr, 8, 0)
	}
	p := model.Position{Index: start}
	if s.packed {
		p = model.Position{Index: start & 0x7fff % uint16(s.size), Wrap: start&0x8000 == 0}
		g.packedPast(p)
	} else {
		g.store(g.cfg.Driver+2, 2, uint64(start))
		g.store(g.cfg.DeviceArea+2, 2, uint64(start))
	}
	g.avail, g.shown, g.reaped = p, p, p
}

// packedPast gives the descriptors the flags that they have when a ring has
// been used up to p, in its first round or in a later one.
func (g *diffGuest) packedPast(p model.Position) {
	for i := range uint16(g.shape.size) {
		if p.Wrap == (i < p.Index) {
			g.store(g.cfg.Desc+16*uint64(i)+14, 2, diffAvail|diffUsed)
		}
	}
}

// element is one descriptor to be written.
type element struct {
	addr  uint64
	len   uint32
	flags uint16
}

// elements makes the buffer elements that an addition stands for.
func (g *diffGuest) elements(list []element, a, b uint32) []element {
	out, in := int(a&7), int(a>>3&7)
	if a>>11&1 != 0 {
		in += 8
	}
	if out+in == 0 {
		out = 1
	}
	r := diffRandom(b)
	for i := range out + in {
		e := g.element(&r)
		if i >= out {
			e.flags = flagWrite
		}
		list = append(list, e)
	}
	return list
}

// element is a buffer somewhere in the guest's memory, sometimes empty,
// sometimes in two regions.
func (g *diffGuest) element(r *diffRandom) element {
	x := r.next()
	n := uint64(x>>8) % 64
	if x&0x70 == 0 {
		n = 1 + uint64(x>>8)%700
	}
	pick := func(from, end uint64) uint64 { return from + uint64(r.next())%(end-n-from) }
	switch x & 15 {
	case 0:
		return element{addr: 0x10900 - n/2, len: uint32(n)} // in two regions, unless it is short
	case 1:
		return element{addr: uint64(r.next()) << 16, len: 0} // nowhere, but empty
	case 2, 3:
		return element{addr: pick(diffTables+16*diffSlots-256, diffTables+0xa00) &^ 3, len: uint32(n % 300)}
	case 4, 5, 6:
		n = min(n, 0x2f0)
		return element{addr: pick(0x10900, 0x10c00), len: uint32(n)}
	default:
		return element{addr: pick(diffBuffers, 0x10900), len: uint32(n)}
	}
}

// add puts a chain into the ring, without showing it, if there is room.
func (g *diffGuest) add(a, b uint32) {
	var space [24]element
	list := g.elements(space[:0], a, b)
	direct, table := len(list), a>>6&1 != 0 && g.shape.indirect
	if table {
		direct = 0
		if !g.shape.packed {
			direct = min(int(a>>7&3), len(list)-1)
		}
		list = list[:min(len(list), direct+diffSlots/g.shape.size)]
	}
	taken := direct
	if table {
		taken++
	}
	if taken > bits.OnesCount64(g.free) || g.shape.packed && taken > g.room || len(list) > g.cfg.MaxChain {
		return
	}
	if g.shape.packed {
		g.addPacked(list, table, b)
		return
	}
	g.addSplit(list, direct, table, b)
}

// pickFree takes a free descriptor or buffer id, beginning to look at from.
func (g *diffGuest) pickFree(from uint32) uint16 {
	for i := range uint32(g.shape.size) {
		if k := (from + i) % uint32(g.shape.size); g.free>>k&1 != 0 {
			g.free &^= 1 << k
			return uint16(k)
		}
	}
	return 0
}

func (g *diffGuest) descriptor(at uint64, e element, low, high uint16) {
	g.store(at, 8, e.addr)
	g.store(at+8, 4, uint64(e.len))
	g.store(at+12, 2, uint64(low))
	g.store(at+14, 2, uint64(high))
}

// addSplit writes the elements as a chain (2.7.13.1): direct of them in the
// ring's table, the rest in an indirect one.
func (g *diffGuest) addSplit(list []element, direct int, table bool, from uint32) {
	head := g.pickFree(from)
	mine, at := uint64(1)<<head, head
	for i, e := range list[:direct] {
		next := uint16(0)
		if i+1 < direct || table {
			next = g.pickFree(from)
			mine |= 1 << next
			e.flags |= flagNext
		}
		g.descriptor(g.cfg.Desc+16*uint64(at), e, e.flags, next)
		at = next
	}
	if table {
		where := g.table(head)
		rest := list[direct:]
		ref := element{where, uint32(16 * len(rest)), flagIndirect}
		g.descriptor(g.cfg.Desc+16*uint64(at), ref, ref.flags|uint16(from>>30&flagWrite), 0)
		for i, e := range rest {
			next := uint16(0)
			if i+1 < len(rest) {
				e.flags, next = e.flags|flagNext, uint16(i+1)
			}
			g.descriptor(where+16*uint64(i), e, e.flags, next)
		}
	}
	g.owned[head] = mine
	g.store(g.cfg.Driver+4+2*uint64(int(g.avail.Index)%g.shape.size), 2, uint64(head))
	g.avail.Index++
	g.slots++
}

// table is the place of the indirect table of a head.
func (g *diffGuest) table(head uint16) uint64 {
	return diffTables + 16*uint64(head)*uint64(diffSlots/g.shape.size)
}

// addPacked writes the elements as a list (2.8.21.1), the first descriptor's
// flags excepted.
func (g *diffGuest) addPacked(list []element, table bool, from uint32) {
	id := g.pickFree(from)
	if table {
		where := g.table(id)
		for i, e := range list {
			// The other flags and the id mean nothing there (2.8.7).
			g.descriptor(where+16*uint64(i), e, uint16(from>>8), e.flags|uint16(from>>12)&^flagWrite)
		}
		list = append(list[:0], element{where, uint32(16 * len(list)), flagIndirect | uint16(from>>30&flagWrite)})
	}
	for i, e := range list {
		flags := e.flags
		if i+1 < len(list) {
			flags |= flagNext
		}
		if g.avail.Wrap {
			flags |= diffAvail
		} else {
			flags |= diffUsed
		}
		name := id
		if i+1 < len(list) {
			name = uint16(from >> 16)
		}
		at := g.cfg.Desc + 16*uint64(g.avail.Index)
		old := uint16(g.bytes.Load(at+14, 2))
		if i == 0 {
			g.hidden = append(g.hidden, hiddenSlot{g.avail.Index, flags})
			flags = old
		}
		g.descriptor(at, e, name, flags)
		g.avail = g.forward(g.avail)
	}
	g.owned[id] = uint64(len(list))
	g.room -= len(list)
	g.slots += len(list)
}

func (g *diffGuest) forward(p model.Position) model.Position {
	if p.Index++; int(p.Index) == g.shape.size {
		return model.Position{Index: 0, Wrap: !p.Wrap}
	}
	return p
}

// publish shows what was added; the first of a batch last.
func (g *diffGuest) publish() {
	if !g.shape.packed {
		g.store(g.cfg.Driver+2, 2, uint64(g.avail.Index))
	}
	for _, h := range slices.Backward(g.hidden) {
		g.store(g.cfg.Desc+16*uint64(h.slot)+14, 2, uint64(h.flags))
	}
	g.hidden, g.slots, g.shown = g.hidden[:0], 0, g.avail
}

// notifies is whether the driver notifies the device of what it is about to
// publish.
func (g *diffGuest) notifies() model.Answer {
	if g.shape.packed {
		return model.DriverNotifiesPacked(g.cfg, g.bytes, g.shown, g.slots)
	}
	if model.DriverNotifies(g.cfg, g.bytes, g.shown.Index, g.slots) {
		return model.Yes
	}
	return model.No
}

// reap takes back up to n chains that the device has used. What makes no sense
// is left alone: a spoiled ring is not the driver's to mend.
func (g *diffGuest) reap(n int) {
	for range n {
		id, ok := g.nextUsed()
		if !ok || id >= uint64(g.shape.size) || g.owned[id] == 0 {
			return
		}
		if g.shape.packed {
			for range g.owned[id] {
				g.reaped = g.forward(g.reaped)
			}
			g.room += int(g.owned[id])
			g.free |= 1 << id
		} else {
			g.reaped.Index++
			g.free |= g.owned[id]
		}
		g.owned[id] = 0
	}
}

// nextUsed is the id in the next used entry, if there is one.
func (g *diffGuest) nextUsed() (id uint64, ok bool) {
	if g.shape.packed {
		at := g.cfg.Desc + 16*uint64(g.reaped.Index)
		flags := g.bytes.Load(at+14, 2)
		avail, used := flags&diffAvail != 0, flags&diffUsed != 0
		return g.bytes.Load(at+12, 2), avail == g.reaped.Wrap && used == g.reaped.Wrap
	}
	if uint16(g.bytes.Load(g.cfg.DeviceArea+2, 2)) == g.reaped.Index {
		return 0, false
	}
	return g.bytes.Load(g.cfg.DeviceArea+4+8*uint64(int(g.reaped.Index)%g.shape.size), 4), true
}
