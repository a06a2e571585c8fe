package nbl

import "vhostnet/sharedmem"

// Theory of operation.
//
// Most packets are one NET_BUFFER over one chain, on their way from a guest to
// a guest within one call. A List is made for them: its NET_BUFFER lies in it,
// and what every stage looks at fills its first cache line to the last byte.
// Measured, one more word in front of the private header costs each packet a
// few per cent. So everything that only some packets have lies beside the List
// and is reached by a pointer in its last line, which the List's reset writes
// anyway: packets without it pay one compare with nil.

// more is what a List has that did not come straight from a chain.
type more struct {
	holder *Holder           // keeps it, or would; guards held and queue
	held   bool              // it is out
	queue  sharedmem.QueueID // of which queue it is out
}

// reset forgets what was said of the packet before.
func (*more) reset() {}
