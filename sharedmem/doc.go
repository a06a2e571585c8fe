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
// NDIS, the network driver interface of Windows, has a way to share memory
// between a NIC and virtual machines that is worth imitating: nobody maps
// anything for himself. Who needs memory says for which queue, for what usage
// and how much of it, and gets four things back.
//
//	Parameters                         Allocation
//	+----------------+                 +------------------------------------+
//	| Queue, Usage   |  Allocator and  | VA      Blocks: the memory         |
//	| Length, Flags  | --------------> | SG      where each Block lies      |
//	| Node           |  its Provider   | Handle  for packets that refer to  |
//	+----------------+                 |         it; frees nothing          |
//	                                   | AllocationHandle  frees it, once   |
//	                                   +------------------------------------+
//
// An [Allocator] checks the request, asks its [Provider], checks the answer,
// and accounts for it under (queue, usage), exactly: every account returns to
// zero, and a leak names its owner when the Allocator is closed. The two
// handles are two types, because who sees packets must not be able to free the
// memory under them.
//
// There are two Providers, and a program can bring its own. That of
// [NewHostAllocator] gives out bytes of an arena of this process: of a NUMA
// node if one is preferred, in several pieces if the arena is full of small
// holes and [Contiguous] was not asked for. That of [NewGuestAllocator] gives
// out views: a guest's memory is the guest's, so receive and transmit buffers
// are the whole Map, twice, each counted; what is counted is what the queue may
// touch, not what was taken from the system. A guest that gets more memory gets
// a new Map, an Allocator over it, and its views anew.
//
// A queue's memory is allocated when QUEUE_ALLOCATION_COMPLETE is asked for,
// grows while the queue lives, and is freed inside FREE_QUEUE; queue 0's lives
// from initialize to halt (package queues; docs/ndis.md lists what is claimed,
// and the tests).
package sharedmem
