// Package vutest is a vhost-user front-end for tests: a virtual machine without
// the machine. It speaks the same bytes to the same socket as QEMU, DPDK's
// virtio-user, Cloud Hypervisor, crosvm or libkrun do, in their order and with
// their peculiarities, shares memory files as they do, and drives the rings as
// a guest's driver would.
//
//	fe, err := vutest.Dial(path, vutest.Options{Kind: vutest.QEMU10})
//	features, err := fe.Start(ctx)          // the sequence up to running rings
//	err = fe.Send(0, vutest.Frame{Data: b}) // a frame from the guest
//	got, err := fe.Recv(0, time.Second)     // a frame to the guest
//	err = fe.Reboot(ctx, vutest.Guest{Without: virtio.NetMrgRxBuf})
//	err = fe.Close()
//
// The front-end is strict where real ones are: a reply has to come in one
// piece and with exact flags; a used entry has to name a chain that is
// outstanding, in order when IN_ORDER was accepted; bytes of a receive buffer
// behind the used length must be as they were. What it finds is an error of
// the call that found it.
//
// For a test that wants to misbehave, [FrontEnd.Request], [FrontEnd.SendRaw],
// [FrontEnd.Driver], [FrontEnd.Truncate] and others give access to every byte
// on the socket and in memory.
//
// # Concurrency
//
// Start, Stop, Reboot, Reconnect, Close and everything that sends messages are
// for one goroutine at a time. Send and Recv may run in other goroutines
// meanwhile, one per ring, but not while the guest's rings are made or ended
// (Start, Reboot, Close).
package vutest
