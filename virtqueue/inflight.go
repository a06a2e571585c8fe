package virtqueue

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"vhostnet/sharedmem"
)

// Theory of operation.
//
// The inflight region of a packed ring (vhost-user, "Inflight I/O tracking") is
// memory that the front-end keeps while its back-end is away. It holds what a
// journal does, so that any back-end can read it: where the ring stands, and of
// each chain that was taken and not given back a copy of its descriptors. The
// copies are needed because used descriptors take the place of available ones.
//
// Entries that are free form a list. A chain that is taken gets entries from its
// head; one that is given back returns them there. The head and the position are
// kept twice, as they are and as they were before the push that is under way:
// whoever comes after a kill sees by the first slot of that push whether the
// driver can have seen it, and takes the new pair or the old one. Entries on
// the list that was taken are not in flight, whatever is written in them.
//
// Here chains come back in order, so only those of the push that is under way
// matter: the others wait in the ring, unaltered, behind the position. Each Push
// therefore enters its chains, gives them back to the list in the order opposite
// to that in which they got their entries, and only then writes the used
// descriptors. The list is so at every push what it was at the start: entry i
// leads to i+1. What the push before has left open is settled first: between
// two pushes the region is one that a kill behind the first slot would leave.
//
// A region of which chains are in flight is taken over by laying those out in
// the ring anew, from the position on and in the order in which they were taken,
// as if the driver had just made them available: the slots are the device's, and
// the driver knows chains by their ids. That is right for a push that is taken
// back, and for a back-end that gave chains back out of order.
//
// The one thing that the format cannot tell is a push of as many slots as the
// ring has, of which the index is the same afterwards. The wrap counters do,
// and they are looked at here.

// Offsets in the region of a packed ring, bytes.
const (
	regionFeatures = 0
	regionVersion  = 8 // 16 bits; 0 is a region that nobody has used
	regionSize     = 10
	regionHeads    = 12 // free_head, old_free_head: one aligned word
	regionUsed     = 16 // used_idx, old_used_idx, and 8 bits for each wrap counter: one aligned word
	regionEntries  = 32

	entryLen   = 32
	entryHead  = 0 // inflight 8 bits, next, last, num: one aligned word
	entryCount = 8
	entryMeta  = 16 // id, flags, len: one aligned word
	entryAddr  = 24
)

const regionVersion1 = 1

// InflightLen is the length in bytes of the inflight region of a packed ring of
// up to so many entries.
func InflightLen(entries int) uint64 { return regionEntries + entryLen*uint64(entries) }

// Inflight is the inflight region of a packed ring.
type Inflight struct {
	// Memory is InflightLen of at least the ring's entries that begin at a
	// multiple of 8, and lies in Map, to which the Queue takes its own reference.
	// The front-end may write to it at any time.
	Memory sharedmem.Block
	Map    *sharedmem.Map
	// Recover has New go on from what the region says, if anybody has used it,
	// whatever Config.Resume and Config.Journal say.
	Recover bool
}

var errInflight = errors.New("virtqueue: the inflight region makes no sense")

// region is an inflight region of so many entries.
type region struct {
	sharedmem.Block
	entries uint32
}

// region is the whole of f.
func (f *Inflight) region() region {
	return region{f.Memory, uint32((f.Memory.Len() - regionEntries) / entryLen)}
}

// left is f as the back-end before has used it: it may have less entries.
func (f *Inflight) left() (g region, err error) {
	g = f.region()
	n := uint32(g.Load16(regionSize))
	if n == 0 || n > g.entries {
		return g, fmt.Errorf("%w: it has %d entries, in the memory of %d", errInflight, n, g.entries)
	}
	g.entries = n
	return g, nil
}

// at is the offset of a word of entry i.
func at(i, word uint32) uint32 { return regionEntries + entryLen*i + word }

// place is what a region keeps twice: as it is, and as it was.
type place struct {
	free uint16 // the first entry of the list; one behind the last is the end
	pos  uint16 // as in a State
}

// place reads both, as they are to be understood after a kill.
func (g region) place(p *packed) (is place, err error) {
	if f, v := g.Load64(regionFeatures), g.Load16(regionVersion); f != 0 || v != regionVersion1 {
		return is, fmt.Errorf("%w: it has version %d and features %#x, version %d without any can be read", errInflight, v, f, regionVersion1)
	}
	heads, used := g.Load32(regionHeads), g.Load64(regionUsed)
	now, before := place{free: uint16(heads)}, place{free: uint16(heads >> 16)}
	for _, half := range []struct {
		to          *uint16
		index, wrap uint64
	}{{&now.pos, used & 0xffff, used >> 32 & 0xff}, {&before.pos, used >> 16 & 0xffff, used >> 40 & 0xff}} {
		if half.index >= uint64(p.size) || half.wrap > 1 {
			return is, fmt.Errorf("%w: used index %d with wrap counter %d of a ring of %d entries", errInflight, half.index, half.wrap, p.size)
		}
		*half.to = uint16(half.index | half.wrap<<15)
	}
	if now.pos == before.pos || p.available(p.positionOf(before.pos)) {
		return before, nil // a push that nobody has seen is taken back
	}
	return now, nil
}

// storeHeads writes the heads of the list.
func (g region) storeHeads(now, before uint16) {
	g.Store32(regionHeads, uint32(now)|uint32(before)<<16)
}

// storeUsed writes the positions.
func (g region) storeUsed(now, before uint16) {
	word := uint64(now&^wrapBit) | uint64(before&^wrapBit)<<16 | uint64(now>>15)<<32 | uint64(before>>15)<<40
	g.Store64(regionUsed, word)
}

// settle makes is both what is and what was. It is killed in between without
// harm: the heads count only together with their position.
func (g region) settle(is place) {
	g.storeHeads(is.free, is.free)
	g.storeUsed(is.pos, is.pos)
}

// land makes entry i say that no chain is in flight there.
func (g region) land(i uint32) { g.Store8(at(i, entryHead), 0) }

// flight is a chain in flight: the entries of its descriptors.
type flight struct {
	counter uint64
	entries []uint32
}

// list follows the list of free entries.
func (g region) list(from uint16) (free []bool, err error) {
	free = make([]bool, g.entries)
	for i := uint32(from); i < g.entries; i = uint32(uint16(g.Load64(at(i, entryHead)) >> 16)) {
		if free[i] {
			return nil, fmt.Errorf("%w: its list of free entries comes back to entry %d", errInflight, i)
		}
		free[i] = true
	}
	return free, nil
}

// flights are the chains in flight, oldest first, in slots of p.
func (g region) flights(p *packed, free []bool) (list []flight, err error) {
	slots, seen := uint32(0), slices.Clone(free)
	for i := range g.entries {
		head := g.Load64(at(i, entryHead))
		if free[i] || head&0xff == 0 {
			continue
		}
		f := flight{counter: g.Load64(at(i, entryCount))}
		n, last, next := uint32(head>>48), uint32(uint16(head>>32)), i
		if slots += n; n == 0 || slots > p.size {
			return nil, fmt.Errorf("%w: a chain of %d entries is in flight, of %d so far, in a ring of %d", errInflight, n, slots, p.size)
		}
		for range n {
			if next >= g.entries || seen[next] {
				return nil, fmt.Errorf("%w: the chain in flight at entry %d leads to entry %d, which is of another one or none", errInflight, i, next)
			}
			seen[next] = true
			f.entries = append(f.entries, next)
			next = uint32(uint16(g.Load64(at(next, entryHead)) >> 16))
		}
		if f.entries[n-1] != last {
			return nil, fmt.Errorf("%w: the chain in flight at entry %d ends at %d, and is to end at %d", errInflight, i, f.entries[n-1], last)
		}
		list = append(list, f)
	}
	slices.SortStableFunc(list, func(a, b flight) int { return cmp.Compare(a.counter, b.counter) })
	return list, nil
}

// recover takes the position that the region holds for p, and makes the chains
// in flight the next ones. It can be killed anywhere and done again: chains
// stop being in flight from the youngest on, so those that are left are laid out
// where they are, and those that are not wait behind them.
func (f *Inflight) recover(p *packed) error {
	g, err := f.left()
	if err != nil {
		return err
	}
	is, err := g.place(p)
	if err != nil {
		return err
	}
	free, err := g.list(is.free)
	if err != nil {
		return err
	}
	flights, err := g.flights(p, free)
	if err != nil {
		return err
	}
	g.settle(is)
	for i, on := range free {
		if on {
			g.land(uint32(i))
		}
	}
	p.nextUsed = p.positionOf(is.pos)
	p.nextAvail = p.nextUsed
	pos := p.nextUsed
	for _, chain := range flights {
		for i, e := range chain.entries {
			g.layOut(p, pos, e, i+1 < len(chain.entries))
			pos = p.add(pos, 1)
		}
	}
	for _, chain := range slices.Backward(flights) {
		g.land(chain.entries[0])
	}
	return nil
}

// layOut makes the descriptor in entry e available at pos.
func (g region) layOut(p *packed, pos, e uint32, more bool) {
	meta := bits.RotateLeft64(g.Load64(at(e, entryMeta)), 32) &^ ((wordAvailUsed | flagNext<<16) << 32)
	if more {
		meta |= flagNext << 48
	}
	slot := descSize * p.slot(pos)
	p.ring.Store64(slot, g.Load64(at(e, entryAddr)))
	p.ring.Store64(slot+packedLen, meta|uint64(p.availableAs(pos))<<32)
}

// begin makes f the region of p, which stands where it is to go on, with nothing
// in flight. One that says so already says it at every moment.
func (f *Inflight) begin(p *packed) {
	g, pos := f.region(), p.offWrap(p.nextUsed)
	if is, err := g.place(p); err == nil && is.pos == pos {
		g.settle(is)
	} else {
		g.Store16(regionVersion, 0)
		g.Store64(regionFeatures, 0)
	}
	for i := g.entries; i > 0; i-- { // the youngest first, as in recover
		g.Store64(at(i-1, entryHead), uint64(i)<<16)
	}
	g.settle(place{0, pos})
	g.Store16(regionSize, uint16(g.entries))
	g.Store16(regionVersion, regionVersion1)
	p.keep = keep{memory: f.Memory, mark: 1, tracks: true, region: g, file: f.Map}
}

// track enters what is about to be pushed: the oldest chains of t, which occupy
// so many slots.
func (k *keep) track(p *packed, t *taker, used []Used, slots uint32) {
	defer k.cutShort(t.mem)
	g, from, to := k.region, p.offWrap(p.nextUsed), p.offWrap(p.add(p.nextUsed, slots))
	for i := range k.entered {
		g.land(i)
	}
	g.settle(place{0, from})
	e, pos := uint32(0), p.nextUsed
	for i := range used {
		n := t.oldest(i).slots()
		head := 1 | uint64(e+n-1)<<32 | uint64(n)<<48
		for range n {
			g.enter(p, pos, e, head, uint64(i))
			head, e, pos = 0, e+1, p.add(pos, 1)
		}
	}
	g.storeHeads(uint16(slots), uint16(slots)) // taken
	g.storeHeads(0, uint16(slots))             // and given back,
	g.storeUsed(to, from)                      // if the driver can see it
	k.entered = slots
}

// enter copies the descriptor at pos into entry e. What is read decides nothing:
// who takes the chain again reads it as the guest's.
func (g region) enter(p *packed, pos, e uint32, head, counter uint64) {
	slot := descSize * p.slot(pos)
	g.Store64(at(e, entryAddr), p.ring.Load64(slot))
	g.Store64(at(e, entryMeta), bits.RotateLeft64(p.ring.Load64(slot+packedLen), 32))
	g.Store64(at(e, entryCount), counter)
	g.Store64(at(e, entryHead), head|uint64(e+1)<<16)
}

// ref and unref are the Queue's reference to the region.
func (k *keep) ref() {
	if k.tracks {
		k.file.Ref()
	}
}

func (k *keep) unref() {
	if k.tracks {
		k.file.Unref()
	}
}

// cutShort makes a fault of the region one of the guest's memory: a front-end
// that takes the one away loses what it loses with the other, that ring.
func (k *keep) cutShort(mem *sharedmem.Map) {
	p := recover()
	if p == nil {
		return
	}
	if fault := sharedmem.AsFault(p); fault != nil && fault.Map == k.file {
		panic(&sharedmem.FaultError{Map: mem, Addr: fault.Addr})
	}
	panic(p)
}

// checkInflight refuses an Inflight that cannot be this ring's.
func (c *Config) checkInflight() error {
	switch f := c.Inflight; {
	case f == nil:
		return nil
	case !c.packed():
		return fmt.Errorf("virtqueue: ring %d: an inflight region of a packed ring, and a split ring", c.Index)
	case f.Map == nil || f.Memory.Len() < InflightLen(c.Size) || f.Memory.Len() > InflightLen(MaxSize) || !f.Memory.Aligned(0, 8):
		return fmt.Errorf("virtqueue: ring %d: an inflight region of %d bytes, %d entries need %d that begin at a multiple of 8", c.Index, f.Memory.Len(), c.Size, InflightLen(c.Size))
	}
	return nil
}
