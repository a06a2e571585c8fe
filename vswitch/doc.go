// Package vswitch is the learning switch between ports: VMs' NICs, uplinks. It
// knows frames and ports, not rings and not front-ends.
//
//	             classify                              act
//	batch of   +-----------+   +-------+
//	one port   | admit     |   | table |        +--> flood      every other port, one Deliver each
//	---------> |   learn   +-->| (MAC, |        |
//	           | route     |<--+ VLAN) |  ------+--> unicast    one Deliver for each port of the batch
//	           +-----------+   +-------+        |      '-> hold   what was not accepted: Busy, or dropped
//	                 |                          +--> floodAgain ports that were short of room, once more
//	                 '--> dropped, counted for its sender
//
// [Switch.Forward] is these steps, for a batch, in straight loops. The worker
// that calls it copies the frames itself, inside the receiving [Port]'s
// Deliver: there is no queue between two ports, so there is nothing to bound.
//
// # Where a frame goes
//
// There is one table of exact addresses. Its entries are, in order of
// precedence: filters, set by [Steering] for the queues of VMs; static
// addresses, set by [Switch.AddStatic]; learned ones, from the sources of
// frames. A frame that hits a filter carries the filter's queue in QueueID; on
// every other way QueueID is 0.
//
//	destination                         the frame is
//	a port's address                    delivered to it
//	an address of the sender's port     dropped (hairpin)
//	unknown, multicast, broadcast       flooded to all other ports of its VLAN
//	a protected port's, from another    dropped (protected)
//	a VLAN that the sender is not in    dropped (vlan)
//	01:80:C2:00:00:00 to 0F             dropped (reserved), unless PortOptions.Transparent
//
// A frame whose source is zero or a group address is dropped: no station sends
// that, and Linux's bridge drops it too. A frame whose source is fixed to
// another port is forwarded, but it teaches nothing and is counted
// (ForeignSource): a guest cannot draw another's frames to itself while that
// one has a filter. Without filters it can, as on any switch; Moved counts it.
//
// The VLAN of a frame is part of the key: a station is known per VLAN. Which
// VLANs a port is in, and where their frames have tags, PortOptions.VLAN says
// (vlan.go); two VLANs never meet, nor do they meet ports that are in none.
// Protected ports exchange nothing with each other. A mirrored port's frames are
// copied to a sink (mirror.go).
//
// # What hostile guests can cost
//
// The table has a fixed size and a lookup reads a fixed number of its lines,
// however many addresses a guest invents; they displace its own first (table.go).
// Flooding has a budget for each Forward, in frames and in copied bytes
// (flood.go). A receiver that takes nothing makes its senders wait for
// PortOptions.Wait once, then loses its frames at once until it takes one again
// (backpressure.go). Nothing on this way allocates, logs or takes a lock that
// other ports take.
//
// # Concurrency
//
// Workers read a snapshot of the ports and the table without locks; what
// changes them (Attach, Detach, Forget, Steering) publishes before it returns.
// A detached port can still be inside a Deliver that began earlier: who detaches
// it waits for the workers to pass a safe point before freeing it.
package vswitch
