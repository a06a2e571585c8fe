package virtqueue_test

// spoil writes b to a word of the ring or of a table that a names.
func (d *differ) spoil(a, b uint32) {
	size, entry := uint64(d.cfg.Size), uint64(a>>8&0xff)
	slot := entry % size
	if d.shape.packed && a>>16&3 > 0 { // one that was added last
		slot = (uint64(d.avail.Index) + size - 1 - entry%min(4, size)) % size
	}
	desc := d.cfg.Desc + 16*slot
	if a>>7&1 != 0 {
		desc = diffTables + 16*(entry%diffSlots)
	}
	switch kind := a % 16; {
	case kind < 4:
		d.spoilBuffer(kind, desc, b)
	case kind < 12 && d.shape.packed:
		d.spoilPacked(kind, desc, b)
	case kind < 12:
		d.spoilSplit(kind, desc, entry, b)
	case kind == 12: // the device's words
		d.store(d.cfg.DeviceArea+uint64(b>>16)%(6+8*size), 1, uint64(b))
	case kind == 13: // the driver's words
		d.store(d.cfg.Driver+uint64(b>>16)%(6+2*size), 1, uint64(b))
	case kind == 14: // any byte of the ring
		d.store(diffDesc+uint64(b>>8)%(diffBuffers-diffDesc), 1, uint64(b))
	default:
		d.store(desc+uint64(b>>8%16), 1, uint64(b))
	}
}

// spoilBuffer changes address or length of a descriptor.
func (d *differ) spoilBuffer(kind uint32, desc uint64, b uint32) {
	r := diffRandom(b)
	switch kind {
	case 0: // near something
		e := d.element(&r)
		d.store(desc, 8, e.addr+uint64(r.next()>>30)*0x900)
	case 1: // anywhere
		d.store(desc, 8, uint64(r.next())<<32|uint64(b))
	case 2:
		d.store(desc+8, 4, uint64(b>>(b&31)))
	default: // of a table
		d.store(desc+8, 4, uint64(16*(b%uint32(2*d.cfg.MaxChain))))
	}
}

// aTable is a reference to a table somewhere among the tables, rarely with
// NEXT.
func aTable(b uint32) element {
	flags := uint16(flagIndirect) | uint16(b>>30&flagWrite)
	if b>>27&7 == 0 {
		flags |= flagNext
	}
	return element{diffTables + 16*uint64(b%diffSlots), 16 * (b >> 8 % 20), flags}
}

// spoilSplit changes how the parts of a split ring lead to each other.
func (d *differ) spoilSplit(kind uint32, desc, entry uint64, b uint32) {
	size := uint64(d.cfg.Size)
	switch kind {
	case 4, 5: // flags
		d.store(desc+12, 2, uint64(b%8))
	case 6, 7: // next
		d.store(desc+14, 2, uint64(b>>16)%(size+1))
	case 8:
		e := aTable(b)
		d.descriptor(desc, e, e.flags, uint16(b>>28))
	case 9, 10: // a head
		d.store(d.cfg.Driver+4+2*(entry%size), 2, uint64(b)%(size+1))
	default: // avail.idx
		d.store(d.cfg.Driver+2, 2, uint64(d.avail.Index)+uint64(b>>(b&15)))
	}
}

// spoilPacked changes flags and ids of a packed ring.
func (d *differ) spoilPacked(kind uint32, desc uint64, b uint32) {
	available := uint64(diffUsed)
	if d.avail.Wrap {
		available = diffAvail
	}
	switch kind {
	case 4: // an id
		d.store(desc+12, 2, uint64(b))
	case 5: // flags of any kind
		d.store(desc+14, 2, uint64(b&0x8087))
	case 6, 7: // of an available descriptor
		d.store(desc+14, 2, available|uint64(b>>8&7))
	case 8, 9:
		e := aTable(b)
		d.descriptor(desc, e, uint16(b>>16), e.flags|uint16(available))
	case 10: // one is made available out of turn
		d.store(d.cfg.Desc+16*uint64(d.avail.Index)+14, 2, available|uint64(b>>8&7))
	default: // the driver's wish
		d.store(d.cfg.Driver+2, 2, uint64(b>>8&7))
	}
}
