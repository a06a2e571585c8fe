package sys

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// IsListening reports whether fd, a unix stream socket, waits for connections
// (true) or is connected (false). fd is looked at and left alone.
func IsListening(fd int) (bool, error) {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return false, fmt.Errorf("sys: descriptor %d: %w", fd, err)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || domain != unix.AF_UNIX || kind != unix.SOCK_STREAM {
		return false, fmt.Errorf("sys: descriptor %d is not a unix stream socket", fd)
	}
	accepting, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return false, fmt.Errorf("sys: descriptor %d: %w", fd, err)
	}
	return accepting == 1, nil
}
