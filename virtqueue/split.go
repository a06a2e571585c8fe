package virtqueue

import (
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// Offsets and sizes of the split ring, bytes (virtio 1.3, sections 2.7.6,
// 2.7.8).
const (
	availRing = 4 // behind flags 2, idx 2
	availSize = 2 // head
	usedRing  = 4 // behind flags 2, idx 2
	usedSize  = 8 // id 4, len 4
	eventSize = 2 // used_event, avail_event
)

// Flags of the split ring.
const (
	availNoInterrupt = 1 // avail.flags: the driver wants no calls
	usedNoNotify     = 1 // used.flags: the device wants no kicks
)

// split is a split ring (virtio 1.3, section 2.7): its words, and where the
// device stands in it. Go has no 16-bit atomics, so both indices are accessed
// as part of an aligned 32-bit word, see [sharedmem.Block].
type split struct {
	table       table           // the descriptors, for a walk
	pairs       sharedmem.Pairs // the same as words
	avail, used sharedmem.Block

	size          uint32 // entries, a power of two
	mask          uint32 // size - 1
	eventIdx      bool
	notifyOnEmpty bool

	nextAvail uint16 // the next entry of the avail ring to take
	nextUsed  uint16 // the next entry of the used ring to write
	flags     uint16 // used.flags as published

	// avail.idx lies at offset 2 of a ring that is only 2-aligned: it is the
	// upper half of the word that starts the ring (idxOff 0, idxShift 16) or
	// the lower half of the word that starts at idx (2, 0), whose other half
	// is ring[0].
	idxOff   uint32
	idxShift uint8

	usedEvent  uint32 // offset in avail
	availEvent uint32 // offset in used

	fence uint32 // for [sharedmem.Fence]
}

// newSplit lays the views over a ring that Config.check has accepted.
func newSplit(c *Config) split {
	s := split{
		table: table{block: c.Desc, size: uint32(c.Size), limit: uint32(c.Size), order: chained},
		pairs: c.Desc.Pairs(), avail: c.Avail, used: c.Used,
		size: uint32(c.Size), mask: uint32(c.Size) - 1,
		eventIdx:      c.Features.Has(virtio.EventIdx),
		notifyOnEmpty: c.Features&(virtio.NotifyOnEmpty|virtio.Version1) == virtio.NotifyOnEmpty, // a legacy driver's
		idxShift:      16,
		usedEvent:     availRing + availSize*uint32(c.Size),
		availEvent:    usedRing + usedSize*uint32(c.Size),
	}
	if !c.Avail.Aligned(0, 4) {
		s.idxOff, s.idxShift = 2, 0
	}
	return s
}

// start finds the ring's place: that of r, or the used.idx in memory.
func (s *split) start(r *State) {
	if r != nil {
		s.nextAvail, s.nextUsed = r.Avail, r.Used
		return
	}
	s.nextUsed = s.usedIdx()
	s.nextAvail = s.nextUsed
}

// availIdx reads avail.idx. What the driver wrote before it published the
// index is seen by reads that follow: pairs with its release store.
func (s *split) availIdx() uint16 {
	return uint16(s.avail.LoadAcquire32(s.idxOff) >> s.idxShift)
}

// usedIdx reads used.idx, which only the ring's start does.
func (s *split) usedIdx() uint16 { return uint16(s.used.LoadAcquire32(0) >> 16) }

// publish stores used.idx together with used.flags, which the device owns too.
// The used entries and the payload written before are seen by the driver that
// reads the index: pairs with its acquire load.
func (s *split) publish() {
	s.used.StoreRelease32(0, uint32(s.nextUsed)<<16|uint32(s.flags))
}

func (s *split) ready(t *taker) (int, error) {
	// A driver cannot own more entries than there are descriptors, and those
	// taken are not its own. An index behind ours is far ahead, modulo 65536.
	ahead, room := uint32(s.availIdx()-s.nextAvail), s.size-t.count()
	if ahead > room {
		return 0, broken(ReasonAvailIndex, uint64(ahead), uint64(room))
	}
	return int(ahead), nil
}

// gather takes plain chains run by run, and each other chain by a walk.
func (s *split) gather(t *taker, dst []Chain) (n, arena int, err error) {
	arena = t.used()
	ready, err := s.ready(t)
	if err != nil {
		return 0, arena, err
	}
	dst = dst[:min(ready, len(dst))]
	for n < len(dst) {
		plain, why, head, d := s.run(t, dst[n:], uint32(n))
		n += plain
		switch why {
		case runHead:
			return n, arena, broken(ReasonHead, uint64(head), uint64(s.size))
		case runWalk:
			s.table.at = uint32(head)
			if arena, err = t.walk(&dst[n], d, &s.table, arena); err != nil {
				return n, arena, err
			}
			dst[n].Head = head
			t.note(uint32(n), takenChain(head, 1))
			n++
		case runFull, runEmpty: // the next run is elsewhere in memory
		}
	}
	return n, arena, nil
}

// run takes chains of one buffer whose entries in the avail ring lie one behind
// the other, as the chains behind the taken ones by behind. head and d are the
// chain that is to be walked, read already.
func (s *split) run(t *taker, dst []Chain, behind uint32) (n int, why runEnd, head uint16, d descriptor) {
	at, note := (uint32(s.nextAvail)+behind)&s.mask, (t.last+behind)&t.mask
	dst = dst[:min(uint32(len(dst)), uint32(len(t.fifo))-note, s.size-at)]
	fifo, avail, desc, window, slow := t.fifo[note:][:len(dst)], s.avail, s.pairs, t.window, t.slow
	for i := range dst {
		head = avail.Load16(availRing + availSize*(at+uint32(i)))
		if uint64(head) >= desc.Len() {
			return i, runHead, head, d
		}
		addr, meta := desc.LoadFirst(uint64(head)), desc.LoadSecond(uint64(head))
		c := &dst[i]
		if meta&slow != 0 || !window.Holds(addr, uint64(uint32(meta))) {
			return i, runWalk, head, descriptor{addr, meta}
		}
		c.setOne(head, window.At(addr, uint64(uint32(meta))), meta&metaWrite != 0)
		fifo[i] = takenChain(head, 1)
	}
	return len(dst), runFull, head, d
}

// push writes one used entry per chain, each with one 64-bit store; the driver
// does not look before used.idx is published.
func (s *split) push(used []Used) {
	ring, pos := s.used, uint32(s.nextUsed)
	for len(used) > 0 {
		at := pos & s.mask
		run := used[:min(uint32(len(used)), s.size-at)]
		for i, u := range run {
			ring.Store64(usedRing+usedSize*(at+uint32(i)), uint64(u.Len)<<32|uint64(u.Head))
		}
		pos += uint32(len(run))
		used = used[len(run):]
	}
	s.publishUsed(pos)
}

// publishUsed publishes pos as used.idx, and is there.
func (s *split) publishUsed(pos uint32) {
	// used.idx is published from a copy of the position: a fault in the store
	// leaves both the word and the position where they were.
	s.used.StoreRelease32(0, uint32(uint16(pos))<<16|uint32(s.flags))
	s.nextUsed = uint16(pos)
}

func (s *split) suspend() State {
	s.nextAvail = s.nextUsed
	return State{Avail: s.nextAvail, Used: s.nextUsed}
}
