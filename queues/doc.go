// Package queues gives frames to virtual machines: it is the VMQ manager of a
// switch, in the terms of NDIS, and the receive side of virtio-net, in the terms
// of virtio. It knows rings and packets; it does not know who forwards (the
// switch) nor who set the rings up (the session).
//
// # VMQ in a page
//
// A network card for virtual machines (NDIS: one with virtual machine queues)
// sorts received frames by their destination address, and by VLAN, into one
// queue for each VM, before the host's software looks at them. Whoever manages
// VMs does this, in this order, by requests to the card's driver:
//
//	ALLOCATE_QUEUE               a queue for the VM: an id, nothing else yet
//	SET_FILTER                   frames to this address, in this VLAN, are its
//	QUEUE_ALLOCATION_COMPLETE    all queues of a batch are known: now take memory
//	    ... frames arrive in the VM's queue; filters come and go ...
//	CLEAR_FILTER                 until there is none: the queue pauses
//	FREE_QUEUE                   stop writing, say so, wait for packets, free
//
// What no queue's filter claims, and VMs for which no queue is left, go by the
// default queue, number 0, which is always there. This package is such a card,
// in software: the requests are methods, frames come from a switch instead of a
// wire, and the memory of a VM's queue is the VM's own.
//
// # The types
//
//	             Adapter            one per switch: ids, queue 0, life cycle
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
// The [Adapter] owns the queues. Queue 0 is its own: its memory is there from
// [NewAdapter] to [Adapter.Halt]. It is never allocated nor freed, and serves
// every frame that no filter claims, and every NIC for which no queue was left.
//
// A [Binding] is one who asks: a session, the control API. The OID_RECEIVE_FILTER_*
// requests of NDIS that change something are its methods, because what one
// Binding owns no other changes. What only tells is the Adapter's:
//
//	ALLOCATE_QUEUE              Binding.AllocateQueue
//	QUEUE_ALLOCATION_COMPLETE   Binding.CompleteAllocation
//	SET_FILTER                  Binding.SetFilter, SetFilterParameters, SetDefaultFilter
//	CLEAR_FILTER, MOVE_FILTER   Binding.ClearFilter, MoveFilter
//	QUEUE_PARAMETERS            Adapter.GetQueueParameters, Binding.SetQueueParameters
//	FREE_QUEUE                  Binding.FreeQueue
//	ENUM_QUEUES                 Adapter.EnumQueues, QueuesInto; Binding.EnumOwnQueues
//	ENUM_FILTERS, PARAMETERS    Adapter.EnumFilters, FiltersInto, FilterParametersOf
//	capabilities                Adapter.HardwareCapabilities, CurrentCapabilities, GlobalParameters
//
// Each error carries a [Status] of NDIS ([StatusOf]).
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
// The forwarding table has the filters of Running queues. FreeQueue takes the
// queue away from the NIC, lets every worker pass a safe point, so that nobody is
// inside a delivery that still saw it, tells EventDMAStopped once, waits until
// the packets are back that somebody holds ([Adapter.Holder]), frees the memory,
// and only then is the id free for somebody else. ClearFilter of the last filter
// waits for the bursts that are under way, MoveFilter for the workers, the others
// for nothing.
//
// The adapter has states, too (adapterstate.go): NewAdapter ends Paused, where
// verbs are taken and no frame passes; Restart and Pause go between Paused and
// Running; Halt ends a paused one.
//
// # Affinity
//
// A queue lives on a worker: the one that carries what its guest sends. With
// QueueParameters.Affinity somebody chooses it; without, a [Balancer] may
// (dynamic VMQ): all queues begin on a home worker, spread when that has too much
// to do, and fold back.
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
//	placeStraight  frames at the head of the batch that go as they are into one
//	               buffer each get theirs: most (straight.go)
//	gather         those behind become units: a frame as it is, or the complete
//	               frames that it is softened into for this driver
//	place          chains are popped and given to the units, in avail order
//	copyFrames     virtio_net_hdr and the one copy of each frame, from guest to guest
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
// Deliver and NoteSent are a worker's. The methods of Adapter and Binding may be
// called from any goroutine that is no worker. A NIC's other methods are for one
// goroutine at a time, its session's; each returns when no worker uses what it
// took away. Locks are taken in the order adapter, NIC or ring, and none is
// held while an indication is made or a worker is waited for.
package queues
