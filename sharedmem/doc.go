// Package sharedmem is the only way to memory that somebody else may write
// while we read it: the memory that front-ends share with this process, and
// the arena of frames of its own.
//
// # Theory of operation
//
// A front-end sends file descriptors and says which guest addresses their
// bytes have. [OpenFile] turns a descriptor into a [File], after it has seen
// that it is memory: a page fault in any other file can hold this process for
// as long as the file's owner likes. [NewMap] turns a table of [Region]s into a
// [Map], after it has seen that every region is inside its file, overlaps no
// other, and is within the [Budget]. From here on, sizes and offsets are true,
// and nobody checks them again.
//
// A Map never changes. A guest whose memory changes gets a new Map; rings move
// to it one by one, each drops its reference to the old one, and the last
// reference unmaps it. There is no moment at which an address is half valid,
// and nothing on a packet's way takes a lock to look an address up.
//
//	reservation of address space, nothing accessible
//	|<- 2 MiB ->[ region 0 ]<- 2 MiB ->[  region 1  ]<- 2 MiB ->|
//
// All regions of a Map lie in one reservation with gaps around them. An offset
// that slips faults in a gap, and reaches no other guest's memory.
//
// Addresses become [Block]s, windows with bounds, in one of three ways: a
// [Window] remembers a region and answers inline, which is the fast path;
// [Map.Append] splits what crosses from one region to its neighbour;
// [Map.UserBlock] translates the addresses by which front-ends name rings. A
// Block's accessors check bounds and panic when our own code errs. What they
// return was chosen by the peer.
//
// # Faults
//
// Even a checked address can fault: the front-end cuts its file short, or the
// machine has no page left. Go ends the process for such a fault, unless the
// goroutine asked for a panic. So guest memory is touched inside [Guard], or
// on a worker that has called [GuardThread] and asks [AsFault] in its recover.
// Both tell a guest's fault from our own defects: the faulting address must
// lie in a region of a live Map, which names the guest to blame. A stale Block
// and an address in a gap lie in none, and the panic goes on.
//
// # Allocations
//
// An [Allocator] hands out memory the way NDIS does
// (NdisAllocateSharedMemory): for a queue, for a usage, under two handles, one
// that indications carry and one that frees. Guests' memory is handed out as
// views of a Map, the host's from an arena; both are accounted for by queue
// and usage, exactly, so that a leak names its owner.
package sharedmem
