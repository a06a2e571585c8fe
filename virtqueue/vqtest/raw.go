package vqtest

import "vhostnet/sharedmem"

// At is the window of n bytes of the driver's memory at guest address gpa. It
// panics when they lie outside: the driver knows its memory.
func (d *Driver) At(gpa, n uint64) sharedmem.Block { return d.cfg.Mem.Sub(gpa-d.cfg.GPA, n) }

// Alloc takes n bytes of guest memory for good, for what Request cannot say.
func (d *Driver) Alloc(n int) (gpa uint64, err error) { return d.memory.alloc(uint64(n)) }

// SetDesc writes entry i of the ring's descriptor table, or slot i of a packed
// ring; next is its id there, and flags that make the slot the device's
// publish it.
func (d *Driver) SetDesc(i uint16, addr uint64, length uint32, flags, next uint16) {
	d.storeDesc(d.descArea(), uint32(i), addr, length, flags, next)
}

// SetTableDesc writes entry i of an indirect table at guest address gpa; next
// is its id in a packed ring.
func (d *Driver) SetTableDesc(gpa uint64, i int, addr uint64, length uint32, flags, next uint16) {
	d.storeDesc(d.At(gpa+descSize*uint64(i), descSize), 0, addr, length, flags, next)
}

func (d *Driver) descArea() sharedmem.Block {
	if d.packed != nil {
		return d.packed.desc
	}
	return d.split.desc
}

// storeDesc writes a descriptor, the word that can publish it last.
func (d *Driver) storeDesc(table sharedmem.Block, i uint32, addr uint64, length uint32, flags, next uint16) {
	meta := d.meta(length, flags, next)
	table.Store64(descSize*i, addr)
	table.Store32(descSize*i+8, length)
	table.StoreRelease32(descSize*i+12, uint32(meta>>32))
}

// RawDesc is a descriptor as a malicious driver writes it.
type RawDesc struct {
	Addr  uint64
	Len   uint32
	Flags uint16
	Next  uint16 // the id in a packed ring
}

// PutRaw publishes a chain of whatever descriptors. In a split ring they are
// the entries of the table from 0 on, and entry 0 is the head. In a packed one
// they are the next slots; AVAIL and USED in Flags are exchanged against what
// makes them the device's. The driver goes on behind them, and cannot reap
// what they were.
func (d *Driver) PutRaw(list []RawDesc) {
	if d.split != nil {
		for i, r := range list {
			d.SetDesc(uint16(i), r.Addr, r.Len, r.Flags, r.Next)
		}
		d.SetAvailEntry(d.split.availIdx, 0)
		d.SetAvailIdx(d.split.availIdx + 1)
		return
	}
	for _, r := range list {
		flags := r.Flags&^(FlagAvail|FlagUsed) | availFlags(d.packed.availPos)
		d.packed.put(r.Addr, r.Len, r.Next, flags)
	}
	d.packed.publish()
}

// The words of a split ring. The methods below panic on a packed one.

// SetAvailEntry writes the entry of the avail ring for index idx, without
// publishing it.
func (d *Driver) SetAvailEntry(idx, head uint16) { d.split.setAvailEntry(idx, head) }

// SetAvailIdx publishes idx, whatever was added. The Driver goes on from it.
func (d *Driver) SetAvailIdx(idx uint16) {
	d.split.availIdx, d.split.published = idx, idx
	d.split.storeAvailIdx(idx)
}

// SetAvailFlags writes avail.flags: 1 asks for no calls, when EVENT_IDX was
// not accepted.
func (d *Driver) SetAvailFlags(flags uint16) { d.split.setAvailFlags(flags) }

// SetUsedEvent writes used_event: the device calls when used.idx goes past it.
// The ring has one only with EVENT_IDX.
func (d *Driver) SetUsedEvent(idx uint16) { d.split.setUsedEvent(idx) }

// SetUsedIdx writes used.idx, as a device before this one would have left it.
func (d *Driver) SetUsedIdx(idx uint16) { d.split.used.StoreRelease32(0, uint32(idx)<<16) }

// UsedFlags reads used.flags: 1 asks for no kicks.
func (d *Driver) UsedFlags() uint16 { return d.split.used.Load16(0) }

// UsedEntry reads the entry of the used ring for index idx.
func (d *Driver) UsedEntry(idx uint16) (id, length uint32) { return d.split.usedEntry(idx) }

// AvailEvent reads avail_event: the device wants a kick when avail.idx goes
// past it. The ring has one only with EVENT_IDX.
func (d *Driver) AvailEvent() uint16 { return d.split.availEvent() }

// The words of a packed ring. The methods below panic on a split one.

// Slot is slot i of a packed ring as it is in memory.
func (d *Driver) Slot(i uint16) RawDesc {
	at := descSize * uint32(i)
	word := d.packed.desc.LoadAcquire32(at + 12)
	return RawDesc{
		Addr: d.packed.desc.Load64(at), Len: d.packed.desc.Load32(at + 8),
		Flags: uint16(word >> 16), Next: uint16(word),
	}
}

// Plus is the position n slots behind pos, at most a lap.
func (d *Driver) Plus(pos uint16, n int) uint16 { return d.packed.plus(pos, n) }

// SetPositions makes the Driver go on from others.
func (d *Driver) SetPositions(avail, used uint16) {
	d.packed.availPos, d.packed.usedPos, d.packed.pending = avail, used, 0
}

// SetDriverEvent writes the driver's wish: one of EventEnable, EventDisable,
// EventDesc, and a position.
func (d *Driver) SetDriverEvent(pos, flags uint16) { d.packed.setEvent(pos, flags) }

// DeviceEvent reads the device's wish.
func (d *Driver) DeviceEvent() (pos, flags uint16) {
	word := d.packed.used.LoadAcquire32(0)
	return uint16(word), uint16(word >> 16)
}
