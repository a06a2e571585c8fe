package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// probeTime bounds the question whether somebody listens at a path.
const probeTime = time.Second

// ClearStale makes room at path for a unix socket: one that a process that was
// killed left behind is removed, a path at which there is nothing is as good.
// Everything else stays and is an error, which names path and says what to do: a
// file that is no socket, and a socket that is in use. No name of the kernel's own
// name space, which begins with @, is stale.
func ClearStale(path string) error {
	if path == "" || path[0] == '@' {
		return nil
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, Cause(err))
	}
	// A connection to a file that is no socket is refused like one to a stale one.
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket; it is not replaced, choose another path", path)
	}
	c, err := net.DialTimeout("unix", path, probeTime)
	switch {
	case err == nil:
		_ = c.Close()
		fallthrough
	case errors.Is(err, unix.EAGAIN): // its queue of newcomers is full
		return fmt.Errorf("socket %s is in use; stop the process that listens there or choose another path", path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("ask whether somebody listens at %s: %w", path, Cause(err))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace the stale socket %s: %w", path, Cause(err))
	}
	return nil
}

// SocketFile is the path that a unix socket is bound to. The zero SocketFile is
// none.
type SocketFile struct {
	path string
	info fs.FileInfo
}

// SocketFileAt is the file of a socket that was bound at path just now; one of the
// kernel's own name space has none.
func SocketFileAt(path string) (SocketFile, error) {
	if path == "" || path[0] == '@' {
		return SocketFile{}, nil
	}
	info, err := os.Lstat(path)
	if err != nil {
		return SocketFile{}, fmt.Errorf("look at the socket that was bound: %w", err)
	}
	return SocketFile{path, info}, nil
}

// Remove removes the file, unless another one has taken its place meanwhile: net
// would remove whatever there is.
func (f SocketFile) Remove() {
	if f.info == nil {
		return
	}
	if now, err := os.Lstat(f.path); err == nil && os.SameFile(now, f.info) {
		_ = os.Remove(f.path) // gone already is as good
	}
}

// Cause is the system's own words without the operation and path that the
// caller's sentence already has.
func Cause(err error) error {
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		return errno
	}
	return err
}
