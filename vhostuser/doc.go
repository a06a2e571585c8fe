// Package vhostuser is the back-end's half of the vhost-user protocol: a
// socket on which virtual machine monitors (front-ends) hand over their
// guest's memory and rings, and a session that turns what they say into calls
// of a [Device]. It knows nothing of what travels in the rings.
//
// # The way of a message
//
//	socket -> conn.next -> session.handle -> dispatch -> a handler of requests.go,
//	                          |                          ring.go or memory.go
//	                          |-> settle: rings that are complete now start
//	                          '-> one reply, an acknowledgement, or nothing
//
// A [Server] outlives its front-ends and serves one at a time; the state of
// one front-end is a session, and is gone with it. All of a session runs on
// one goroutine, so a Device is never called concurrently.
//
// # The life of a ring
//
// A ring is two independent things, enabled or not and one of
//
//	           size, addresses, kick and features
//	           have come, in whatever order        .---------.
//	+---------+ ---------------------------------> | running | <---.
//	| stopped |                                    +---------+     | remade: other memory,
//	+---------+ <--- GET_VRING_BASE, RESET_DEVICE ----'  |  '------' kick, call or err
//	  ^     |                                            |
//	  |     | its memory is not there,                   | its memory is taken away,
//	  |     | or the ring makes no sense                 v or it changes while disabled
//	  |     '------------------------------------> +--------+
//	  '------- GET_VRING_BASE, RESET_DEVICE ------ | parked | -- memory, addresses, kick or size
//	                                               +--------+    change while enabled: tried again
//
// Enabling is kept in every state. A ring starts when its kick descriptor
// arrives, not when it is kicked: after a reconnect nobody may ever kick it.
// Memory can change under a running ring; the ring is then remade from its own
// position, over the addresses that the front-end gave once. A ring whose
// memory goes away is parked, and goes on where it was when the memory comes
// back. So is a ring that is to be remade while it is disabled: remaking it
// would write to its memory, which may not be a ring any more. It goes on when
// it is enabled.
//
// What makes no sense in a running ring is found by its Queue and is the
// Device's affair: the session does not notice, and a new start heals it.
//
// # What is refused, and how
//
// A request that is malformed, unknown, belongs to a protocol feature that is
// not offered, or cannot be done, changes nothing and its descriptors are
// closed. If it carries NEED_REPLY the front-end gets an acknowledgement that
// is not 0, and the session goes on. If it does not, or if it is one that has
// a reply of its own, which cannot say no, the session ends: going on would
// leave the two ends with different ideas of the state. A ring that cannot run
// is no such case: without NEED_REPLY its err event tells, and the session
// goes on. After a header that cannot begin a request (another version,
// reserved flags, more than [MaxPayload] bytes), more than [MaxFDs]
// descriptors, or a message that stops in its middle, the session ends always.
//
// A ring that runs and is enabled can have its size, base and addresses
// changed, and the driver's features, only after it has been stopped or
// disabled. One that runs and is disabled is stopped by a new size or new
// features, and moves by new addresses.
//
// The end of a session stops every ring, tells the device, closes every
// descriptor and unmaps every byte, and only then closes the connection.
package vhostuser
