package sys

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"
)

// Credentials say who a peer was when it connected, or began to listen.
type Credentials struct {
	UID, GID int
	Groups   []int // supplementary
}

// In reports whether the peer is in a group.
func (c Credentials) In(gid int) bool { return c.GID == gid || slices.Contains(c.Groups, gid) }

// CredentialsOf asks the kernel who is at the other end of u.
func CredentialsOf(u *net.UnixConn) (c Credentials, err error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return c, fmt.Errorf("sys: credentials of a peer: %w", err)
	}
	cerr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		c.UID, c.GID = int(cred.Uid), int(cred.Gid)
		c.Groups, err = peerGroups(int(fd))
	})
	if err = errors.Join(cerr, err); err != nil {
		return Credentials{}, fmt.Errorf("sys: credentials of a peer: %w", err)
	}
	return c, nil
}
