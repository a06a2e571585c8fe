package vutest

import (
	"errors"
	"fmt"
	"time"

	"vhostnet/vhostuser"
	"vhostnet/virtio"
)

// Options say what front-end is played and how its VM is made. The zero value
// of a field other than Kind means its default.
type Options struct {
	Kind  Kind  // required
	Guest Guest // what the first start boots

	// Pairs is how many queue pairs the VM's NIC has; default 1.
	Pairs int
	// MemorySize is the guest's memory in bytes, at least 4 MiB, a multiple of
	// 1 MiB; default 16 MiB.
	MemorySize uint64
	// Layout of the guest's memory in place of the kind's own; MemorySize is
	// not used then. Regions are multiples of 4096 bytes.
	Layout []Region
	// Truncatable memory files take no seals, so that Truncate works.
	Truncatable bool
	// MTU that QEMU announces to the back-end (host_mtu); default: none.
	MTU uint16
	// Inflight: QEMU asks for an inflight region, as it does for its block
	// devices. Cloud Hypervisor always does, and the others know of none.
	Inflight bool
	// ProtocolMask are protocol features that this front-end does not know.
	ProtocolMask vhostuser.Protocol
	// Through are features that this front-end lets through besides those of its
	// kind: what none does yet, such as UDP segmentation with QEMU.
	Through virtio.Features
	// Timeout bounds each wait for the back-end; default 5 s.
	Timeout time.Duration
}

// Guest is a driver as it boots.
type Guest struct {
	// Without are features that the driver does not accept. It accepts all
	// others that are offered, that its front-end lets through and whose
	// requirements are met.
	Without virtio.Features
	// Packed: its rings are packed. The back-end must offer RING_PACKED, and the
	// front-end let it through: both QEMUs and virtio-user.
	Packed bool
	// Legacy: its driver is older than virtio 1.0. It knows none of the features
	// from bit 32 up, its header has 10 bytes unless it merges buffers, and it
	// takes NOTIFY_ON_EMPTY and ANY_LAYOUT. Only QEMU has such guests.
	Legacy bool
	// Control: its driver uses the control queue although its front-end, crosvm
	// or libkrun, forwards it; see [FrontEnd.Control]. Without it such a guest
	// has no feature that needs one, and so one queue pair. The other
	// front-ends serve the queue themselves, and it means nothing.
	Control bool
	// Pairs is how many queue pairs it uses; default: as many as there are if
	// it accepts MQ, otherwise 1.
	Pairs int
	// RingSize is the entries of each ring, a power of two unless they are
	// packed; default 256.
	RingSize int
	// RxBuffer is the size of a receive buffer in bytes, the header included.
	// Default: what Linux posts: 1536 when buffers can be merged; otherwise the
	// longest frame that can come, over as many descriptors as it needs.
	RxBuffer int
	// RxBuffers is how many receive buffers are posted; default: as many as
	// the ring takes.
	RxBuffers int
	// NoVector rings have no interrupt: SET_VRING_CALL says that there is none,
	// and the driver polls. libkrun has its one event for all rings anyway.
	NoVector bool
}

const (
	defaultTimeout  = 5 * time.Second
	defaultRingSize = 256
	maxRingSize     = 32768
)

// fill checks o and fills in the defaults.
func (o Options) fill() (Options, *kind, error) {
	k, err := kindOf(o.Kind)
	if err != nil {
		return o, nil, err
	}
	if o.Pairs == 0 {
		o.Pairs = 1
	}
	if o.MemorySize == 0 {
		o.MemorySize = defaultSize
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	switch {
	case o.Pairs < 0:
		return o, nil, fmt.Errorf("vutest: %d queue pairs; a NIC has at least 1", o.Pairs)
	case o.MemorySize < leastSize || o.MemorySize%leastZone != 0 || o.MemorySize > maxSize:
		return o, nil, fmt.Errorf("vutest: guest memory of %d bytes; %d to %d in steps of %d are possible", o.MemorySize, leastSize, maxSize, leastZone)
	case o.Inflight && o.Kind != QEMU10 && o.Kind != QEMU72 && o.Kind != CloudHypervisor:
		return o, nil, fmt.Errorf("vutest: %s with an inflight region, which it does not know", k.name)
	case o.Timeout < 0:
		return o, nil, fmt.Errorf("vutest: timeout of %v; a wait must be bounded", o.Timeout)
	}
	if o.Layout == nil {
		o.Layout = k.layout(o.MemorySize)
	}
	for _, r := range o.Layout {
		if r.Size == 0 || r.Size%pageSize != 0 || r.Offset%pageSize != 0 || r.File < 0 {
			return o, nil, fmt.Errorf("vutest: region %+v; sizes and offsets are multiples of %d, files count from 0", r, pageSize)
		}
	}
	return o, k, nil
}

// fill checks g and fills in the defaults of a NIC with pairs queue pairs.
func (g Guest) fill(pairs int) (Guest, error) {
	if g.Pairs == 0 {
		g.Pairs = pairs
	}
	if g.RingSize == 0 {
		g.RingSize = defaultRingSize
	}
	switch {
	case g.Pairs < 0 || g.Pairs > pairs:
		return g, fmt.Errorf("vutest: a guest with %d queue pairs of a NIC that has %d", g.Pairs, pairs)
	case g.RingSize < 1 || g.RingSize > maxRingSize || !g.Packed && g.RingSize&(g.RingSize-1) != 0:
		return g, fmt.Errorf("vutest: rings of %d entries (packed: %t); 1 to %d are possible, in split rings powers of two", g.RingSize, g.Packed, maxRingSize)
	case g.Packed && g.Legacy:
		return g, errors.New("vutest: a legacy guest with packed rings; they came with virtio 1.1")
	case g.RxBuffer < 0 || g.RxBuffers < 0:
		return g, fmt.Errorf("vutest: %d receive buffers of %d bytes; neither can be negative", g.RxBuffers, g.RxBuffer)
	}
	return g, nil
}
