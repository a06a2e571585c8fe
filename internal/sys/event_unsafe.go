package sys

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// drainBytes is how much one read takes from a pipe; an eventfd gives eight.
const drainBytes = 512

// readNoWait reads up to n bytes, at most drainBytes, from fd and forgets them.
// It fails with EAGAIN where a read would wait. (unix.Preadv2 takes slices of
// slices, which would be allocated at each wake-up.)
func readNoWait(fd, n int) (int, error) {
	var buf [drainBytes]byte
	iov := unix.Iovec{Base: &buf[0]}
	iov.SetLen(min(n, drainBytes))
	const current = ^uintptr(0) // offset -1: no position, as pipes and eventfds have none
	for {
		r, _, errno := unix.Syscall6(unix.SYS_PREADV2, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1, current, current, unix.RWF_NOWAIT)
		runtime.KeepAlive(&buf) // the compiler does not see that the kernel follows iov.Base
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
