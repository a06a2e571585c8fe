package virtqueue

import (
	"errors"
	"fmt"
)

// ErrSuspended is the answer of a Queue after [Queue.Suspend] or [Queue.Close].
var ErrSuspended = errors.New("virtqueue: the ring was suspended; a new Queue continues it")

// Reason says what was wrong with a ring.
type Reason uint8

// The reasons for which a ring is broken, in the order in which Pop meets them.
const (
	ReasonOwner         Reason = iota // the owner called Break; see BrokenError.Err
	ReasonAvailIndex                  // avail.idx is further ahead than the ring is long, or behind
	ReasonOverrun                     // a slot is available again whose chain was not given back
	ReasonHead                        // a head is not a descriptor of the ring
	ReasonNext                        // a next is not a descriptor of its table
	ReasonLoop                        // more descriptors in a row than the table has
	ReasonTooLong                     // more descriptors, or pieces of memory, than a chain may have
	ReasonDirection                   // a readable descriptor behind a writable one
	ReasonUnnegotiated                // an indirect descriptor without INDIRECT_DESC
	ReasonIndirectNext                // an indirect descriptor with a next
	ReasonIndirectChain               // an indirect descriptor in a chain of a packed ring
	ReasonNested                      // an indirect descriptor in an indirect table of a split ring
	ReasonTable                       // an indirect table of an impossible length
	ReasonTableAddress                // an indirect table that is not inside one region of the guest's memory
	ReasonUnmapped                    // a buffer that is not wholly inside the guest's memory
	ReasonTotal                       // a chain of more bytes than one may have
	ReasonPush                        // the owner returned a chain that was not the next one taken
)

// sentences say each Reason with the Values of its BrokenError.
var sentences = [...]string{
	ReasonAvailIndex:    "avail.idx is %[1]d entries ahead of the device, where %[2]d are possible",
	ReasonOverrun:       "slot %[1]d is made available while its chain is with the device; the ring's %[2]d slots are all taken",
	ReasonHead:          "head %[1]d is not below the ring's size, %[2]d",
	ReasonNext:          "next %[1]d is not below the table's size, %[2]d",
	ReasonLoop:          "a chain has more descriptors than its table of %[1]d: it runs in a circle",
	ReasonTooLong:       "a chain needs more than %[1]d descriptors or %[2]d pieces of memory",
	ReasonDirection:     "the readable descriptor for address %#[1]x, %[2]d bytes, follows a writable one",
	ReasonUnnegotiated:  "an indirect table at address %#[1]x, %[2]d bytes, but INDIRECT_DESC was not accepted",
	ReasonIndirectNext:  "the descriptor of the indirect table at address %#[1]x, %[2]d bytes, has a next",
	ReasonIndirectChain: "the descriptor of the indirect table at address %#[1]x, %[2]d bytes, is not alone in its chain",
	ReasonNested:        "an indirect table at address %#[1]x, %[2]d bytes, inside an indirect table",
	ReasonTable:         "an indirect table of %[1]d bytes; it must be a multiple of 16, from 16 to %[2]d",
	ReasonTableAddress:  "an indirect table at address %#[1]x, %[2]d bytes, is not inside one region of the guest's memory",
	ReasonUnmapped:      "a buffer at address %#[1]x, %[2]d bytes, is not wholly inside the guest's memory",
	ReasonTotal:         "a chain of %[1]d bytes; at most %[2]d are possible",
	ReasonPush:          "chain %[1]d was given back, but the next one taken is chain %[2]d (65536: none)",
}

// BrokenError says why a ring is broken. The ring stays so; a new Queue heals
// it when the driver has set its ring up again.
type BrokenError struct {
	Ring     int       // Config.Index
	Reason   Reason    // what was found
	Position uint16    // the avail position at which it was found, as in [State]
	Values   [2]uint64 // the numbers in the Reason's sentence
	Err      error     // for ReasonOwner: what Break was given
}

// broken makes the error for what was found; [Queue.fail] adds where.
//
//go:noinline
func broken(r Reason, a, b uint64) error {
	return &BrokenError{Reason: r, Values: [2]uint64{a, b}}
}

// Error says which ring, where, and what was found where what is possible.
func (e *BrokenError) Error() string {
	what := fmt.Sprint(e.Err)
	if e.Reason != ReasonOwner && int(e.Reason) < len(sentences) {
		what = fmt.Sprintf(sentences[e.Reason], e.Values[0], e.Values[1])
	}
	return fmt.Sprintf("virtqueue: ring %d is broken at avail position %d: %s", e.Ring, e.Position, what)
}

// Unwrap is the error that Break was given.
func (e *BrokenError) Unwrap() error { return e.Err }
