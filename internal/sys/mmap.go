package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// PageSize is the size of an ordinary page in bytes.
func PageSize() uint64 { return uint64(os.Getpagesize()) }

var errSpan = errors.New("sys: a mapping outside its reservation")

// Reserve takes n bytes of address space in which nothing can be read or
// written. n is rounded up to pages by the kernel; 0 is refused.
func Reserve(n uint64) (*Span, error) {
	if n == 0 || n > maxSpan {
		return nil, fmt.Errorf("sys: cannot reserve %d bytes of address space", n)
	}
	p, err := mmapReserve(uintptr(n))
	if err != nil {
		return nil, fmt.Errorf("sys: reserve %d bytes of address space: %w", n, err)
	}
	return &Span{p: p, n: n}, nil
}

// maxSpan keeps every sum of an address and a length far from wrapping.
const maxSpan = 1 << 56

// Len is the length of the reservation in bytes.
func (s *Span) Len() uint64 { return s.n }

// Map puts n bytes of the file at fileOff over the reservation at off, shared,
// for reading and writing, without reserving memory, and leaves them out of
// core dumps. off, n and fileOff are multiples of the file's page size; the
// address of off must be, too ([Span.Addr]).
func (s *Span) Map(off uint64, fd *FD, fileOff, n uint64) error {
	if n == 0 || off > s.n || n > s.n-off || fileOff > 1<<63-1 {
		return errSpan
	}
	if err := s.mapShared(off, fd.Num(), int64(fileOff), n); err != nil {
		return fmt.Errorf("sys: map %d bytes of a memory file: %w", n, err)
	}
	if err := s.advise(off, n, unix.MADV_DONTDUMP); err != nil {
		return fmt.Errorf("sys: keep mapped memory out of core dumps: %w", err)
	}
	return nil
}
