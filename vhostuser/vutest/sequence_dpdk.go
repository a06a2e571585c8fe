package vutest

import (
	"context"

	"vhostnet/vhostuser"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// virtioUser is DPDK's: a process that is its own guest. It never asks for the
// number of queues and has no use for events of errors.
var virtioUser = kind{
	name:     "virtio-user",
	protocol: vhostuser.ProtocolMQ | vhostuser.ProtocolReplyAck | vhostuser.ProtocolStatus,
	features: virtio.NetMQ | virtio.NetCsum | virtio.NetGuestCsum |
		virtio.NetHostTSO4 | virtio.NetHostTSO6 | virtio.NetGuestTSO4 | virtio.NetGuestTSO6 |
		virtio.NetMrgRxBuf | virtio.IndirectDesc | virtio.InOrder | virtio.Version1 | virtio.RingPacked | virtio.OrderPlatform,
	layout: layoutDPDK,
	acked:  anyOf(vhostuser.SetMemTable, vhostuser.SetStatus),
	resets: true,
	// Always 0 for a split ring, also when it goes on. Of a packed ring only the
	// half of the avail position is set.
	base: func(f *FrontEnd, _ *ring) uint32 {
		if f.accepted.Has(virtio.RingPacked) {
			return vqtest.WrapBit
		}
		return 0
	},
	connect:  (*FrontEnd).dpdkConnect,
	start:    (*FrontEnd).dpdkStart,
	stop:     (*FrontEnd).dpdkStop,
	usePairs: (*FrontEnd).enableInUse,
	memory:   (*FrontEnd).dpdkMemory,
}

func (f *FrontEnd) dpdkConnect(ctx context.Context) error {
	if err := f.setOwner(ctx); err != nil {
		return err
	}
	if err := f.getFeatures(ctx); err != nil {
		return err
	}
	return f.negotiate(ctx, true)
}

func (f *FrontEnd) dpdkStart(ctx context.Context) error {
	if err := f.each(ctx, f.setVringCall); err != nil {
		return err
	}
	if err := f.setFeatures(ctx); err != nil {
		return err
	}
	status := uint64(statusAcknowledge | statusDriver | statusFeaturesOK)
	if err := f.dpdkStatus(ctx, status); err != nil {
		return err
	}
	if f.protocol.Has(vhostuser.ProtocolStatus) {
		if _, err := f.askU64(ctx, vhostuser.GetStatus); err != nil {
			return err
		}
	}
	if err := f.setMemTable(ctx); err != nil {
		return err
	}
	if err := f.each(ctx, f.setVringNum, f.setVringBase, f.setVringAddr, f.setVringKick); err != nil {
		return err
	}
	if err := f.enablePair(ctx, 0, true); err != nil {
		return err
	}
	f.active = 1
	if err := f.dpdkStatus(ctx, status|statusDriverOK); err != nil {
		return err
	}
	return f.usePairs(ctx, f.guest.Pairs)
}

func (f *FrontEnd) dpdkStatus(ctx context.Context, status uint64) error {
	if !f.protocol.Has(vhostuser.ProtocolStatus) {
		return nil
	}
	return f.tell(ctx, vhostuser.SetStatus, vhostuser.U64(status).Marshal())
}

func (f *FrontEnd) dpdkStop(ctx context.Context) error {
	if err := f.enableFirst(ctx, 0, len(f.rings)/2); err != nil {
		return err
	}
	return f.each(ctx, f.getVringBase)
}

// dpdkMemory: memory that DPDK plugs in is told while the pairs in use are
// disabled.
func (f *FrontEnd) dpdkMemory(ctx context.Context) error {
	if err := f.enableFirst(ctx, 0, f.active); err != nil {
		return err
	}
	if err := f.setMemTable(ctx); err != nil {
		return err
	}
	return f.enableFirst(ctx, f.active, f.active)
}
