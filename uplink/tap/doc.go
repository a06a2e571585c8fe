// Package tap joins a TAP device to the switch: the host's kernel becomes one
// more station, or, with the device in a bridge, the network behind it.
//
//	worker --visits--> queue: read -> nbl.Source -> vswitch.Forward
//	vswitch --Deliver--> Uplink: CopyOut -> write
//
// Frames keep their offloads both ways: a 64 KiB TCP frame of a guest is one
// write, and one of the kernel is one read. With several queues the kernel
// spreads flows over them, and each is a Task of a worker of its own; a worker
// writes to the queue of its index.
//
// The kernel takes a frame at once or not at all. What it does not take is
// dropped and counted, as it would be on a full queue of any interface: nobody
// waits for it. A device that is deleted ends the Uplink's work, is told once,
// and disturbs nobody else.
package tap
