// Package netdev is the virtio-net device: it joins a vhost-user session to
// the packet's way.
//
//	vhostuser.Session --drives--> Device --+-- txRing (a worker.Task): chains -> Lists -> vswitch.Forward
//	                                       +-- queues.NIC (a vswitch.Port): Lists -> receive rings
//	                                       +-- the VMQ verbs of queues.Adapter
//
// A Device belongs to one port. It outlives sessions: without a front-end its
// NIC drops what is sent to it.
package netdev
