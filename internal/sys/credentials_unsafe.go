package sys

import (
	"errors"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxGroups is how many supplementary groups a process can have (NGROUPS_MAX).
const maxGroups = 65536

// peerGroups are the supplementary groups of a socket's peer. (x/sys has no
// getsockopt for a list of numbers.)
func peerGroups(fd int) ([]int, error) {
	for n := 32; ; n = maxGroups {
		list := make([]uint32, n)
		size := uint32(4 * n)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&list[0])), uintptr(unsafe.Pointer(&size)), 0)
		runtime.KeepAlive(list)
		if errors.Is(errno, unix.ERANGE) && n < maxGroups {
			continue
		}
		if errno != 0 {
			return nil, errno
		}
		groups := make([]int, 0, min(n, int(size/4)))
		for _, g := range list[:cap(groups)] {
			groups = append(groups, int(g))
		}
		return groups, nil
	}
}
