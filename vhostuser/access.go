package vhostuser

import (
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"

	"vhostnet/internal/sys"
)

// access says who may connect to a socket: permissions and owners of its file,
// and for an abstract socket, which has no file, the same asked of whoever
// connects.
type access struct {
	mode os.FileMode // permissions; of them only those to write count
	uid  int         // -1: the process's
	gid  int         // -1: the process's
}

// newAccess reads owner and group, which are names, numbers or "".
func newAccess(mode os.FileMode, owner, group string) (a access, err error) {
	a.mode = mode.Perm()
	if a.uid, err = identity(owner, "owner", func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	}); err != nil {
		return a, err
	}
	a.gid, err = identity(group, "group", func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	return a, err
}

// identity gives the number of a user or group, -1 for "".
func identity(name, what string, lookup func(string) (string, error)) (int, error) {
	if name == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	id, err := lookup(name)
	if err != nil {
		return -1, fmt.Errorf("vhostuser: %s %q of the socket is not known; give its name or number", what, name)
	}
	n, err := strconv.Atoi(id)
	if err != nil {
		return -1, fmt.Errorf("vhostuser: %s %q has id %q, a number is needed", what, name, id)
	}
	return n, nil
}

// apply opens the bound socket at path to those who may connect: owners first,
// then the mode that lets them in.
func (a access) apply(path string) error {
	if a.uid >= 0 || a.gid >= 0 {
		if err := os.Lchown(path, a.uid, a.gid); err != nil {
			return fmt.Errorf("vhostuser: give socket %s to user %d and group %d, -1 being the process's (another user takes root, another group a membership): %w",
				path, a.uid, a.gid, sys.Cause(err))
		}
	}
	if err := os.Chmod(path, a.mode); err != nil {
		return fmt.Errorf("vhostuser: set mode %#o of socket %s: %w", a.mode, path, sys.Cause(err))
	}
	return nil
}

// Permissions to write, which is what connecting takes.
const (
	ownerWrites = 0o200
	groupWrites = 0o020
	otherWrites = 0o002
)

// admits judges who is at the other end of an abstract socket.
func (a access) admits(u *net.UnixConn) error {
	who, err := sys.CredentialsOf(u)
	if err != nil {
		return err
	}
	return a.judge(who)
}

// judge decides as the kernel does about a file: by the first of owner, group
// and others that applies.
func (a access) judge(who sys.Credentials) error {
	uid, gid := a.uid, a.gid
	if uid < 0 {
		uid = os.Geteuid()
	}
	if gid < 0 {
		gid = os.Getegid()
	}
	want := os.FileMode(otherWrites)
	switch {
	case who.UID == 0:
		return nil
	case who.UID == uid:
		want = ownerWrites
	case who.In(gid):
		want = groupWrites
	}
	if a.mode&want == 0 {
		return fmt.Errorf("vhostuser: user %d with group %d may not connect; mode %#o lets in user %d and group %d as files do",
			who.UID, who.GID, a.mode, uid, gid)
	}
	return nil
}
