package nbl

import "vhostnet/sharedmem"

// Theory of operation.
//
// Most packets are one NET_BUFFER over one chain, on their way from a guest to
// a guest within one call. A List is made for them: its NET_BUFFER lies in it,
// and what every stage looks at fills its first cache line to the last byte;
// one more word would push the private header over the border of its line. So
// everything that only some packets have lies beside the List and is reached by
// a pointer in its last line, which the List's reset writes anyway: packets
// without it pay one compare with nil.
//
// A List has one NET_BUFFER in it, whose place is the first of the chain. Those
// that follow are PoolBuffers, and lie in more; the List of a pool without
// NET_BUFFERs has its own switched off there. Headroom costs a Buffer nothing
// either: what lies before Offset is a number, and an MDL that a Retreat puts
// in front brings the slots of the new chain with it (headroom.go).

// more is what a List has that did not come straight from a chain.
type more struct {
	// Of a List of a Holder, guarded by it.
	holder *Holder
	held   bool              // it is out
	queue  sharedmem.QueueID // of which queue it is out

	// Of a List of NewPoolWith.
	pool    *Pool
	out     bool   // by an Allocate function
	state   uint8  // of a Source's List, guarded by it
	bare    bool   // its own NET_BUFFER is not there
	data    [1]MDL // memory of its own, empty without
	own     []byte // the same, if it is of the host's arena
	context []byte // of which the last bytes are taken
	taken   uint32

	extra  []*PoolBuffer // NET_BUFFERs behind its own
	parent *List         // it is derived from
	mdls   []MDL         // chain of a derived List; grown once, then kept
	info   extraInfo     // out-of-band information that virtio_net_hdr and frame do not hold
}

// reset forgets what was said of the packet before. What was chained, taken or
// derived stays until it is given back.
func (m *more) reset() { m.info = extraInfo{} }
