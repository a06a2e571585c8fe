package vutest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
)

// dirtyLog is the log of a migration.
type dirtyLog struct {
	file *sharedmem.File
	m    *sharedmem.Map
	bits sharedmem.Block
	size uint64
}

func (f *FrontEnd) newDirtyLog() (*dirtyLog, error) {
	last := uint64(0)
	for _, r := range f.mem.regions {
		last = max(last, r.end()-1)
	}
	l := &dirtyLog{size: (last/sharedmem.DirtyPageSize/32 + 1) * 4} // whole words
	var err error
	if l.file, err = sharedmem.NewMemoryFile(l.size); err != nil {
		return nil, err
	}
	if l.m, err = sharedmem.NewMap([]sharedmem.Region{{Size: l.size, File: l.file}}, sharedmem.MapOptions{Owner: "vutest log"}); err != nil {
		l.file.Unref()
		return nil, err
	}
	l.bits, err = l.m.Block(0, l.size)
	return l, err
}

func (l *dirtyLog) close() {
	if l != nil {
		l.m.Unref()
		l.file.Unref()
	}
}

// take gives the pages that are marked and clears them.
func (l *dirtyLog) take() map[uint64]bool {
	pages := map[uint64]bool{}
	for off := uint64(0); off < l.size; off += 4 {
		for v := l.bits.Swap32(uint32(off), 0); v != 0; v &= v - 1 {
			for bit := range uint64(32) {
				if v&-v == 1<<bit {
					pages[off*8+bit] = true
				}
			}
		}
	}
	return pages
}

// StartLog makes the back-end note the pages that it writes, as the source of a
// migration does: the log, then the feature, then each ring's flag.
func (f *FrontEnd) StartLog(ctx context.Context) error {
	if f.log != nil {
		return errors.New("vutest: the back-end logs already")
	}
	if !f.protocol.Has(vhostuser.ProtocolLogShmFD) {
		return errors.New("vutest: LOG_SHMFD is not negotiated; nobody migrates without")
	}
	if _, err := f.SwapLog(ctx); err != nil {
		return err
	}
	return f.tellLog(ctx)
}

// SwapLog gives the back-end another log and answers the pages, counted in 4096
// bytes from guest address 0, that are marked in the one before, to which it
// writes no more (Cloud Hypervisor does so at each look).
func (f *FrontEnd) SwapLog(ctx context.Context) (map[uint64]bool, error) {
	next, err := f.newDirtyLog()
	if err != nil {
		return nil, err
	}
	old := f.log
	f.log = next
	defer old.close()
	fd, err := next.file.Dup()
	if err != nil {
		return nil, fmt.Errorf("vutest: share the log: %w", err)
	}
	defer func() { _ = fd.Close() }()
	v := vhostuser.LogBase{Size: next.size}.Marshal()
	reply, err := f.Request(ctx, vhostuser.SetLogBase, v, []*sys.FD{fd}, false)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(reply, v) {
		return nil, fmt.Errorf("vutest: SET_LOG_BASE is answered by % x, want what was asked", reply)
	}
	if old == nil {
		return nil, nil
	}
	return old.take(), nil
}

// Dirty answers the pages that are marked in the log and clears the marks, as
// QEMU does.
func (f *FrontEnd) Dirty() map[uint64]bool {
	if f.log == nil {
		return nil
	}
	return f.log.take()
}

// StopLog ends what StartLog began.
func (f *FrontEnd) StopLog(ctx context.Context) error {
	old := f.log
	f.log = nil
	defer old.close()
	return f.tellLog(ctx)
}

// tellLog says what is to be logged, and returns when the back-end does it.
func (f *FrontEnd) tellLog(ctx context.Context) error {
	if err := f.setFeatures(ctx); err != nil {
		return err
	}
	if err := f.each(ctx, f.setVringAddr); err != nil {
		return err
	}
	return f.Barrier(ctx)
}
