package sys

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// IsStale reports whether the unix socket at a path is what a process that was
// killed left behind: err is why it could not be listened at, and nobody takes
// connections there.
func IsStale(path string, err error) bool {
	if !errors.Is(err, unix.EADDRINUSE) {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close() // somebody listens
	}
	return errors.Is(err, unix.ECONNREFUSED)
}
