// Package queues gives frames to virtual machines: it is the VMQ manager of a
// switch, in the terms of NDIS, and the receive side of virtio-net, in the terms
// of virtio. It knows rings and packets; it does not know who forwards (the
// switch) nor who set the rings up (the session).
//
// # Three types
//
//	             Adapter            one per switch: verbs, ids, queue 0
//	            /       \
//	 Queue 1   /         \  Queue 2      a VM's VMQ state: filters, tagged memory
//	    |     /           \    |
//	  NIC "web"           NIC "db"       a device's receive rings; the switch's port
//	  |       |              |
//	rx ring  rx ring      rx ring        one per queue pair
//
// A [NIC] is what a session brings: the receive rings of one virtio-net device
// and what its driver accepted. It exists as long as the port does, before a
// driver came and after it left, and drops what it cannot deliver.
//
// A [Queue] is what the administration sees of it. It has an id from 1 up,
// filters (addresses whose frames are this VM's), and memory: the guest's
// memory is allocated under (queue, usage) and accounted for exactly, from
// QUEUE_ALLOCATION_COMPLETE to FREE_QUEUE. A queue is not a ring: a NIC with
// eight queue pairs has one Queue.
//
// The [Adapter] owns the queues. Its methods are the OID_RECEIVE_FILTER_*
// requests of NDIS. Queue 0 is the adapter's own: it is there from [NewAdapter]
// to [Adapter.Halt], is never allocated nor freed, and serves every frame that
// no filter claims, and every NIC for which no queue was left.
//
// # States
//
// A queue's verbs are valid in some of its states and refused in the others,
// without effect (state.go has the table):
//
//	AllocateQueue        Undefined -> Allocated
//	SetFilter            Allocated -> Set, Paused -> Running
//	CompleteAllocation   Set -> Running, Allocated -> Paused
//	ClearFilter          of the last: Running -> Paused, Set -> Allocated
//	FreeQueue            Paused or Allocated -> StopDMA -> Freeing -> Undefined
//
// FreeQueue is the only one that waits. It takes the queue away from the NIC,
// lets every worker pass a safe point, so that nobody is inside a delivery that
// still saw it, tells EventDMAStopped once, frees the memory, and only then is
// the id free for somebody else.
//
// # The delivery rule
//
// A frame says in nbl.List.QueueID by which way it comes:
//
//	the id of the NIC's own queue   a filter's frame; that queue must be Running
//	any other, above all 0          queue 0's way; queue 0 must be Running,
//	                                whatever the state of the NIC's own
//
// On both ways the ring must be started and enabled and have buffers, and both
// copy straight into it. A stale id, of a queue that was freed meanwhile, is as
// good as 0.
//
// # The burst
//
// [NIC.Deliver] runs on any number of workers at once, so a ring has a lock.
// It is taken by TryLock, never waited for, and held for one burst: at most 32
// frames, or 256 KiB. Inside it (burst.go):
//
//	gather         the head of the batch becomes units: a frame as it is, or the
//	               complete frames that it is softened into for this driver
//	place          chains are popped and given to the units, in avail order
//	writeHeaders   virtio_net_hdr of all units: the cache lines come meanwhile
//	copyFrames     the one copy of each frame, from guest to guest
//	publish        unused chains go back, used.idx moves once
//	settle         receive NBLs go back to the pool, outcomes are counted
//
// The call to the driver and any indication follow when the lock is released.
//
// Deliver accepts a prefix of its batch. What it accepted was delivered, or
// lost for a reason that no waiting would change, and was counted. The rest has
// no room now, or somebody else holds the lock: the switch decides how long its
// sender waits. A packet of which some segments are in the ring already is not
// accepted; its next delivery goes on behind them.
//
// A ring that makes no sense, or whose guest took its memory away, is broken:
// its frames are counted drops, its owner is told once by EventBroken, and
// everybody else goes on. When it is the sender's memory that is gone, nothing
// of the burst is published, the receiver's ring is as it was, and the fault
// goes on to the sender as a *sharedmem.FaultError.
//
// # Concurrency
//
// Deliver and NoteSent are a worker's. The verbs of the Adapter may be called
// from any goroutine that is no worker. A NIC's other methods are for one
// goroutine at a time, its session's; each returns when no worker uses what it
// took away. Locks are taken in the order adapter, NIC or ring, and none is
// held while an indication is made or a worker is waited for.
package queues
