package vutest

import (
	"context"
	"fmt"
	"slices"

	"vhostnet/vhostuser"
	"vhostnet/virtio"
)

// QEMU has a vhost device per queue pair, all on one socket. It remembers the
// connection and sends again what it needs again: memory only as differences,
// features once per pair.

// qemuFeatures are those of the device that the back-end has a say in; the
// control queue, MAC and status are QEMU's own and never in SET_FEATURES.
const qemuFeatures = offloads | virtio.NetMTU | virtio.NetMrgRxBuf | virtio.NetGuestAnnounce | virtio.NetMQ |
	virtio.NotifyOnEmpty | virtio.AnyLayout | virtio.IndirectDesc | virtio.EventIdx | virtio.Version1 | virtio.RingPacked | virtio.RingReset

// qemuAcked want an acknowledgement from every version.
var qemuAcked = []vhostuser.Request{
	vhostuser.SetMemTable, vhostuser.AddMemReg, vhostuser.RemMemReg, vhostuser.NetSetMTU,
}

var qemu10 = kind{
	name:     "qemu-10.0",
	protocol: (1<<20 - 1) &^ vhostuser.ProtocolConfig,
	features: qemuFeatures | virtio.InOrder, // with in_order=on
	layout:   layoutQEMU,
	legacy:   true,
	acked:    anyOf(append(qemuAcked, vhostuser.SetVringEnable)...),
	barrier:  true,
	base:     qemuBase,
	connect:  (*FrontEnd).qemuConnect,
	start:    (*FrontEnd).qemuStart,
	stop: func(f *FrontEnd, ctx context.Context) error {
		if err := f.each(ctx, f.getVringBase); err != nil {
			return err
		}
		if f.protocol.Has(vhostuser.ProtocolStatus) {
			return f.tell(ctx, vhostuser.SetStatus, vhostuser.U64(0).Marshal())
		}
		return nil
	},
	usePairs: (*FrontEnd).enableInUse,
	memory:   (*FrontEnd).qemuMemory,
}

var qemu72 = kind{
	name:     "qemu-7.2",
	protocol: (1<<17 - 1) &^ vhostuser.ProtocolConfig,
	features: qemuFeatures,
	layout:   layoutQEMU,
	legacy:   true,
	acked:    anyOf(qemuAcked...),
	base:     qemuBase,
	connect:  (*FrontEnd).qemuConnect,
	start:    (*FrontEnd).qemuStart,
	stop: func(f *FrontEnd, ctx context.Context) error {
		return f.each(ctx, f.getVringBase)
	},
	usePairs: (*FrontEnd).enableInUse,
	memory:   (*FrontEnd).qemuMemory,
}

// qemuBase is what GET_VRING_BASE said, and after a back-end was lost what the
// used ring says. A packed ring has no such index, so QEMU says again what it
// knew last, however long ago.
func qemuBase(f *FrontEnd, r *ring) uint32 {
	if f.resumed && !f.accepted.Has(virtio.RingPacked) {
		return uint32(r.drv.UsedIdx())
	}
	return r.base
}

// enableInUse enables the pairs that the guest's MQ command names.
func (f *FrontEnd) enableInUse(ctx context.Context, n int) error {
	return f.enableFirst(ctx, n, len(f.rings)/2)
}

// qemuConnect is done for every pair of the NIC, whatever the guest will use.
func (f *FrontEnd) qemuConnect(ctx context.Context) error {
	for pair := range f.o.Pairs {
		if err := f.qemuConnectPair(ctx, pair); err != nil {
			return fmt.Errorf("pair %d: %w", pair, err)
		}
	}
	return nil
}

func (f *FrontEnd) qemuConnectPair(ctx context.Context, pair int) (err error) {
	if err := f.getFeatures(ctx); err != nil {
		return err
	}
	if err := f.negotiate(ctx, true); err != nil {
		return err
	}
	if pair == 0 {
		if err := f.getQueueNum(ctx); err != nil {
			return err
		}
	}
	if f.protocol.Has(vhostuser.ProtocolMemSlots) {
		if f.slots, err = f.askU64(ctx, vhostuser.GetMaxMemSlots); err != nil {
			return err
		}
	}
	if pair == 0 {
		if f.queues != 0 && f.queues < uint64(f.o.Pairs) {
			return fmt.Errorf("vutest: the back-end has %d queues, the NIC %d pairs", f.queues, f.o.Pairs)
		}
		if err := f.setOwner(ctx); err != nil {
			return err
		}
	}
	if err := f.getFeatures(ctx); err != nil {
		return err
	}
	for i := 2 * pair; i < 2*pair+2; i++ {
		if err := f.setEvent(ctx, vhostuser.SetVringCall, i, f.masked.event); err != nil {
			return err
		}
		if err := f.setEvent(ctx, vhostuser.SetVringErr, i, f.errs[i].event); err != nil {
			return err
		}
	}
	return nil
}

// qemuStart: a guest that boots resets the device first, which enables the
// first pair only; the others follow by the guest's MQ command.
func (f *FrontEnd) qemuStart(ctx context.Context) error {
	if f.active == 0 {
		if err := f.enableFirst(ctx, 1, f.o.Pairs); err != nil {
			return err
		}
		f.active = 1
	}
	if f.o.MTU != 0 && f.protocol.Has(vhostuser.ProtocolMTU) {
		if err := f.tell(ctx, vhostuser.NetSetMTU, vhostuser.U64(f.o.MTU).Marshal()); err != nil {
			return err
		}
	}
	if f.o.Inflight { // vhost_dev_prepare_inflight: behind features that are then sent again
		if err := f.setFeatures(ctx); err != nil {
			return err
		}
		if err := f.setInflight(ctx); err != nil {
			return err
		}
	}
	for pair := range len(f.rings) / 2 {
		if err := f.qemuStartPair(ctx, pair); err != nil {
			return fmt.Errorf("pair %d: %w", pair, err)
		}
	}
	if err := f.addStatus(ctx, statusAcknowledge|statusDriver|statusDriverOK); err != nil {
		return err
	}
	return f.usePairs(ctx, f.guest.Pairs)
}

func (f *FrontEnd) qemuStartPair(ctx context.Context, pair int) error {
	if pair < f.active {
		if err := f.enablePair(ctx, pair, true); err != nil {
			return err
		}
	}
	if err := f.setFeatures(ctx); err != nil {
		return err
	}
	if err := f.addStatus(ctx, statusFeaturesOK); err != nil {
		return err
	}
	if pair == 0 {
		if err := f.qemuMemory(ctx); err != nil {
			return err
		}
	}
	for _, r := range f.rings[2*pair : 2*pair+2] {
		for _, step := range []func(context.Context, *ring) error{
			f.setVringNum, f.setVringBase, f.setVringAddr, f.setVringKick, f.setVringCall,
		} {
			if err := step(ctx, r); err != nil {
				return fmt.Errorf("ring %d: %w", r.index, err)
			}
		}
	}
	return nil
}

// qemuMemory tells the memory: as differences when the back-end has slots for
// regions, otherwise whole.
func (f *FrontEnd) qemuMemory(ctx context.Context) error {
	if !f.protocol.Has(vhostuser.ProtocolMemSlots) {
		return f.setMemTable(ctx)
	}
	for _, old := range f.known {
		if !slices.Contains(f.mem.regions, old) {
			if err := f.remMemReg(ctx, old); err != nil {
				return err
			}
		}
	}
	for _, r := range f.mem.regions {
		if !slices.Contains(f.known, r) {
			if err := f.addMemReg(ctx, r); err != nil {
				return err
			}
		}
	}
	f.known = f.mem.regions
	return nil
}
