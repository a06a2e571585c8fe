package virtqueue

import "vhostnet/sharedmem"

// Flags of a descriptor, the same in both formats.
const (
	flagNext     = 1
	flagWrite    = 2
	flagIndirect = 4
)

// descSize is the length of a descriptor in both formats, bytes.
const descSize = 16

// descriptor is one descriptor as two words of the machine: the address, and
// len | flags<<32 | x<<48, where x is next in a split ring and the buffer id
// in a packed one. It is a private copy; guest memory has no say about it any
// longer.
type descriptor struct{ addr, meta uint64 }

// metaLen is the part of meta that is len; metaComplex are the flags that make
// a descriptor more than one buffer.
const (
	metaLen     = 1<<32 - 1
	metaWrite   = flagWrite << 32
	metaComplex = (flagNext | flagIndirect) << 32
)

func (d descriptor) len() uint32   { return uint32(d.meta) }
func (d descriptor) flags() uint16 { return uint16(d.meta >> 32) }
func (d descriptor) next() uint16  { return uint16(d.meta >> 48) }
func (d descriptor) id() uint16    { return uint16(d.meta >> 48) }

// loadSplit reads entry i of a table whose descriptors are laid out as in a
// split ring (virtio 1.3, section 2.7.5), each word once. The caller has
// checked i against the table's size.
func loadSplit(b sharedmem.Block, i uint32) descriptor {
	return descriptor{b.Load64(descSize * i), b.Load64(descSize*i + 8)}
}

// loadPacked is the same for descriptors laid out as in a packed ring
// (virtio 1.3, section 2.8.13): id comes before flags.
func loadPacked(b sharedmem.Block, i uint32) descriptor {
	return packedDescriptor(b.Load64(descSize*i), b.Load32(descSize*i+8), b.Load32(descSize*i+12))
}

// packedDescriptor joins the words of a packed descriptor; idFlags is id |
// flags<<16.
func packedDescriptor(addr uint64, length, idFlags uint32) descriptor {
	return descriptor{addr, uint64(length) | uint64(idFlags>>16)<<32 | uint64(idFlags&0xffff)<<48}
}

// order says how a table leads from one descriptor to the next.
type order uint8

const (
	chained     order = iota // by NEXT and next: the split format, in the ring and in indirect tables
	consecutive              // by NEXT to the entry behind: the packed ring
	listed                   // all entries one after the other: the packed format's indirect table
)

// table is where a walk reads a chain's descriptors, and how far it has come.
type table struct {
	block  sharedmem.Block
	size   uint32 // entries
	limit  uint32 // of them, those that one chain may have
	order  order
	nested bool // it is an indirect table

	at    uint32 // the entry that the walk stands at
	steps uint32 // entries that it has read, with that one
	last  descriptor
}

// refer is the indirect table of n entries in b, in the format of t.
func (t *table) refer(b sharedmem.Block, n uint32) table {
	o := chained
	if t.order == consecutive {
		o = listed
	}
	return table{block: b, size: n, limit: n, order: o, nested: true, steps: 1}
}

// load reads the entry that the walk stands at.
func (t *table) load() descriptor {
	if t.order == chained {
		return loadSplit(t.block, t.at)
	}
	t.last = loadPacked(t.block, t.at)
	return t.last
}

// step goes on from d, the descriptor just read, and reports whether there is
// another one.
func (t *table) step(d descriptor) (more bool, err error) {
	next := t.at + 1
	switch t.order {
	case listed: // NEXT means nothing (virtio 1.3, section 2.8.7)
		if next == t.size {
			return false, nil
		}
	case consecutive:
		if d.flags()&flagNext == 0 {
			return false, nil
		}
		if next == t.size {
			next = 0
		}
	case chained:
		if d.flags()&flagNext == 0 {
			return false, nil
		}
		if next = uint32(d.next()); next >= t.size {
			return false, broken(ReasonNext, uint64(next), uint64(t.size))
		}
	}
	if t.steps == t.limit {
		return false, broken(ReasonLoop, uint64(t.limit), 0)
	}
	t.at = next
	t.steps++
	return true, nil
}
