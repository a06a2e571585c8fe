package model

// The flags by which a descriptor is available or used (2.8.1).
const (
	flagAvail = 1 << 7
	flagUsed  = 1 << 15
)

// Values of the event flags (2.8.10).
const (
	eventsEnable  = 0
	eventsDisable = 1
	eventsDesc    = 2
)

// isAvailable says whether the flags are those of a descriptor that the driver
// made available while its wrap counter was wrap.
func isAvailable(flags uint16, wrap bool) bool {
	return (flags&flagAvail != 0) == wrap && (flags&flagUsed != 0) != wrap
}

// packedAfter goes n slots forward, one by one.
func (d *Device) packedAfter(p Position, n int) Position {
	for range n {
		p.Index++
		if int(p.Index) == d.cfg.Size {
			p = Position{0, !p.Wrap}
		}
	}
	return p
}

// packedFree is how many slots of the ring are not those of taken chains.
func (d *Device) packedFree() int {
	free := d.cfg.Size
	for i := range d.taken {
		free -= d.taken[i].slots
	}
	return free
}

// packedReady is 1 if the driver has made a descriptor available at the next
// slot. It cannot have when all slots are those of taken chains.
func (d *Device) packedReady() (int, Fault) {
	flags := d.mem.le16(d.cfg.Desc + 16*uint64(d.next.Index) + 14)
	switch {
	case !isAvailable(flags, d.next.Wrap):
		return 0, 0
	case d.packedFree() == 0:
		return 0, FaultIndex
	}
	return 1, 0
}

// packedTake makes c the list at the next slot, if the driver has made one
// available there (2.8.6).
func (d *Device) packedTake(c *Chain) (bool, Fault) {
	p, free := d.next, d.packedFree()
	if ready, f := d.packedReady(); ready == 0 || f != 0 {
		return false, f
	}
	// One location is polled, that of the first descriptor (2.8.2). When it is
	// available the others are: the driver must not make it so before (2.8.17).
	for {
		at := d.cfg.Desc + 16*uint64(p.Index)
		addr, length := d.mem.Load(at, 8), d.mem.le32(at+8)
		id, flags := d.mem.le16(at+12), d.mem.le16(at+14)
		c.slots++
		c.ID = id
		f := d.packedDescriptor(c, addr, length, flags)
		if c.slots == free && flags&flagNext != 0 {
			f |= FaultLoop | FaultIndex
		}
		if f != 0 || flags&flagNext == 0 {
			return f == 0, f
		}
		p = d.packedAfter(p, 1)
	}
}

// packedDescriptor adds what one descriptor of the ring refers to.
func (d *Device) packedDescriptor(c *Chain, addr uint64, length uint32, flags uint16) (f Fault) {
	if flags&flagIndirect == 0 {
		return c.element(d, addr, length, flags&flagWrite != 0)
	}
	f = d.table(addr, length)
	if c.slots > 1 || flags&flagNext != 0 {
		f |= FaultIndirectNext
	}
	for i := uint64(0); f == 0 && i < uint64(length/16); i++ {
		at := addr + 16*i
		// Only WRITE means something in a table (2.8.7).
		f = c.element(d, d.mem.Load(at, 8), d.mem.le32(at+8), d.mem.le16(at+14)&flagWrite != 0)
	}
	return f
}

// packedPut writes one used descriptor for each chain, at the slot where the
// device is, and goes on by as many slots as the chain had (2.8.6).
func (d *Device) packedPut(lengths []uint32) Answer {
	call := No
	for k, n := range lengths {
		c := &d.taken[k]
		at := d.cfg.Desc + 16*uint64(d.used.Index)
		flags := uint64(0)
		if d.used.Wrap {
			flags = flagAvail | flagUsed
		}
		if n > 0 {
			flags |= flagWrite // some of it was written (2.8.3)
		}
		d.mem.Store(at+8, 4, uint64(n))
		d.mem.Store(at+12, 2, uint64(c.ID))
		d.mem.Store(at+14, 2, flags)
		for range c.slots {
			if a := d.packedWishes(d.used); a == Either || call != Either && a == Yes {
				call = a
			}
			d.used = d.packedAfter(d.used, 1)
		}
	}
	return call
}

// packedWishes is whether the driver wants to know that the device went past
// slot p (2.8.10).
func (d *Device) packedWishes(p Position) Answer {
	word, flags := d.mem.le16(d.cfg.Driver), d.mem.le16(d.cfg.Driver+2)
	return wishes(d.cfg, word, flags, p)
}

// wishes reads an event suppression structure (2.8.14).
func wishes(cfg Config, word, flags uint16, p Position) Answer {
	switch event := flags; { // with bits that are reserved it is none of these
	case event == eventsEnable:
		return Yes
	case event == eventsDisable:
		return No
	case event == eventsDesc && cfg.EventIdx && int(word&0x7fff) < cfg.Size:
		if p == (Position{word & 0x7fff, word&0x8000 != 0}) {
			return Yes
		}
		return No
	}
	return Either // reserved, or not negotiated, or no slot of the ring
}

// packedUnwanted disables notifications. The position means nothing then, and
// is 0.
func (d *Device) packedUnwanted() {
	d.mem.Store(d.cfg.DeviceArea, 2, 0)
	d.mem.Store(d.cfg.DeviceArea+2, 2, eventsDisable)
}

// packedWanted asks for one at the next slot.
func (d *Device) packedWanted() Answer {
	word, flags := uint64(0), uint64(eventsEnable)
	if d.cfg.EventIdx {
		flags = eventsDesc
		word = uint64(d.next.Index)
		if d.next.Wrap {
			word |= 0x8000
		}
	}
	d.mem.Store(d.cfg.DeviceArea, 2, word)
	d.mem.Store(d.cfg.DeviceArea+2, 2, flags)
	if isAvailable(d.mem.le16(d.cfg.Desc+16*uint64(d.next.Index)+14), d.next.Wrap) {
		return Yes
	}
	return No
}

// DriverNotifiesPacked is what a driver does that has made n slots available
// from p on.
func DriverNotifiesPacked(cfg Config, mem Memory, p Position, n int) Answer {
	d := Device{cfg: cfg}
	word, flags := mem.le16(cfg.DeviceArea), mem.le16(cfg.DeviceArea+2)
	for range n {
		if a := wishes(cfg, word, flags, p); a != No {
			return a
		}
		p = d.packedAfter(p, 1)
	}
	return No
}
