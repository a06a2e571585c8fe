package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// maxPath is the longest path that fits into a unix socket's address.
const maxPath = 107

// probeTime bounds the question whether somebody listens at a path.
const probeTime = time.Second

// socketFile is a bound path. It is removed by whoever bound it, unless
// another socket has taken its place meanwhile.
type socketFile struct {
	path string
	info fs.FileInfo
}

// remove removes the file if it is still the one that was bound. The zero
// socketFile removes nothing.
func (f socketFile) remove() {
	if f.info == nil {
		return
	}
	if now, err := os.Lstat(f.path); err == nil && os.SameFile(now, f.info) {
		_ = os.Remove(f.path) // gone already is as good
	}
}

// abstract reports whether path names no file but a socket in the kernel's own
// name space, which is gone with the process that bound it.
func abstract(path string) bool { return path[0] == '@' }

// checkPath refuses what no unix socket can be called.
func checkPath(path string) error {
	if len(path) > maxPath {
		return fmt.Errorf("vhostuser: socket path of %d bytes, the system takes at most %d: %s", len(path), maxPath, path)
	}
	if path == "@" {
		return errors.New("vhostuser: the name of the abstract socket is missing behind @")
	}
	return nil
}

// listen binds a socket at path that those may connect to whom a names. A
// socket file that a dead process left is replaced; anything else at the path
// is refused.
func listen(path string, a access) (*net.UnixListener, socketFile, error) {
	if err := checkPath(path); err != nil {
		return nil, socketFile{}, err
	}
	if abstract(path) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return nil, socketFile{}, fmt.Errorf("vhostuser: listen at abstract socket %s: %w", path, cause(err))
		}
		return l, socketFile{}, nil
	}
	if err := clearStale(path); err != nil {
		return nil, socketFile{}, err
	}
	config := net.ListenConfig{Control: ownerOnly}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, socketFile{}, fmt.Errorf("vhostuser: listen at %s (its directory must exist and be writable): %w", path, cause(err))
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false) // by name, whoever owns it; socketFile.remove looks first
	file := socketFile{path: path}
	if file.info, err = os.Lstat(path); err == nil {
		err = a.apply(path)
	}
	if err != nil {
		_ = u.Close()
		file.remove()
		return nil, socketFile{}, err
	}
	return u, file, nil
}

// ListenOwner binds a unix socket at path that its owner alone may connect to,
// as a port's socket is bound: a stale one is replaced, a live one refused. It is
// for sockets beside the ports'. remove removes the file after the listener has
// been closed.
func ListenOwner(path string) (l *net.UnixListener, remove func(), err error) {
	if path == "" || abstract(path) {
		return nil, nil, fmt.Errorf("vhostuser: a socket for its owner alone needs the path of a file, not %q", path)
	}
	l, file, err := listen(path, access{mode: 0o600, uid: -1, gid: -1})
	return l, file.remove, err
}

// ListenFile binds a unix socket at path as a port's socket is bound, with the
// permissions of Mode, Owner and Group in [Options]. It is for sockets beside the
// ports', to which the same programs connect. remove removes the file after the
// listener has been closed.
func ListenFile(path string, mode os.FileMode, owner, group string) (l *net.UnixListener, remove func(), err error) {
	if path == "" || abstract(path) {
		return nil, nil, fmt.Errorf("vhostuser: want the path of a file, not %q", path)
	}
	a, err := newAccess(mode, owner, group)
	if err != nil {
		return nil, nil, err
	}
	l, file, err := listen(path, a)
	return l, file.remove, err
}

// ownerOnly runs before the socket is bound, so that its file is never open to
// others, not even until admit has run: Linux takes the file's mode from the
// socket.
func ownerOnly(_, _ string, raw syscall.RawConn) error {
	var err error
	if cerr := raw.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); cerr != nil {
		return cerr
	}
	return err
}

// clearStale makes room at path when nobody listens there any more.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("vhostuser: look at %s: %w", path, cause(err))
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("vhostuser: %s exists and is not a socket; it is not replaced, choose another path", path)
	}
	c, err := net.DialTimeout("unix", path, probeTime)
	switch {
	case err == nil:
		_ = c.Close()
		fallthrough
	case errors.Is(err, syscall.EAGAIN): // its queue of newcomers is full
		return fmt.Errorf("vhostuser: socket %s is in use; stop the process that listens there or choose another path", path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("vhostuser: ask whether somebody listens at %s: %w", path, cause(err))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("vhostuser: replace the stale socket %s: %w", path, cause(err))
	}
	return nil
}

// cause is the system's own words without the operation and path that the
// caller's sentence already has.
func cause(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}
