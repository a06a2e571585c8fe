package vhostuser

import (
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// Device is what stands behind a port: the rings' other end. A session drives
// it; the package doc draws the states.
//
// The calls are never concurrent, and they come from the session's goroutine,
// which may be another one for the next front-end. Every call returns when no
// thread uses the old state any more: what StopRing returned from is not
// written to again, and the session closes descriptors and unmaps memory
// relying on it. No call may wait for the network: a front-end, and with it
// its guest, stands still until the call returns.
//
// Guest memory is touched on a worker or inside [sharedmem.Guard] only; the
// session does nothing of the kind for the device.
type Device interface {
	// Features are the feature bits offered to the driver; the transport's
	// own bits are the session's. They do not change while a session lives.
	Features() virtio.Features

	// Rings is how many rings there are, 1 to 256; every index a front-end
	// sends is bounded by it, and GET_QUEUE_NUM answers it. It does not change.
	Rings() int

	// Negotiated says what the driver accepted, without the transport's bits
	// (26, 30). It comes before the first StartRing and again when the driver
	// changes, never while a ring runs.
	Negotiated(f virtio.Features)

	// Memory gives the guest memory that rings started or replaced from now on
	// lie in. The session holds a reference until it has given the next Map
	// and replaced every ring, or until Disconnected returned. A front-end may
	// take all its memory away; then m has no regions. On error the device keeps what
	// it had and the front-end's change is refused whole.
	Memory(m *sharedmem.Map) error

	// StartRing begins to serve ring i, which is not running, with q. The
	// device looks at the ring at once, without waiting for a kick. It owns q
	// from then on, except on error.
	StartRing(i int, q *virtqueue.Queue) error

	// ReplaceRing changes a running, enabled ring: at a point where nobody works on it
	// the device suspends its Queue, calls remake with the State, once, and
	// goes on with the Queue that remake made, ending with a call (a spurious
	// one is harmless, a lost one is not). When remake returns no Queue, or
	// when ReplaceRing returns an error, the ring is stopped, as after
	// StopRing; the device owns, and on error closes, what remake made.
	ReplaceRing(i int, remake func(virtqueue.State) (*virtqueue.Queue, error)) error

	// EnableRing is called when SET_VRING_ENABLE changes a ring's state, which
	// is independent of whether it runs and survives its stop. A ring that is
	// not enabled is left alone in memory, unless the device can tell that its
	// driver has given it up, and was not reset: what is in it may be given
	// back then. Rings are disabled at first and after Disconnected. Enabling
	// looks at the ring, as its kick may have been consumed while it was
	// disabled.
	EnableRing(i int, on bool)

	// StopRing ends the service of running ring i: what is taken and cannot be
	// finished at once is dropped, what is finished is published, and the
	// positions come back. Afterwards nothing is written and nobody called.
	StopRing(i int) virtqueue.State

	// Reset is RESET_DEVICE: rings are stopped and disabled already, the
	// device's own state goes back to the initial one, the memory stays.
	Reset()

	// Disconnected says that the front-end is gone; every ring has been
	// stopped. The device forgets everything that this front-end set and lets
	// go of its Map. It comes once per session.
	Disconnected()
}

// MTUSetter is a [Device] that can be told an MTU; only such a one offers the
// protocol feature MTU.
type MTUSetter interface {
	// SetMTU accepts or refuses the largest L3 packet in bytes, 68 to 65535.
	// Refusing keeps the device down in QEMU.
	SetMTU(mtu uint16) error
}

// Announcer is a [Device] that can announce its guest to the network; only
// such a one offers the protocol feature RARP.
type Announcer interface {
	// Announce sends a RARP frame for mac as if the guest had, after a
	// migration. It does not wait for the frame to be sent.
	Announce(mac [6]byte) error
}
