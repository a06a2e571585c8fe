package vutest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"vhostnet/internal/sys"
	"vhostnet/vhostuser"
)

// What front-ends change on running rings.

// Enable sends SET_VRING_ENABLE for ring i.
func (f *FrontEnd) Enable(ctx context.Context, i int, on bool) error {
	return f.setEnable(ctx, i, on)
}

// UsePairs is the guest's command to use the first n queue pairs (CTRL_MQ), as
// its front-end carries it out. Cloud Hypervisor tells the back-end nothing.
func (f *FrontEnd) UsePairs(ctx context.Context, n int) error {
	if n < 1 || n > len(f.rings)/2 {
		return fmt.Errorf("vutest: %d queue pairs of a guest that has set up %d", n, len(f.rings)/2)
	}
	return f.usePairs(ctx, n)
}

func (f *FrontEnd) usePairs(ctx context.Context, n int) error {
	if n == f.active {
		return nil
	}
	if err := f.kind.usePairs(f, ctx, n); err != nil {
		return err
	}
	f.active = n
	return nil
}

// SetCall gives ring i a new interrupt and tells the back-end (QEMU: masking
// and unmasking a vector). Calls counts on.
func (f *FrontEnd) SetCall(ctx context.Context, i int) error {
	r, err := f.ring(i)
	if err != nil {
		return err
	}
	l, err := newLine()
	if err != nil {
		return err
	}
	f.lines = append(f.lines, l)
	if l.old = r.call.Load(); l.old == nil {
		// What comes back before the back-end has the interrupt comes without
		// one: the guest polls until then.
		err := f.setEvent(ctx, vhostuser.SetVringCall, i, l.event)
		if err == nil {
			err = f.Barrier(ctx)
		}
		if err != nil {
			return err
		}
		return r.listen(l)
	}
	if err := r.listen(l); err != nil {
		return err
	}
	return f.setEvent(ctx, vhostuser.SetVringCall, i, l.event)
}

// SetCallFD gives the back-end fd as the interrupt of ring i, nil for none,
// which the guest does not listen to: it polls from now on. The descriptor
// stays the caller's.
func (f *FrontEnd) SetCallFD(ctx context.Context, i int, fd *sys.FD) error {
	r, err := f.ring(i)
	if err != nil {
		return err
	}
	v := vhostuser.VringFD{Index: uint8(i), NoFD: fd == nil}
	var fds []*sys.FD
	if fd != nil {
		fds = append(fds, fd)
	}
	r.call.Store(nil)
	return f.tell(ctx, vhostuser.SetVringCall, v.Marshal(), fds...)
}

// SetKick gives ring i a new kick event and tells the back-end. It waits for a
// Send or Recv on that ring.
func (f *FrontEnd) SetKick(ctx context.Context, i int) error {
	r, err := f.ring(i)
	if err != nil {
		return err
	}
	e, err := sys.NewEvent()
	if err != nil {
		return fmt.Errorf("vutest: ring %d: %w", i, err)
	}
	r.mu.Lock() // a kick goes to the one or to the other, and is not lost between
	defer r.mu.Unlock()
	r.kick.Close()
	r.kick = e
	return f.setVringKick(ctx, r)
}

// Errors is how often the back-end signalled the error event of ring i, which
// QEMU alone sends. It panics when there is no such ring in the NIC.
func (f *FrontEnd) Errors(i int) uint64 { return f.errs[i].signals() }

// MemTable is the guest's memory as SET_MEM_TABLE tells it, with duplicates of
// its files that the caller closes: what a front-end alters to misbehave.
func (f *FrontEnd) MemTable() (vhostuser.MemTable, []*sys.FD, error) { return f.mem.table() }

// Regions is the guest's memory.
func (f *FrontEnd) Regions() []Region { return slices.Clone(f.mem.regions) }

// AddMemory plugs size bytes of memory into the running guest and tells the
// back-end in the front-end's way. From then on the guest uses it, too.
func (f *FrontEnd) AddMemory(ctx context.Context, size uint64) (Region, error) {
	if size == 0 || size%pageSize != 0 {
		return Region{}, fmt.Errorf("vutest: %d bytes of memory; multiples of %d can be plugged in", size, pageSize)
	}
	file, err := newFile(size, f.o.Truncatable)
	if err != nil {
		return Region{}, err
	}
	f.mem.files = append(f.mem.files, file)
	r := Region{Size: size, File: len(f.mem.files) - 1}
	for _, old := range f.mem.regions {
		r.GPA = max(r.GPA, old.end())
		r.User = max(r.User, old.User+old.Size)
	}
	r.GPA, r.User = r.GPA+plugGap, r.User+plugGap
	if f.o.Layout[0].GPA == f.o.Layout[0].User { // as virtio-user has it
		r.GPA = max(r.GPA, r.User)
		r.User = r.GPA
	}
	if err := f.mem.remap(append(slices.Clone(f.mem.regions), r)); err != nil {
		return Region{}, err
	}
	return r, f.tellMemory(ctx)
}

// RemoveMemory unplugs a region that AddMemory plugged in and tells the
// back-end. The guest must not have anything in it.
func (f *FrontEnd) RemoveMemory(ctx context.Context, r Region) error {
	i := slices.Index(f.mem.regions, r)
	if i < 0 {
		return fmt.Errorf("vutest: no region of the guest is %+v", r)
	}
	if err := f.mem.remap(slices.Delete(slices.Clone(f.mem.regions), i, i+1)); err != nil {
		return err
	}
	return f.tellMemory(ctx)
}

// tellMemory returns when the back-end has the new memory, acknowledged or not:
// a guest takes long to notice what was plugged in, but this one does not.
func (f *FrontEnd) tellMemory(ctx context.Context) error {
	if !f.running {
		return nil // the next start does
	}
	if err := f.kind.memory(f, ctx); err != nil {
		return err
	}
	return f.Barrier(ctx)
}

func (f *FrontEnd) addMemReg(ctx context.Context, r Region) error {
	fd, err := f.mem.files[r.File].Dup()
	if err != nil {
		return fmt.Errorf("vutest: share the guest's memory: %w", err)
	}
	defer func() { _ = fd.Close() }()
	return f.tell(ctx, vhostuser.AddMemReg, vhostuser.SingleRegion{Region: r.wire()}.Marshal(), fd)
}

func (f *FrontEnd) remMemReg(ctx context.Context, r Region) error {
	return f.tell(ctx, vhostuser.RemMemReg, vhostuser.SingleRegion{Region: r.wire()}.Marshal())
}

// Truncate cuts a memory file of the guest to size bytes, under the running
// back-end. It needs Options.Truncatable; the guest's own use of what is gone
// ends in errors.
func (f *FrontEnd) Truncate(file int, size uint64) error {
	if !f.o.Truncatable {
		return errors.New("vutest: the guest's memory is sealed; Options.Truncatable leaves it open")
	}
	if file < 0 || file >= len(f.mem.files) {
		return fmt.Errorf("vutest: memory file %d of %d", file, len(f.mem.files))
	}
	fd, err := f.mem.files[file].Dup()
	if err != nil {
		return fmt.Errorf("vutest: truncate memory: %w", err)
	}
	defer func() { _ = fd.Close() }()
	return sys.Truncate(fd, size)
}

// Peek copies n bytes of guest memory.
func (f *FrontEnd) Peek(gpa uint64, n int) ([]byte, error) {
	b := make([]byte, n)
	return b, f.mem.read(gpa, b)
}

// Poke writes guest memory.
func (f *FrontEnd) Poke(gpa uint64, b []byte) error { return f.mem.write(gpa, b) }
