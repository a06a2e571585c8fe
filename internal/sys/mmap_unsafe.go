package sys

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Span is a reservation of address space. What is mapped into it goes away
// with it. It is not for concurrent use, except that its address may be read.
type Span struct {
	p unsafe.Pointer
	n uint64
}

func mmapReserve(n uintptr) (unsafe.Pointer, error) {
	return unix.MmapPtr(-1, 0, nil, n, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
}

func (s *Span) mapShared(off uint64, fd int, fileOff int64, n uint64) error {
	_, err := unix.MmapPtr(fd, fileOff, unsafe.Add(s.p, off), uintptr(n), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_FIXED|unix.MAP_NORESERVE)
	return err
}

func (s *Span) advise(off, n uint64, advice int) error {
	_, _, errno := unix.Syscall(unix.SYS_MADVISE, uintptr(s.p)+uintptr(off), uintptr(n), uintptr(advice))
	if errno != 0 {
		return errno
	}
	return nil
}

// Addr is the address of the first byte; a released Span has none (0).
func (s *Span) Addr() uintptr { return uintptr(s.p) }

// Pointer points to the byte at off, which must be inside. Only sharedmem may
// ask: it turns the pointer into a Block, which carries its bounds.
func (s *Span) Pointer(off uint64) unsafe.Pointer {
	if off >= s.n {
		panic(errSpan)
	}
	return unsafe.Add(s.p, off)
}

// Release gives the address space back, and with it every mapping inside.
// Releasing again does nothing.
func (s *Span) Release() error {
	if s == nil || s.p == nil {
		return nil
	}
	p, n := s.p, s.n
	s.p, s.n = nil, 0
	if err := unix.MunmapPtr(p, uintptr(n)); err != nil {
		return fmt.Errorf("sys: release %d bytes of address space: %w", n, err)
	}
	return nil
}
