package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked is wrapped by the error for a file that another process has.
var ErrLocked = errors.New("sys: another process has the file")

// OpenRunFile opens or makes a file that is to outlive this process, on a tmpfs,
// for its user alone, and locks it: no other process can open it so while this
// one has the descriptor. It follows no symbolic link.
func OpenRunFile(path string) (*FD, error) {
	n, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sys: open %s: %w", path, err)
	}
	fd := OwnFD(n)
	if err := checkRunFile(n); err != nil {
		_ = fd.Close()
		return nil, fmt.Errorf("sys: %s: %w", path, err)
	}
	return fd, nil
}

func checkRunFile(n int) error {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := errors.Join(unix.Fstat(n, &st), unix.Fstatfs(n, &fs)); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("not a file but of type %#o", st.Mode&unix.S_IFMT)
	case fs.Type != unix.TMPFS_MAGIC:
		return errors.New("not on a tmpfs, where a write cannot wait for a disk; a directory below /run is")
	case int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0:
		return fmt.Errorf("belongs to user %d with mode %#o; it must be this user's, %d, and nobody else's to read or write", st.Uid, st.Mode&0o777, os.Geteuid())
	}
	if err := unix.Flock(n, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(ErrLocked, err)
	}
	return nil
}

// Grow makes a file at least size bytes long.
func Grow(fd *FD, size uint64) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd.Num(), &st); err != nil {
		return fmt.Errorf("sys: look at a file: %w", err)
	}
	if uint64(st.Size) >= size {
		return nil
	}
	return Truncate(fd, size)
}

// Allocate takes the memory or disk space for n bytes at off of a file, so that
// no later access to them finds that there is none.
func Allocate(fd *FD, off, n uint64) error {
	if off > 1<<62 || n > 1<<62 {
		return fmt.Errorf("sys: allocate %d bytes at %d of a file: no file is that long", n, off)
	}
	if err := unix.Fallocate(fd.Num(), unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n)); err != nil {
		return fmt.Errorf("sys: allocate %d bytes of a file: %w", n, err)
	}
	return nil
}
