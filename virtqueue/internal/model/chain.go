package model

// Fault is the set of rules that a ring breaks at the first place where it
// breaks one.
type Fault uint32

// The rules, with the sections that have them.
const (
	FaultIndex        Fault = 1 << iota // more is made available than the ring can hold (2.7.13, 2.8.1)
	FaultHead                           // a head is not an entry of the descriptor table (2.7.6)
	FaultNext                           // a next is not an entry of its table (2.7.5)
	FaultLoop                           // a list longer than its table (2.7.5.3.1, 2.8.17)
	FaultTooLong                        // a list longer than the device allows (2.7.4.1, 2.8.17)
	FaultDirection                      // device-readable behind device-writable (2.7.4.2, 2.8.17)
	FaultUnnegotiated                   // INDIRECT without the feature (2.7.5.3.1, 2.8.19)
	FaultIndirectNext                   // INDIRECT in a list linked by NEXT (2.7.5.3.1, 2.8.19)
	FaultNested                         // INDIRECT in an indirect table (2.7.5.3.1)
	FaultTable                          // a table that is not 16 times 1 to Config.MaxChain bytes (2.7.5.3, 2.8.7)
	FaultTableAddress                   // a table that is not in one region
	FaultUnmapped                       // an element that is not in the guest's memory
	FaultTotal                          // a chain of more bytes than the device allows, at most 2^32-1 (2.7.5.2)
	FaultOwner                          // the owner returned what it did not take next
)

// Span is a piece of guest memory.
type Span struct{ Addr, Len uint64 }

// Chain is what the device takes out of the ring: the bytes it may read and
// those it may write. Neighbours are one Span.
type Chain struct {
	ID                       uint16 // split: the head; packed: the buffer id
	Readable, Writable       []Span
	ReadableLen, WritableLen uint64
	Pieces                   int // regions that elements lie in, each element for itself

	descriptors int  // that tell of an element
	slots       int  // of a packed ring that it takes
	writing     bool // a device-writable element was seen
}

// reset makes c empty and keeps its arrays.
func (c *Chain) reset() {
	*c = Chain{Readable: c.Readable[:0], Writable: c.Writable[:0]}
}

// element adds one element of the buffer, and says which rules it breaks. An
// element of no bytes is one: nothing forbids it.
func (c *Chain) element(d *Device, addr uint64, length uint32, writable bool) (f Fault) {
	if c.writing && !writable {
		f |= FaultDirection
	}
	c.writing = c.writing || writable
	if c.descriptors++; c.descriptors > d.cfg.MaxChain {
		f |= FaultTooLong
	}
	n := uint64(length)
	if n == 0 {
		return f
	}
	if c.ReadableLen+c.WritableLen+n > d.cfg.MaxBytes {
		f |= FaultTotal
	}
	pieces := d.mem.Pieces(addr, n)
	if pieces == 0 {
		f |= FaultUnmapped
	}
	if c.Pieces += pieces; c.Pieces > d.cfg.MaxPieces {
		f |= FaultTooLong
	}
	if writable {
		c.Writable = join(c.Writable, Span{addr, n})
		c.WritableLen += n
	} else {
		c.Readable = join(c.Readable, Span{addr, n})
		c.ReadableLen += n
	}
	return f
}

// join appends s, or makes the last Span longer when s follows it.
func join(list []Span, s Span) []Span {
	if n := len(list); n > 0 && list[n-1].Addr+list[n-1].Len == s.Addr {
		list[n-1].Len += s.Len
		return list
	}
	return append(list, s)
}

// table says which rules the reference to an indirect table breaks.
func (d *Device) table(addr uint64, length uint32) (f Fault) {
	if !d.cfg.Indirect {
		f |= FaultUnnegotiated
	}
	if length == 0 || length%16 != 0 || int(length/16) > d.cfg.MaxChain {
		f |= FaultTable
	}
	if length > 0 && d.mem.Pieces(addr, uint64(length)) != 1 {
		f |= FaultTableAddress
	}
	return f
}
