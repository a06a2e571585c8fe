package sys

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// MemfdOptions say what kind of memory file [NewMemfd] makes.
type MemfdOptions struct {
	Sealable bool // seals can be added later
	Huge     bool // huge pages of the default size; nothing is reserved
}

// NewMemfd makes an anonymous memory file of size bytes. name is seen in
// /proc/self/maps only.
func NewMemfd(name string, size uint64, o MemfdOptions) (*FD, error) {
	flags := unix.MFD_CLOEXEC
	if o.Sealable {
		flags |= unix.MFD_ALLOW_SEALING
	}
	if o.Huge {
		flags |= unix.MFD_HUGETLB
	}
	n, err := unix.MemfdCreate(name, flags)
	if err != nil {
		return nil, fmt.Errorf("sys: create a memory file: %w", err)
	}
	fd := OwnFD(n)
	if err := Truncate(fd, size); err != nil {
		_ = fd.Close()
		return nil, err
	}
	return fd, nil
}

// Truncate sets the size of a file in bytes.
func Truncate(fd *FD, size uint64) error {
	if size > 1<<63-1 {
		return fmt.Errorf("sys: a file of %d bytes is longer than any can be", size)
	}
	if err := unix.Ftruncate(fd.Num(), int64(size)); err != nil {
		return fmt.Errorf("sys: set a file's size to %d bytes: %w", size, err)
	}
	return nil
}

// Seals of a memory file (fcntl F_ADD_SEALS).
const (
	SealSeal        = unix.F_SEAL_SEAL
	SealShrink      = unix.F_SEAL_SHRINK
	SealGrow        = unix.F_SEAL_GROW
	SealWrite       = unix.F_SEAL_WRITE
	SealFutureWrite = unix.F_SEAL_FUTURE_WRITE
)

// Seals are the seals that a file has; a file that cannot have any reports
// SealSeal or nothing.
func Seals(fd *FD) int {
	s, err := unix.FcntlInt(uintptr(fd.Num()), unix.F_GET_SEALS, 0)
	if err != nil {
		return 0
	}
	return s
}

// AddSeals adds seals. It needs a descriptor open for writing, and a file that
// allows sealing.
func AddSeals(fd *FD, seals int) error {
	if _, err := unix.FcntlInt(uintptr(fd.Num()), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("sys: seal a memory file: %w", err)
	}
	return nil
}

// MemoryFile says what a descriptor that should be guest memory is.
type MemoryFile struct {
	Size     uint64 // bytes
	PageSize uint64 // bytes; offsets and lengths of mappings are multiples of it
	Huge     bool   // hugetlbfs
}

// StatMemory looks at a descriptor that somebody offers as memory to share.
// Only a regular file of tmpfs or hugetlbfs, open for reading and writing, not
// sealed against writing, will do: a page fault in any other (FUSE, NFS, a
// disk, a device) can hold the thread, and with it a whole Go process, for as
// long as its owner likes.
func StatMemory(fd *FD) (MemoryFile, error) {
	n := fd.Num()
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil {
		return MemoryFile{}, fmt.Errorf("sys: look at a memory file: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return MemoryFile{}, fmt.Errorf("sys: not a memory file but a file of type %#o; %w", st.Mode&unix.S_IFMT, errShare)
	}
	page, huge, err := memoryPage(n)
	if err != nil {
		return MemoryFile{}, err
	}
	flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0)
	if err != nil {
		return MemoryFile{}, fmt.Errorf("sys: ask how a memory file is open: %w", err)
	}
	if flags&unix.O_ACCMODE != unix.O_RDWR { // nor is O_PATH, which reads as O_RDONLY
		return MemoryFile{}, errors.New("sys: the memory file is not open for reading and writing; " +
			"the device writes to guest memory, so give the VM's memory share=on and no read-only backing")
	}
	if Seals(fd)&(SealWrite|SealFutureWrite) != 0 {
		return MemoryFile{}, errors.New("sys: the memory file is sealed against writing; the device writes to guest memory")
	}
	return MemoryFile{Size: uint64(st.Size), PageSize: page, Huge: huge}, nil
}

var errShare = errors.New("give the VM shared memory: for QEMU memory-backend-memfd with share=on, " +
	"for Cloud Hypervisor --memory shared=on")

// memoryPage tells the page size of the file system behind n.
func memoryPage(n int) (page uint64, huge bool, err error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(n, &fs); err != nil {
		return 0, false, fmt.Errorf("sys: look at a memory file's file system: %w", err)
	}
	switch uint64(fs.Type) {
	case unix.TMPFS_MAGIC:
		return PageSize(), false, nil
	case unix.HUGETLBFS_MAGIC:
		page := uint64(fs.Bsize)
		if page < PageSize() || page&(page-1) != 0 {
			return 0, false, fmt.Errorf("sys: a huge page size of %d bytes is not a power of two", page)
		}
		return page, true, nil
	}
	return 0, false, fmt.Errorf("sys: the memory lies on a file system of type %#x, accepted are tmpfs and hugetlbfs; %w", uint64(fs.Type), errShare)
}
