package vutest

import (
	"context"
	"errors"
	"fmt"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
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

// WriteInflight writes into the inflight region, at an offset, as a front-end
// does that would mislead its back-end.
func (f *FrontEnd) WriteInflight(at uint64, b []byte) error {
	if f.region == nil {
		return errors.New("vutest: the front-end has no inflight region")
	}
	fd, err := f.region.fd.Dup()
	if err != nil {
		return fmt.Errorf("vutest: open the inflight region: %w", err)
	}
	file, err := sharedmem.OpenFile(fd)
	if err != nil {
		return err
	}
	defer file.Unref() // the Map has its own reference
	r := sharedmem.Region{Size: f.region.Size, Offset: f.region.Offset, File: file}
	m, err := sharedmem.NewMap([]sharedmem.Region{r}, sharedmem.MapOptions{Owner: "vutest inflight"})
	if err != nil {
		return err
	}
	defer m.Unref()
	block, err := m.Block(at, uint64(len(b)))
	if err != nil {
		return err
	}
	return sharedmem.Guard(func() error {
		block.CopyFrom(b, 0)
		return nil
	})
}
