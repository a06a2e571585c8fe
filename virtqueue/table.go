package virtqueue

import (
	"math/bits"

	"vhostnet/sharedmem"
)

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

// loadSplit reads entry i of a table in the split format (virtio 1.3, section
// 2.7.5), each word once. The caller has checked i against the table's size.
func loadSplit(b sharedmem.Block, i uint32) descriptor {
	return descriptor{b.Load64(descSize * i), b.Load64(descSize*i + 8)}
}

// packedDescriptor joins the words of a descriptor in the packed format, in
// which id comes before flags (virtio 1.3, section 2.8.13): word is len |
// id<<32 | flags<<48.
func packedDescriptor(addr, word uint64) descriptor {
	return descriptor{addr, word&metaLen | uint64(bits.RotateLeft32(uint32(word>>32), 16))<<32}
}

// order says how a table leads from one descriptor to the next.
type order uint8

const (
	chained     order = iota // by NEXT and next: the split format, in the ring and in indirect tables
	consecutive              // by NEXT to the entry behind: the packed ring
	listed                   // all entries one after the other: the packed format's indirect table
)

// load reads entry i of a table of this order, each word once.
func (o order) load(b sharedmem.Block, i uint32) descriptor {
	d := loadSplit(b, i)
	if o == chained {
		return d
	}
	return packedDescriptor(d.addr, d.meta)
}

// next is the entry behind d, which is entry i of a table of size entries;
// more is false when d is the last of its chain. A chained entry may be out of
// the table.
func (o order) next(d descriptor, i, size uint32) (next uint32, more bool) {
	next, more = i+1, d.flags()&flagNext != 0
	switch o {
	case chained:
		next = uint32(d.next())
	case consecutive:
		if next == size {
			next = 0
		}
	case listed: // NEXT means nothing (virtio 1.3, section 2.8.7)
		more = next < size
	}
	return next, more
}

// inTable is the order of the indirect tables of a ring of this order.
func (o order) inTable() order {
	if o == chained {
		return chained
	}
	return listed
}

// table is a ring's descriptors, and where in them the chain begins that is to
// be walked. The walk leaves in it how the chain ends there.
type table struct {
	block sharedmem.Block
	size  uint32 // entries
	order order

	at    uint32 // the chain's first entry
	limit uint32 // entries that it may have

	slots uint32 // entries of the ring that the chain has
	id    uint16 // of the last of them, in a packed ring
}
