package vutest

import (
	"context"
	"errors"
	"fmt"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/virtio"
)

// The steps of which the sequences are made: one message each, or one topic.

func (f *FrontEnd) setOwner(ctx context.Context) error {
	return f.tell(ctx, vhostuser.SetOwner, nil)
}

func (f *FrontEnd) getFeatures(ctx context.Context) error {
	u, err := f.askU64(ctx, vhostuser.GetFeatures)
	f.offered = virtio.Features(u)
	return err
}

// negotiate takes the protocol features that are offered and known. ask is
// false for a front-end that remembers from an earlier connection what there
// is.
func (f *FrontEnd) negotiate(ctx context.Context, ask bool) error {
	if !f.offered.Has(virtio.ProtocolFeatures) {
		return errors.New("vutest: the back-end offers no protocol features (bit 30); nobody starts a net device without")
	}
	want := f.remembered
	if ask {
		u, err := f.askU64(ctx, vhostuser.GetProtocolFeatures)
		if err != nil {
			return err
		}
		want = vhostuser.Protocol(u) & f.kind.protocol &^ f.o.ProtocolMask
	}
	if err := f.tell(ctx, vhostuser.SetProtocolFeatures, vhostuser.U64(want).Marshal()); err != nil {
		return err
	}
	f.protocol, f.remembered = want, want
	return nil
}

func (f *FrontEnd) getQueueNum(ctx context.Context) (err error) {
	if f.protocol.Has(vhostuser.ProtocolMQ) {
		f.queues, err = f.askU64(ctx, vhostuser.GetQueueNum)
	}
	return err
}

// setFeatures sends what the driver accepted, and bit 30.
func (f *FrontEnd) setFeatures(ctx context.Context) error {
	want := f.accepted | virtio.ProtocolFeatures
	if f.log != nil {
		want |= virtio.LogAll
	}
	f.told = want
	return f.tell(ctx, vhostuser.SetFeatures, vhostuser.U64(want).Marshal())
}

// Bits of the device status (virtio 1.3, section 2.1).
const (
	statusAcknowledge = 1
	statusDriver      = 2
	statusDriverOK    = 4
	statusFeaturesOK  = 8
)

// addStatus sets bits of the status that are not set, as QEMU does: it asks
// first.
func (f *FrontEnd) addStatus(ctx context.Context, bits uint64) error {
	if !f.protocol.Has(vhostuser.ProtocolStatus) {
		return nil
	}
	now, err := f.askU64(ctx, vhostuser.GetStatus)
	if err != nil || now&bits == bits {
		return err
	}
	return f.tell(ctx, vhostuser.SetStatus, vhostuser.U64(now|bits).Marshal())
}

// setMemTable tells the whole memory.
func (f *FrontEnd) setMemTable(ctx context.Context) error {
	t, fds, err := f.mem.table()
	if err != nil {
		return err
	}
	defer sys.CloseAll(fds)
	f.known = f.mem.regions
	return f.tell(ctx, vhostuser.SetMemTable, t.Marshal(), fds...)
}

// setVringNum, setVringBase, ... tell the back-end one thing about a ring.

func (f *FrontEnd) setVringNum(ctx context.Context, r *ring) error {
	return f.tell(ctx, vhostuser.SetVringNum, vhostuser.VringState{Index: r.addr.Index, Num: uint32(r.size)}.Marshal())
}

func (f *FrontEnd) setVringBase(ctx context.Context, r *ring) error {
	var base uint32
	err := sharedmem.Guard(func() error {
		base = f.kind.base(f, r)
		return nil
	})
	if err != nil {
		return err
	}
	return f.tell(ctx, vhostuser.SetVringBase, vhostuser.VringState{Index: r.addr.Index, Num: base}.Marshal())
}

func (f *FrontEnd) setVringAddr(ctx context.Context, r *ring) error {
	a := r.addr
	if f.log == nil {
		a.Log = 0 // without AddrFlagLog
	} else {
		a.Flags |= vhostuser.AddrFlagLog
	}
	return f.tell(ctx, vhostuser.SetVringAddr, a.Marshal())
}

// setEvent sends one of the three events of ring i; nil is explicitly none.
func (f *FrontEnd) setEvent(ctx context.Context, what vhostuser.Request, i int, e *sys.Event) error {
	v := vhostuser.VringFD{Index: uint8(i), NoFD: e == nil}
	if e == nil {
		return f.tell(ctx, what, v.Marshal())
	}
	fd, giveBack := lend(e)
	defer giveBack()
	return f.tell(ctx, what, v.Marshal(), fd)
}

func (f *FrontEnd) setVringKick(ctx context.Context, r *ring) error {
	return f.setEvent(ctx, vhostuser.SetVringKick, r.index, r.kick)
}

func (f *FrontEnd) setVringCall(ctx context.Context, r *ring) error {
	var e *sys.Event
	if l := r.call.Load(); l != nil {
		e = l.event
	}
	return f.setEvent(ctx, vhostuser.SetVringCall, r.index, e)
}

func (f *FrontEnd) setEnable(ctx context.Context, i int, on bool) error {
	v := vhostuser.VringState{Index: uint32(i)}
	if on {
		v.Num = 1
	}
	if err := f.tell(ctx, vhostuser.SetVringEnable, v.Marshal()); err != nil {
		return err
	}
	if f.kind.barrier && !f.protocol.Has(vhostuser.ProtocolReplyAck) {
		return f.Barrier(ctx)
	}
	return nil
}

// enablePair enables or disables both rings of a pair.
func (f *FrontEnd) enablePair(ctx context.Context, pair int, on bool) error {
	if err := f.setEnable(ctx, 2*pair, on); err != nil {
		return err
	}
	return f.setEnable(ctx, 2*pair+1, on)
}

// getVringBase stops a ring. What it answers must be where the used ring
// stands: nothing is in flight in a net device that has stopped.
func (f *FrontEnd) getVringBase(ctx context.Context, r *ring) error {
	b, err := f.Request(ctx, vhostuser.GetVringBase, vhostuser.VringState{Index: r.addr.Index}.Marshal(), nil, false)
	if err != nil {
		return err
	}
	var v vhostuser.VringState
	if err := v.Unmarshal(b); err != nil {
		return fmt.Errorf("vutest: reply to GET_VRING_BASE: %w", err)
	}
	if v.Index != r.addr.Index {
		return fmt.Errorf("vutest: GET_VRING_BASE of ring %d was answered for ring %d", r.index, v.Index)
	}
	want, err := r.stands()
	if err != nil {
		return err
	}
	if v.Num != want {
		return fmt.Errorf("vutest: ring %d stopped at base %#x, and its used ring is at %#x", r.index, v.Num, want)
	}
	r.base = v.Num
	return nil
}

// each does a step for every ring of the guest, a forwarded control queue last.
func (f *FrontEnd) each(ctx context.Context, steps ...func(context.Context, *ring) error) error {
	for _, r := range f.all() {
		for _, step := range steps {
			if err := step(ctx, r); err != nil {
				return fmt.Errorf("ring %d: %w", r.index, err)
			}
		}
	}
	return nil
}

// enableFirst enables the first n of so many pairs and disables the others.
func (f *FrontEnd) enableFirst(ctx context.Context, n, of int) error {
	for pair := range of {
		if err := f.enablePair(ctx, pair, pair < n); err != nil {
			return fmt.Errorf("pair %d: %w", pair, err)
		}
	}
	return nil
}
