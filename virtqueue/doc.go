// Package virtqueue is the device side of virtqueues over memory shared with
// a guest, in both formats: split rings (virtio 1.3, section 2.7) and packed
// rings (section 2.8). Who uses a [Queue] need not know which one it is.
//
// A split ring is three arrays in guest memory. The driver owns two, the device
// one:
//
//	         descriptor table               avail ring (driver writes)
//	       +------+-----+-------+------+    +-------+-----+---+---+---+
//	0      | addr | len | flags | next |<---| flags | idx | 0 | 3 | . | ... used_event
//	1      | ...                       |    +-------+-----+---+---+---+
//	2      | ...                       |    used ring (device writes)
//	3      | addr | len | NEXT  |  7   |    +-------+-----+-------+-------+
//	...                                     | flags | idx | id,len| id,len| ... avail_event
//	7      | addr | len | WRITE |      |    +-------+-----+-------+-------+
//
// A chain of descriptors is one request: first the bytes that the device
// reads, then the bytes that it writes. Its first descriptor, the head, names
// it. Both idx count for ever, modulo 65536.
//
// A packed ring is one array that both write, and two words beside it that say
// who wants to be notified when:
//
//	       descriptor ring                    flags of a slot, w the wrap counter
//	     +------+-----+----+-------+          available  AVAIL = w, USED = not w
//	0    | addr | len | id | flags |          used       AVAIL = w, USED = w
//	1    | addr | len | id | NEXT  |--+
//	2    | addr | len | id | flags |<-+       driver's event area: off_wrap, flags
//	...                                       device's event area: off_wrap, flags
//
// A chain takes slots one behind the other and is named by the id in its last
// one. The device writes one used descriptor into the chain's first slot. Each
// side's wrap counter starts at 1 and flips when the side comes by the ring's
// end, so a slot's two bits tell in which lap they were written.
//
// # The ten steps of a transfer
//
// They are told for a split ring. In a packed one the flags of a chain's first
// slot are what the indices are here: written last, with release, and read
// first, with acquire.
//
//  1. The driver writes the descriptors of a chain.
//  2. It writes the head into the next slot of the avail ring.
//  3. It publishes avail.idx, with release.
//  4. It fences, looks whether the device wants to be woken, and if so writes
//     the kick descriptor.
//  5. [Queue.Pop] reads avail.idx, with acquire, then heads and descriptors,
//     each word once, and answers with [Chain]s of Blocks. It reads no payload.
//  6. The owner reads and writes the payload through the Blocks.
//  7. [Queue.Push] writes one used entry per chain,
//  8. publishes used.idx, with release; in a packed ring the flags of the first
//     used descriptor of the batch, so that all of it is seen at once,
//  9. fences, looks whether the driver wants to be called, and says so; the
//     owner writes the call descriptor when it holds no lock any more.
//  10. The driver reads used.idx, with acquire, and has its chains back.
//
// # Theory of operation
//
// The driver may write any byte at any time. So every word that it owns is
// read once, into a local; the local is checked and used. What the device owns
// (the used ring, avail_event, its event area) is never read back, except
// used.idx once, when a split ring starts, and the event area once, when a packed
// ring is to go on from its [Journal]. A chain becomes Blocks, windows that were checked against the
// guest's memory, before anybody sees it.
//
// Chains come back in the order in which they were popped, always. Then
// avail position - chains taken = used position, which is why a ring can be
// left and taken up again ([Queue.Suspend], Config.Resume) with one number,
// why a new device finds its place in used.idx, and why IN_ORDER costs
// nothing. A driver with IN_ORDER takes one used entry for a whole batch, too.
// It gets that in a packed ring for chains that were only read
// ([Queue.PushRead]); receive buffers need their lengths.
//
// The walk through a chain and its checks (order, direction, containment, total
// length, number of steps) exist once (take.go); how a table leads from one
// descriptor to the next is all that a format says to it (table.go). What else
// the formats do differently is behind one seam (ring.go) that is crossed once
// per batch.
//
// There are three answers to what is in a ring. Empty: Pop returns 0.
// Malformed: the chain is well-formed but its content is not; that is the
// owner's affair, who pushes the chain and counts. Broken: the ring itself
// makes no sense (an index out of range, a loop, an address outside the
// guest's memory); the first such finding is kept as a [BrokenError], the owner
// signals the err descriptor once ([Queue.TakeErr]), and Pop gives the same
// answer until the ring is started anew, with a new Queue.
//
// # Notifications
//
// While somebody polls a ring its kicks are off: from [New] on until
// [Queue.Arm], and again from the first Pop that finds something. Without
// EVENT_IDX that is a flag, written in the same 32-bit word as used.idx; with
// it, avail_event simply stays where the driver has already passed. In a packed
// ring the device's event area says DISABLE.
//
// Neither side may sleep on a stale look at the other. Whoever publishes an
// index and then reads the other's wish, and whoever writes a wish and then
// reads the other's index again, puts a full fence in between (notify.go names
// each pair).
//
// # Faults
//
// A front-end can take memory away under a running ring; touching it then is a
// run-time panic in the goroutine that asked for it ([sharedmem.Guard],
// [sharedmem.GuardThread]). So New, Pop, Push, Arm and Ready are called inside
// a Guard; Unpop, Suspend, Close, Break and the accessors touch no guest
// memory and may be called anywhere. A Queue stays consistent over a fault:
//
//   - Pop moves its positions after its last access. After a fault nothing has
//     been taken.
//   - Push moves its positions right behind the store of used.idx. After a
//     fault the chains were either pushed or are still taken, and
//     [Queue.Suspend] tells the true position in both cases.
//   - Arm may have asked for kicks or not.
//
// The owner then calls [Queue.Break]: a ring without memory has no future.
package virtqueue
