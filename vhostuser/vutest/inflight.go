package vutest

import (
	"context"
	"fmt"

	"vhostnet/internal/sys"
	"vhostnet/vhostuser"
)

// region is an inflight region: the front-end keeps it while its back-end is
// away, and looks at nothing in it.
type region struct {
	vhostuser.Inflight
	fd *sys.FD
}

func (r *region) close() {
	if r != nil {
		_ = r.fd.Close()
	}
}

// setInflight asks for a region when a guest's rings start first, and sends it
// at each start.
func (f *FrontEnd) setInflight(ctx context.Context) error {
	if !f.protocol.Has(vhostuser.ProtocolInflight) {
		return nil
	}
	if f.region == nil {
		if err := f.getInflight(ctx); err != nil {
			return err
		}
	}
	fd, err := f.region.fd.Dup()
	if err != nil {
		return fmt.Errorf("vutest: share the inflight region: %w", err)
	}
	defer func() { _ = fd.Close() }()
	return f.tell(ctx, vhostuser.SetInflightFD, f.region.Marshal(), fd)
}

func (f *FrontEnd) getInflight(ctx context.Context) error {
	want := vhostuser.Inflight{Queues: uint16(len(f.rings))}
	for _, r := range f.rings {
		want.QueueSize = max(want.QueueSize, uint16(r.size))
	}
	f.takes = 1
	defer func() { f.takes = 0 }()
	reply, err := f.Request(ctx, vhostuser.GetInflightFD, want.Marshal(), nil, false)
	got := f.taken
	f.taken = nil
	if err != nil {
		sys.CloseAll(got)
		return err
	}
	if len(got) != 1 {
		return fmt.Errorf("vutest: the reply to GET_INFLIGHT_FD came with %d descriptors, want one", len(got))
	}
	f.region = &region{fd: got[0]}
	if err := f.region.Unmarshal(reply); err != nil {
		return err
	}
	if r := f.region.Inflight; r.Queues != want.Queues || r.QueueSize != want.QueueSize || r.Size == 0 {
		return fmt.Errorf("vutest: the inflight region is %+v, asked for was %+v", r, want)
	}
	return nil
}
