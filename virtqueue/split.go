package virtqueue

import "vhostnet/sharedmem"

// Offsets and sizes of the split ring, bytes (virtio 1.3, sections 2.7.5,
// 2.7.6, 2.7.8).
const (
	descSize  = 16 // addr 8, len 4, flags 2, next 2
	availRing = 4  // behind flags 2, idx 2
	availSize = 2  // head
	usedRing  = 4  // behind flags 2, idx 2
	usedSize  = 8  // id 4, len 4
	eventSize = 2  // used_event, avail_event
)

// Flags of the split ring.
const (
	flagNext     = 1
	flagWrite    = 2
	flagIndirect = 4

	availNoInterrupt = 1 // avail.flags: the driver wants no calls
	usedNoNotify     = 1 // used.flags: the device wants no kicks
)

// descriptor is one descriptor as two words of the machine: the address, and
// len | flags<<32 | next<<48. It is a private copy; guest memory has more to
// say about it no longer.
type descriptor struct{ addr, meta uint64 }

// metaLen is the part of meta that is len; metaComplex are the flags that make
// a descriptor more than one buffer.
const (
	metaLen     = 1<<32 - 1
	metaWrite   = flagWrite << 32
	metaComplex = (0xffff &^ flagWrite) << 32
)

func (d descriptor) len() uint32   { return uint32(d.meta) }
func (d descriptor) flags() uint16 { return uint16(d.meta >> 32) }
func (d descriptor) next() uint16  { return uint16(d.meta >> 48) }

// loadDescriptor reads entry i of a descriptor table, each word once. The
// caller has checked i against the table's size.
func loadDescriptor(table sharedmem.Block, i uint32) descriptor {
	return descriptor{table.Load64(descSize * i), table.Load64(descSize*i + 8)}
}

// split is the words of a split ring. Go has no 16-bit atomics, so both
// indices are accessed as part of an aligned 32-bit word, see
// [sharedmem.Block].
type split struct {
	desc, avail, used sharedmem.Block

	size uint32 // entries, a power of two
	mask uint32 // size - 1

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
		desc: c.Desc, avail: c.Avail, used: c.Used,
		size: uint32(c.Size), mask: uint32(c.Size) - 1,
		idxShift:   16,
		usedEvent:  availRing + availSize*uint32(c.Size),
		availEvent: usedRing + usedSize*uint32(c.Size),
	}
	if !c.Avail.Aligned(0, 4) {
		s.idxOff, s.idxShift = 2, 0
	}
	return s
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
func (s *split) publish(idx, flags uint16) {
	s.used.StoreRelease32(0, uint32(idx)<<16|uint32(flags))
}
