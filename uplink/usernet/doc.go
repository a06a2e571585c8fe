// Package usernet is a network that needs no privileges, as a port of the switch:
// guests reach what this process reaches, as if it had opened the connections
// itself.
//
//	guests -> vswitch -> Deliver --+-- TCP -----> stack (gVisor) -> relay -> socket
//	                               |
//	                               +-- the rest -> inbox -> flows, ARP, echo -> socket
//
//	guests <- vswitch <- Forward <- Task <- outbound <-+- stack <- relay <- socket
//	                                                   +- flows ---------- socket
//
// A [Network] is the gateway of the guests' network, which has one IPv4 and one
// IPv6 prefix. TCP connections end in a TCP stack, and a relay carries their bytes
// to a socket of the host; packets of 64 KiB cross it whole, as virtio_net_hdr and
// the stack's GSO say the same. UDP and ping have one connected socket each, and
// never see the stack. The gateway's addresses are the host's loopback, if
// Options.Host says so.
//
// # Who runs
//
// Deliver, on a worker, copies a frame out of its sender's memory and puts it
// down: a TCP packet in the stack, whose goroutines go on with it, any other in the
// inbox of its guest, of which one goroutine takes from each guest in turn. What
// anybody has to say to a guest goes into one bounded queue that a Task of a worker
// empties into the switch. No goroutine of this package calls the switch.
//
// # What a guest can cost
//
// Limits go by the port of the switch that a frame came by, which cannot be
// forged, and hold for each guest and for all: addresses, open connections, SYNs
// that are not answered, flows, frames that wait. What is beyond a limit is
// dropped, or refused where the protocol has a word for it, and counted in
// [Snapshot]. An address belongs to the guest that used it first, as long as that
// one uses it.
package usernet
