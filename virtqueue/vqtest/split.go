package vqtest

import (
	"fmt"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// Offsets in the rings, bytes (virtio 1.3, sections 2.7.6 and 2.7.8).
const (
	availRing = 4
	usedRing  = 4
)

// split is the driver side of a split ring.
type split struct {
	d                 *Driver
	desc, avail, used sharedmem.Block

	eventIdx   bool
	availFlags uint16
	availIdx   uint16   // behind the last chain posted
	published  uint16   // what the device was told
	usedIdx    uint16   // behind the last chain reaped
	first      uint16   // ring[0], which a shifted avail ring publishes with idx
	unused     []uint16 // descriptors, used first in, first out: IN_ORDER asks for it
}

func newSplit(d *Driver) *split {
	c := &d.cfg
	n := c.Lens()
	s := &split{
		d:        d,
		desc:     c.Mem.Sub(d.at.Desc, n.Desc),
		avail:    c.Mem.Sub(d.at.Avail, n.Avail),
		used:     c.Mem.Sub(d.at.Used, n.Used),
		eventIdx: c.Features.Has(virtio.EventIdx),
		availIdx: c.Start, published: c.Start, usedIdx: c.Start,
	}
	for i := range c.Size {
		s.unused = append(s.unused, uint16(i))
	}
	s.storeAvailIdx(c.Start)
	s.used.StoreRelease32(0, uint32(c.Start)<<16)
	return s
}

func (s *split) free() int { return len(s.unused) }

func (s *split) reserve(entries int) (head uint16) {
	head = s.unused[0]
	c := &s.d.chains[head]
	*c = chain{state: reaped, entries: entries, desc: append(c.desc[:0], s.unused[:entries]...), bufs: c.bufs[:0]}
	s.unused = s.unused[entries:]
	return head
}

func (s *split) release(head uint16) { s.unused = append(s.unused, s.d.chains[head].desc...) }

// describe writes the chain's entries of the table, which stay as they are
// however often it is posted.
func (s *split) describe(c *chain) {
	for i := range c.entries {
		b, flags := c.entry(i)
		next := uint16(0)
		if i+1 < c.entries {
			flags, next = flags|FlagNext, c.desc[i+1]
		}
		s.d.SetDesc(c.desc[i], b.GPA, b.Len, flags, next)
	}
}

func (s *split) post(head uint16, _ *chain) {
	s.setAvailEntry(s.availIdx, head)
	s.availIdx++
}

func (s *split) publish() (kick bool) {
	old := s.published
	s.published = s.availIdx
	s.storeAvailIdx(s.availIdx)
	// The release store above and this acquire load are in order: pairs with
	// the device's fence between arming and its look at avail.idx.
	word := s.used.LoadAcquire32(0)
	if s.availIdx == old {
		return false
	}
	if s.eventIdx {
		return passed(s.availEvent(), s.availIdx, old)
	}
	return uint16(word)&1 == 0
}

// passed says whether an index that went from old to idx went past event
// (virtio 1.3, section 2.7.7.2).
func passed(event, idx, old uint16) bool { return idx-event-1 < idx-old }

func (s *split) next() (e usedEntry, err error) {
	ready := s.usedIndex() - s.usedIdx
	if int(ready) > s.d.cfg.Size {
		return e, fmt.Errorf("vqtest: used.idx is %d entries ahead, the ring has %d", ready, s.d.cfg.Size)
	}
	if ready == 0 {
		return e, nil
	}
	e.id, e.len = s.usedEntry(s.usedIdx)
	e.ready = int(ready)
	return e, nil
}

func (s *split) advance(*chain) { s.usedIdx++ }

func (s *split) returned() (chains int, idx uint16) {
	idx = s.usedIndex()
	return int(idx - s.usedIdx), idx
}

func (s *split) wantCalls() {
	if s.eventIdx {
		s.setUsedEvent(s.usedIdx)
	} else {
		s.setAvailFlags(0)
	}
}

func (s *split) noCalls() {
	if s.eventIdx {
		s.setUsedEvent(s.usedIdx - 1)
	} else {
		s.setAvailFlags(1)
	}
}

func (s *split) position() (avail, used uint16) { return s.availIdx, s.usedIdx }

// slot is the place of a free-running index in the ring.
func (s *split) slot(idx uint16) uint32 { return uint32(idx) % uint32(s.d.cfg.Size) }

func (s *split) setAvailEntry(idx, head uint16) {
	slot := s.slot(idx)
	if slot == 0 {
		s.first = head
	}
	s.avail.Store16(availRing+2*slot, head)
}

// storeAvailIdx stores avail.idx with release, in the aligned word that it
// shares: with the flags, or in a shifted ring with ring[0]. Pairs with the
// device's acquire load.
func (s *split) storeAvailIdx(idx uint16) {
	if s.d.cfg.ShiftAvail {
		s.avail.StoreRelease32(2, uint32(s.first)<<16|uint32(idx))
		return
	}
	s.avail.StoreRelease32(0, uint32(idx)<<16|uint32(s.availFlags))
}

func (s *split) setAvailFlags(flags uint16) {
	s.availFlags = flags
	s.avail.Store16(0, flags)
}

func (s *split) setUsedEvent(idx uint16) { s.avail.Store16(availRing+2*uint32(s.d.cfg.Size), idx) }

func (s *split) usedIndex() uint16 { return uint16(s.used.LoadAcquire32(0) >> 16) }

func (s *split) usedEntry(idx uint16) (id, length uint32) {
	slot := s.slot(idx)
	return s.used.Load32(usedRing + 8*slot), s.used.Load32(usedRing + 8*slot + 4)
}

func (s *split) availEvent() uint16 { return s.used.Load16(usedRing + 8*uint32(s.d.cfg.Size)) }
