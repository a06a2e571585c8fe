package vutest

import (
	"context"

	"vhostnet/vhostuser"
	"vhostnet/virtio"
)

// The front-ends on rust-vmm's crates. Their rings are enabled when the device
// is, whatever the guest says by the control queue.

// cloudHypervisor wants every message acknowledged, and sends the avail index
// of the moment as base, so that whoever believes it skips the buffers that
// were posted before.
var cloudHypervisor = kind{
	name: "cloud-hypervisor",
	protocol: vhostuser.ProtocolMQ | vhostuser.ProtocolMemSlots | vhostuser.ProtocolReplyAck | vhostuser.ProtocolInflight |
		vhostuser.ProtocolLogShmFD | vhostuser.ProtocolDeviceState | vhostuser.ProtocolConfig,
	features: offloads | virtio.NetMrgRxBuf | virtio.NetCtrlVQ | virtio.NetGuestAnnounce | virtio.NetMAC | virtio.NetMTU |
		virtio.NetMQ | virtio.IndirectDesc | virtio.EventIdx | virtio.Version1 | virtio.InOrder | virtio.OrderPlatform,
	layout:   layoutZones,
	acked:    func(vhostuser.Request) bool { return true },
	base:     func(_ *FrontEnd, r *ring) uint32 { return uint32(r.drv.AvailIdx()) },
	connect:  (*FrontEnd).chvConnect,
	start:    (*FrontEnd).chvStart,
	stop:     (*FrontEnd).disableAndStop,
	usePairs: func(*FrontEnd, context.Context, int) error { return nil },
	memory:   (*FrontEnd).chvMemory,
}

// crosvm negotiates REPLY_ACK and asks for no acknowledgement. It forwards the
// control queue.
var crosvm = kind{
	name: "crosvm",
	protocol: vhostuser.ProtocolConfig | vhostuser.ProtocolMQ | vhostuser.ProtocolBackendReq |
		vhostuser.ProtocolDeviceState | vhostuser.ProtocolReplyAck,
	features: 1<<24 - 1 | virtio.Version1 | virtio.EventIdx,
	forwards: true,
	layout:   layoutSplit,
	acked:    anyOf(),
	base:     func(_ *FrontEnd, r *ring) uint32 { return r.base },
	connect:  (*FrontEnd).crosvmConnect,
	start:    (*FrontEnd).crosvmStart,
	stop:     (*FrontEnd).disableAndStop,
	usePairs: (*FrontEnd).commandPairs,
	memory:   (*FrontEnd).setMemTable,
}

// libkrun sends SET_OWNER when the guest is ready and not before, SET_FEATURES
// behind the memory, and resets by disabling alone: the next start finds rings
// that were never stopped. It forwards the control queue, too.
var libkrun = kind{
	name:     "libkrun",
	protocol: vhostuser.ProtocolConfig | vhostuser.ProtocolMQ,
	features: ^(virtio.RingPacked | virtio.LogAll | virtio.ProtocolFeatures | virtio.AccessPlatform),
	forwards: true,
	layout:   layoutFiles,
	oneCall:  true,
	acked:    anyOf(),
	base:     func(*FrontEnd, *ring) uint32 { return 0 },
	connect:  (*FrontEnd).krunConnect,
	start:    (*FrontEnd).krunStart,
	stop: func(f *FrontEnd, ctx context.Context) error {
		if err := f.each(ctx, func(ctx context.Context, r *ring) error {
			return f.setEnable(ctx, r.index, false)
		}); err != nil {
			return err
		}
		// libkrun does not wait, so that its guests can see a late write. A
		// test has to know when there are none.
		return f.Barrier(ctx)
	},
	usePairs: (*FrontEnd).commandPairs,
	memory:   (*FrontEnd).setMemTable,
}

// chvConnect: a second connection does not ask for the protocol features
// again.
func (f *FrontEnd) chvConnect(ctx context.Context) error {
	if err := f.setOwner(ctx); err != nil {
		return err
	}
	if err := f.getFeatures(ctx); err != nil {
		return err
	}
	if err := f.negotiate(ctx, !f.resumed); err != nil {
		return err
	}
	if f.resumed {
		return nil
	}
	return f.getQueueNum(ctx)
}

func (f *FrontEnd) chvStart(ctx context.Context) error {
	if err := f.setFeatures(ctx); err != nil {
		return err
	}
	if err := f.setMemTable(ctx); err != nil {
		return err
	}
	if err := f.each(ctx, f.setVringNum); err != nil {
		return err
	}
	if err := f.setInflight(ctx); err != nil {
		return err
	}
	if err := f.each(ctx, f.setVringAddr, f.setVringBase, f.chvCall, f.setVringKick); err != nil {
		return err
	}
	return f.enableAll(ctx)
}

// chvCall: a queue without a vector gets no SET_VRING_CALL at all.
func (f *FrontEnd) chvCall(ctx context.Context, r *ring) error {
	if r.call.Load() == nil {
		return nil
	}
	return f.setVringCall(ctx, r)
}

// chvMemory: regions plugged in come one by one, on top of a SET_MEM_TABLE.
func (f *FrontEnd) chvMemory(ctx context.Context) error {
	if !f.protocol.Has(vhostuser.ProtocolMemSlots) {
		return f.setMemTable(ctx)
	}
	return f.qemuMemory(ctx)
}

// enableAll enables every ring of the guest.
func (f *FrontEnd) enableAll(ctx context.Context) error {
	f.active = len(f.rings) / 2
	return f.enableFirst(ctx, f.active, f.active)
}

func (f *FrontEnd) disableAndStop(ctx context.Context) error {
	return f.each(ctx, func(ctx context.Context, r *ring) error {
		return f.setEnable(ctx, r.index, false)
	}, f.getVringBase)
}

func (f *FrontEnd) crosvmConnect(ctx context.Context) error {
	if err := f.setOwner(ctx); err != nil {
		return err
	}
	if err := f.getFeatures(ctx); err != nil {
		return err
	}
	if err := f.negotiate(ctx, true); err != nil {
		return err
	}
	return f.getQueueNum(ctx)
}

// crosvmStart sends the features only when they are others than last time.
func (f *FrontEnd) crosvmStart(ctx context.Context) error {
	if f.told != f.accepted|virtio.ProtocolFeatures {
		if err := f.setFeatures(ctx); err != nil {
			return err
		}
	}
	if err := f.setMemTable(ctx); err != nil {
		return err
	}
	return f.forwardedStart(ctx, f.setVringNum, f.setVringAddr, f.setVringBase, f.setVringCall, f.setVringKick)
}

func (f *FrontEnd) krunConnect(ctx context.Context) error {
	if err := f.getFeatures(ctx); err != nil {
		return err
	}
	if err := f.negotiate(ctx, true); err != nil {
		return err
	}
	return f.getQueueNum(ctx)
}

func (f *FrontEnd) krunStart(ctx context.Context) error {
	if err := f.setOwner(ctx); err != nil {
		return err
	}
	if err := f.setMemTable(ctx); err != nil {
		return err
	}
	if err := f.setFeatures(ctx); err != nil {
		return err
	}
	return f.forwardedStart(ctx, f.setVringNum, f.setVringBase, f.setVringAddr, f.setVringKick, f.setVringCall)
}

// forwardedStart starts and enables every ring; the guest says by its control
// queue how many pairs it uses.
func (f *FrontEnd) forwardedStart(ctx context.Context, steps ...func(context.Context, *ring) error) error {
	f.active = len(f.rings) / 2
	steps = append(steps, func(ctx context.Context, r *ring) error { return f.setEnable(ctx, r.index, true) })
	if err := f.each(ctx, steps...); err != nil {
		return err
	}
	return f.usePairs(ctx, f.guest.Pairs)
}
