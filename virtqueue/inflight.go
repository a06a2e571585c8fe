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
// leads to i+1. Once the driver can see the push there is nothing in flight and one
// position, as in a region that nobody writes to.
//
// A region of which chains are in flight is taken over by laying those out in
// the ring anew, from the position on and in the order in which they were taken,
// as if the driver had just made them available: the slots are the device's, and
// the driver knows chains by their ids. That is right for a back-end that gave
// chains back out of order. A push that was made here and is taken back has its
// slots restored instead, word by word: one that a front-end had used before it has
// no length any more, so its chain is not to be served, and has to be found again
// (givenback.go).
//
// The one thing that the format cannot tell is a push of as many slots as the
// ring has, of which the index is the same afterwards. The wrap counters do,
// and they are looked at here.
//
// Chains of a push that was made here are not laid out anew if the first one's slot
// is not available any more: the driver has seen the push, or a front-end has used
// that slot (givenback.go), and what has not come back is in the ring as it was.
//
// # Which driver's it is
//
// A guest that boots anew while nobody serves it has its ring set up anew, and
// its front-end keeps the region of before. Like a journal's, the device of a
// region leaves a mark in its event suppression area, which such a driver zeroes.
// Another back-end leaves anything there, so the mark counts only for positions
// that were written here: they have a sign in the padding behind them, which is
// of these positions and is stored with them. A back-end that moves on writes the
// positions alone, and the sign is none any more. A region gets its sign when the
// mark is there, so at every moment it has no sign or its ring has the mark.
//
// What the front-end was told ends a region, too, see [Inflight.Forget].

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
	// Recover has New go on from what the region says, if anybody has used it and
	// it is of this driver, whatever Config.Resume and Config.Journal say.
	Recover bool
}

var errInflight = errors.New("virtqueue: the inflight region makes no sense")

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
// in flight the next ones. It reports errNewDriver, and has changed nothing, when
// the region is of a driver that p has no more. It can be killed anywhere and done again: chains
// stop being in flight from the youngest on, so those that are left are laid out
// where they are, and those that are not wait behind them.
func (f *Inflight) recover(p *packed) error {
	g, err := f.left()
	if err != nil {
		return err
	}
	is, was, err := g.place(p)
	if err != nil {
		return err
	}
	if is.ours && !p.available(p.positionOf(was.pos)) {
		if err := g.leftOf(p, &is, was); err != nil {
			return err
		}
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
	g.layOutAll(p, flights, is.ours)
	for _, chain := range slices.Backward(flights) {
		g.land(chain.entries[0])
	}
	return nil
}

// leftOf makes is the place behind a push of this back-end from was, of which the
// first chain is not available any more: that of the first one that is. None is to
// be laid out: those that have not come back are in the ring as they were.
func (g region) leftOf(p *packed, is *place, was place) error {
	free, err := g.list(was.free)
	if err != nil {
		return err
	}
	flights, err := g.flights(p, free)
	if err != nil {
		return err
	}
	if len(flights) > 0 && flights[0].entries[0] != 0 {
		flights = nil // the push was over: who lands the oldest first leaves the end of it
	}
	chains := make([]uint32, len(flights))
	for i, f := range flights {
		chains[i] = uint32(len(f.entries))
	}
	is.pos = p.offWrap(p.behind(p.positionOf(was.pos), p.positionOf(is.pos), chains))
	// The place of before says which chains were of the push, until this one counts.
	is.free = 0
	g.storeUsed(is.pos, was.pos, true)
	return nil
}

// layOutAll makes chains available from where p stands on, the last slot first: if
// a front-end uses the first one amid that, those behind it that are used already
// are still the first ones. Those of a push of this back-end were there, so they are
// restored as they were, used ones too: what a front-end has used is found again.
func (g region) layOutAll(p *packed, flights []flight, ours bool) {
	pos := p.nextUsed
	for _, chain := range flights {
		pos = p.add(pos, uint32(len(chain.entries)))
	}
	for _, chain := range slices.Backward(flights) {
		for i, e := range slices.Backward(chain.entries) {
			pos = p.sub(pos, 1)
			meta := bits.RotateLeft64(g.Load64(at(e, entryMeta)), 32)
			if !ours {
				meta = p.availableMeta(pos, meta, i+1 < len(chain.entries))
			}
			slot := descSize * p.slot(pos)
			p.ring.Store64(slot, g.Load64(at(e, entryAddr)))
			p.ring.Store64(slot+packedLen, meta)
		}
	}
}

// availableMeta is meta, the second word of a descriptor, as it is at pos when the
// driver has made it available there, with more behind it or not.
func (p *packed) availableMeta(pos uint32, meta uint64, more bool) uint64 {
	meta = meta&^((wordAvailUsed|flagNext<<16)<<32) | uint64(p.availableAs(pos))<<32
	if more {
		meta |= flagNext << 48
	}
	return meta
}

// begin makes f the region of p, which stands where it is to go on, with nothing
// in flight. One that says so already, or has told where, does at every moment.
func (f *Inflight) begin(p *packed, told bool) {
	g, pos := f.region(), p.offWrap(p.nextUsed)
	is, _, err := g.place(p)
	if err == nil && (told || is.pos == pos) {
		is.pos = pos
		g.settle(is)
	} else {
		is.ours = false
		g.Store16(regionVersion, 0)
		g.Store64(regionFeatures, 0)
	}
	for i := g.entries; i > 0; i-- { // the youngest first, as in recover
		g.Store64(at(i-1, entryHead), uint64(i)<<16)
	}
	g.settle(place{0, pos, is.ours})
	g.Store16(regionSize, uint16(g.entries))
	g.Store16(regionVersion, regionVersion1)
	p.keep = keep{memory: f.Memory, mark: regionMark, tracks: true, region: g, file: f.Map}
	p.kicksOff() // leaves the mark
	g.storeUsed(pos, pos, true)
}

// Forget ends what the region says: the front-end was told that the ring stands
// at told. Nothing is in flight in the region then, and it counts as one that
// nobody has used. The ring's Queue is suspended. It is called inside a Guard.
func (f *Inflight) Forget(told State) {
	if f.Memory.Load16(regionVersion) == 0 {
		return
	}
	g := f.region()
	g.settle(place{0, told.Used, true})
	for i := range g.entries {
		g.land(i)
	}
	g.Store16(regionVersion, 0)
}

// track enters what is about to be pushed: the oldest chains of t, which occupy
// so many slots.
func (k *keep) track(p *packed, t *taker, used []Used, slots uint32) {
	defer k.cutShort(t.mem)
	g, from, to := k.region, p.offWrap(p.nextUsed), p.offWrap(p.add(p.nextUsed, slots))
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
	g.storeUsed(to, from, true)                // if the driver can see it
}

// landed follows the push of chains in so many slots, behind which p stands.
func (k *keep) landed(p *packed, t *taker, slots uint32) {
	defer k.cutShort(t.mem)
	for i := slots; i > 0; i-- { // those that are left begin where the push did
		k.region.land(i - 1)
	}
	k.region.settle(place{0, p.offWrap(p.nextUsed), true})
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
