package vqtest

import "vhostnet/sharedmem"

// Offsets in the rings, bytes (virtio 1.3, sections 2.7.6 and 2.7.8).
const (
	availRing = 4
	usedRing  = 4
)

// slot is the place of a free-running index in the ring.
func (d *Driver) slot(idx uint16) uint32 { return uint32(idx) % uint32(d.cfg.Size) }

// At is the window of n bytes of the driver's memory at guest address gpa. It
// panics when they lie outside: the driver knows its memory.
func (d *Driver) At(gpa, n uint64) sharedmem.Block { return d.cfg.Mem.Sub(gpa-d.cfg.GPA, n) }

// Alloc takes n bytes of guest memory for good, for what Request cannot say.
func (d *Driver) Alloc(n int) (gpa uint64, err error) { return d.memory.alloc(uint64(n)) }

// SetDesc writes entry i of the ring's descriptor table.
func (d *Driver) SetDesc(i uint16, addr uint64, length uint32, flags, next uint16) {
	storeDesc(d.desc, uint32(i), addr, length, flags, next)
}

// SetTableDesc writes entry i of an indirect table at guest address gpa.
func (d *Driver) SetTableDesc(gpa uint64, i int, addr uint64, length uint32, flags, next uint16) {
	storeDesc(d.At(gpa+descSize*uint64(i), descSize), 0, addr, length, flags, next)
}

func storeDesc(table sharedmem.Block, i uint32, addr uint64, length uint32, flags, next uint16) {
	table.Store64(descSize*i, addr)
	table.Store32(descSize*i+8, length)
	table.Store16(descSize*i+12, flags)
	table.Store16(descSize*i+14, next)
}

// SetAvailEntry writes the entry of the avail ring for index idx, without
// publishing it.
func (d *Driver) SetAvailEntry(idx, head uint16) {
	slot := d.slot(idx)
	if slot == 0 {
		d.first = head
	}
	d.avail.Store16(availRing+2*slot, head)
}

// SetAvailIdx publishes idx, whatever was added. The Driver goes on from it.
func (d *Driver) SetAvailIdx(idx uint16) {
	d.availIdx, d.published = idx, idx
	d.storeAvailIdx(idx)
}

// storeAvailIdx stores avail.idx with release, in the aligned word that it
// shares: with the flags, or in a shifted ring with ring[0]. Pairs with the
// device's acquire load.
func (d *Driver) storeAvailIdx(idx uint16) {
	if d.cfg.ShiftAvail {
		d.avail.StoreRelease32(2, uint32(d.first)<<16|uint32(idx))
		return
	}
	d.avail.StoreRelease32(0, uint32(idx)<<16|uint32(d.availFlags))
}

// AvailIdx is the index that the driver has added up to.
func (d *Driver) AvailIdx() uint16 { return d.availIdx }

// SetAvailFlags writes avail.flags: 1 asks for no calls, when EVENT_IDX was
// not accepted.
func (d *Driver) SetAvailFlags(flags uint16) {
	d.availFlags = flags
	d.avail.Store16(0, flags)
}

// SetUsedEvent writes used_event: the device calls when used.idx goes past it.
// The ring has one only with EVENT_IDX.
func (d *Driver) SetUsedEvent(idx uint16) {
	d.avail.Store16(availRing+2*uint32(d.cfg.Size), idx)
}

// WantCalls asks for a call at the next chain that comes back, and reports
// whether one came before the device could know.
func (d *Driver) WantCalls() (more bool) {
	if d.eventIdx {
		d.SetUsedEvent(d.usedIdx)
	} else {
		d.SetAvailFlags(0)
	}
	// Pairs with the device's fence between its store of used.idx and its look
	// at our wish.
	sharedmem.Fence(&d.fence)
	return d.UsedIdx() != d.usedIdx
}

// NoCalls says that no calls are wanted.
func (d *Driver) NoCalls() {
	if d.eventIdx {
		d.SetUsedEvent(d.usedIdx - 1)
		return
	}
	d.SetAvailFlags(1)
}

// UsedIdx reads used.idx; what the device wrote before is seen afterwards.
func (d *Driver) UsedIdx() uint16 { return uint16(d.used.LoadAcquire32(0) >> 16) }

// SetUsedIdx writes used.idx, as a device before this one would have left it.
func (d *Driver) SetUsedIdx(idx uint16) { d.used.StoreRelease32(0, uint32(idx)<<16) }

// UsedFlags reads used.flags: 1 asks for no kicks.
func (d *Driver) UsedFlags() uint16 { return d.used.Load16(0) }

// UsedEntry reads the entry of the used ring for index idx.
func (d *Driver) UsedEntry(idx uint16) (id, length uint32) {
	slot := d.slot(idx)
	return d.used.Load32(usedRing + 8*slot), d.used.Load32(usedRing + 8*slot + 4)
}

// AvailEvent reads avail_event: the device wants a kick when avail.idx goes
// past it. The ring has one only with EVENT_IDX.
func (d *Driver) AvailEvent() uint16 { return d.used.Load16(usedRing + 8*uint32(d.cfg.Size)) }
