package sharedmem

import (
	"errors"
	"fmt"
	"sync/atomic"

	"vhostnet/internal/sys"
)

// File is a descriptor of memory that a front-end shares. It is counted: the
// last Unref closes it. A Map keeps the Files of its regions. All methods may
// be called concurrently.
type File struct {
	fd       *sys.FD
	refs     atomic.Int32
	pageSize uint64
	sealed   bool
}

var errFileRefs = errors.New("sharedmem: a File is used after its last reference was dropped")

// OpenFile makes a File with one reference, the caller's. It takes ownership
// of fd, on error too. Only regular files of tmpfs and hugetlbfs (memfds are
// such files) that are open for reading and writing are accepted; the error of
// a refusal says how to configure the VM. Where the file allows it, shrinking
// is sealed off, so that the front-end cannot take memory away under a running
// ring; see [File.Sealed].
func OpenFile(fd *sys.FD) (*File, error) {
	stat, err := sys.StatMemory(fd)
	if err != nil {
		_ = fd.Close()
		return nil, fmt.Errorf("sharedmem: memory refused: %w", err)
	}
	if sys.Seals(fd)&(sys.SealShrink|sys.SealSeal) == 0 {
		// Failure leaves the file as it is, and Guard to deal with it.
		_ = sys.AddSeals(fd, sys.SealShrink)
	}
	f := &File{fd: fd, pageSize: stat.PageSize, sealed: sys.Seals(fd)&sys.SealShrink != 0}
	f.refs.Store(1)
	return f, nil
}

// NewMemoryFile makes a memory file of our own of size bytes, all zero, that
// cannot change its size: the host's arena, and the guest of a test.
func NewMemoryFile(size uint64) (*File, error) {
	fd, err := sys.NewMemfd("vhostnet", size, sys.MemfdOptions{Sealable: true})
	if err != nil {
		return nil, fmt.Errorf("sharedmem: create memory: %w", err)
	}
	if err := sys.AddSeals(fd, sys.SealShrink|sys.SealGrow|sys.SealSeal); err != nil {
		_ = fd.Close()
		return nil, fmt.Errorf("sharedmem: create memory: %w", err)
	}
	return OpenFile(fd)
}

// Size is the file's length now, in bytes; 0 when it cannot be asked.
func (f *File) Size() uint64 {
	stat, err := sys.StatMemory(f.fd)
	if err != nil {
		return 0
	}
	return stat.Size
}

// PageSize is the page size of the file system, in bytes.
func (f *File) PageSize() uint64 { return f.pageSize }

// Sealed reports whether the file can no longer shrink. Its pages can still be
// unavailable (a full tmpfs, an empty huge page pool), so Guard is needed
// either way.
func (f *File) Sealed() bool { return f.sealed }

// Dup makes a descriptor of the same file, to send it to somebody.
func (f *File) Dup() (*sys.FD, error) { return f.fd.Dup() }

// Ref takes one more reference and returns f.
func (f *File) Ref() *File {
	if f.refs.Add(1) <= 1 {
		panic(errFileRefs)
	}
	return f
}

// Unref drops one reference; the last one closes the descriptor. Mappings of
// the file live on.
func (f *File) Unref() {
	switch n := f.refs.Add(-1); {
	case n == 0:
		_ = f.fd.Close() // nothing was written through the descriptor
	case n < 0:
		panic(errFileRefs)
	}
}
