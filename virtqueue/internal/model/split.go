package model

// Descriptor flags of both formats (2.7.5, 2.8.3 to 2.8.7).
const (
	flagNext     = 1
	flagWrite    = 2
	flagIndirect = 4
)

// splitReady is how far avail.idx is ahead (2.7.6). More than there are
// entries that are not taken already cannot be: each needs a descriptor.
func (d *Device) splitReady() (int, Fault) {
	ahead := int(d.mem.le16(d.cfg.Driver+2) - d.next.Index)
	if ahead > d.cfg.Size-len(d.taken) {
		return 0, FaultIndex
	}
	return ahead, 0
}

// splitTake follows the chain whose head is in the next entry of the avail
// ring, through the descriptor table and an indirect one.
func (d *Device) splitTake(c *Chain) Fault {
	entry := uint64(int(d.next.Index) % d.cfg.Size)
	c.ID = d.mem.le16(d.cfg.Driver + 4 + 2*entry)
	if int(c.ID) >= d.cfg.Size {
		return FaultHead
	}
	table, entries, indirect := d.cfg.Desc, d.cfg.Size, false
	i, seen := int(c.ID), 0
	for {
		at := table + 16*uint64(i)
		addr, length := d.mem.Load(at, 8), d.mem.le32(at+8)
		flags, next := d.mem.le16(at+12), int(d.mem.le16(at+14))
		seen++
		var f Fault
		if flags&flagIndirect != 0 {
			f = d.table(addr, length)
			if flags&flagNext != 0 {
				f |= FaultIndirectNext
			}
			if indirect {
				f |= FaultNested
			}
			if f != 0 {
				return f
			}
			table, entries, indirect = addr, int(length/16), true
			i, seen = 0, 0
			continue
		}
		f = c.element(d, addr, length, flags&flagWrite != 0)
		if flags&flagNext == 0 {
			return f
		}
		if next >= entries {
			f |= FaultNext
		}
		if seen == entries {
			f |= FaultLoop
		}
		if f != 0 {
			return f
		}
		i = next
	}
}

// splitPut writes used entries, then used.idx (2.7.8), and asks for each of
// them whether the driver wants to know (2.7.7.2).
func (d *Device) splitPut(lengths []uint32) Answer {
	flags, event := d.mem.le16(d.cfg.Driver), uint16(0)
	if d.cfg.EventIdx {
		event = d.mem.le16(d.cfg.Driver + 4 + 2*uint64(d.cfg.Size))
	}
	call := No
	for k, n := range lengths {
		idx := d.used.Index
		at := d.cfg.DeviceArea + 4 + 8*uint64(int(idx)%d.cfg.Size)
		d.mem.Store(at, 4, uint64(d.taken[k].ID))
		d.mem.Store(at+4, 4, uint64(n))
		if d.cfg.EventIdx && idx == event || !d.cfg.EventIdx && flags&1 == 0 {
			call = Yes
		}
		d.used.Index++
	}
	d.splitStore()
	// The device has run out of available descriptors (6.3).
	if d.cfg.OnEmpty && len(lengths) == len(d.taken) && d.mem.le16(d.cfg.Driver+2) == d.next.Index {
		call = Yes
	}
	return call
}

// splitStore writes flags and used.idx, which are both the device's and which
// it never reads: whoever else has written there has written for nothing.
func (d *Device) splitStore() {
	flags := uint64(0)
	if !d.cfg.EventIdx && !d.armed {
		flags = 1
	}
	d.mem.Store(d.cfg.DeviceArea, 2, flags)
	d.mem.Store(d.cfg.DeviceArea+2, 2, uint64(d.used.Index))
}

// splitUnwanted: without EVENT_IDX flags is 1; with it flags is 0 and
// avail_event is the entry that the driver filled last, which it will not fill
// again for 65536 entries (2.7.10).
func (d *Device) splitUnwanted() {
	if d.cfg.EventIdx {
		d.mem.Store(d.availEvent(), 2, uint64(d.next.Index-1))
	}
	d.splitStore()
}

// splitWanted asks for a notification when the next entry is filled.
func (d *Device) splitWanted() Answer {
	if d.cfg.EventIdx {
		d.mem.Store(d.availEvent(), 2, uint64(d.next.Index))
	} else {
		d.splitStore()
	}
	if d.mem.le16(d.cfg.Driver+2) != d.next.Index {
		return Yes
	}
	return No
}

func (d *Device) availEvent() uint64 { return d.cfg.DeviceArea + 4 + 8*uint64(d.cfg.Size) }

// DriverNotifies is what a driver does that has filled n entries of the avail
// ring from index first on (2.7.10.1).
func DriverNotifies(cfg Config, mem Memory, first uint16, n int) bool {
	if !cfg.EventIdx {
		return n > 0 && mem.le16(cfg.DeviceArea)&1 == 0
	}
	event := mem.le16(cfg.DeviceArea + 4 + 8*uint64(cfg.Size))
	for i := range n {
		if first+uint16(i) == event {
			return true
		}
	}
	return false
}
