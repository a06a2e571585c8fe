package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"vhostnet/internal/sys"
)

// maxPath is the longest path that fits into a unix socket's address.
const maxPath = 107

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
func listen(path string, a access) (*net.UnixListener, sys.SocketFile, error) {
	if err := checkPath(path); err != nil {
		return nil, sys.SocketFile{}, err
	}
	if abstract(path) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return nil, sys.SocketFile{}, fmt.Errorf("vhostuser: listen at abstract socket %s: %w", path, sys.Cause(err))
		}
		return l, sys.SocketFile{}, nil
	}
	if err := sys.ClearStale(path); err != nil {
		return nil, sys.SocketFile{}, fmt.Errorf("vhostuser: %w", err)
	}
	config := net.ListenConfig{Control: ownerOnly}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, sys.SocketFile{}, fmt.Errorf("vhostuser: listen at %s (its directory must exist and be writable): %w", path, sys.Cause(err))
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false) // by name, whoever owns it; SocketFile.Remove looks first
	file, err := sys.SocketFileAt(path)
	if err == nil {
		err = a.apply(path)
	}
	if err != nil {
		_ = u.Close()
		file.Remove()
		return nil, sys.SocketFile{}, err
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
	return l, file.Remove, err
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
	return l, file.Remove, err
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
