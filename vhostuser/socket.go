package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
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

// listen binds a socket at path with the given mode and group ("": as it
// comes). A socket file that a dead process left is replaced; anything else at
// the path is refused.
func listen(path string, mode os.FileMode, group string) (*net.UnixListener, socketFile, error) {
	if len(path) > maxPath {
		return nil, socketFile{}, fmt.Errorf("vhostuser: socket path of %d bytes, the system takes at most %d: %s", len(path), maxPath, path)
	}
	gid, err := groupID(group)
	if err != nil {
		return nil, socketFile{}, err
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
		err = admit(path, mode, gid)
	}
	if err != nil {
		_ = u.Close()
		file.remove()
		return nil, socketFile{}, err
	}
	return u, file, nil
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

// admit opens the bound socket to those who may connect: group first, then the
// mode that lets it in.
func admit(path string, mode os.FileMode, gid int) error {
	if gid >= 0 {
		if err := os.Lchown(path, -1, gid); err != nil {
			return fmt.Errorf("vhostuser: give socket %s to group %d (the user must be a member): %w", path, gid, cause(err))
		}
	}
	if err := os.Chmod(path, mode.Perm()); err != nil {
		return fmt.Errorf("vhostuser: set mode %#o of socket %s: %w", mode.Perm(), path, cause(err))
	}
	return nil
}

// groupID gives the number of a group that is named or numbered, -1 for "".
func groupID(group string) (int, error) {
	if group == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return -1, fmt.Errorf("vhostuser: group %q of the socket is not known; give a group's name or number", group)
	}
	n, err := strconv.Atoi(g.Gid)
	if err != nil {
		return -1, fmt.Errorf("vhostuser: group %q has id %q, a number is needed", group, g.Gid)
	}
	return n, nil
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
