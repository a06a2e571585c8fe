package sys

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// FD owns one file descriptor and closes it exactly once, however often and
// from wherever Close is called. The nil FD and the zero FD own nothing. All
// methods may be called concurrently.
//
// There is no finalizer: a descriptor that nobody closes is a leak, which the
// tests count, and not a number closed at a time that nobody chose.
type FD struct {
	mu  sync.Mutex
	num int // the descriptor plus one; 0 when nothing is owned
}

// OwnFD makes the FD that owns descriptor n. A negative n owns nothing.
func OwnFD(n int) *FD {
	if n < 0 {
		return &FD{}
	}
	return &FD{num: n + 1}
}

// Num is the descriptor's number, or -1 when nothing is owned (any more). The
// number is good only while the caller knows that nobody closes the FD.
func (f *FD) Num() int {
	if f == nil {
		return -1
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.num - 1
}

// Take gives up ownership: it returns the number, or -1 when nothing is owned,
// and the FD owns nothing from then on. The caller has to close it.
func (f *FD) Take() int {
	if f == nil {
		return -1
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.num - 1
	f.num = 0
	return n
}

// Close closes the descriptor if it is still owned. Closing again does nothing.
func (f *FD) Close() error {
	n := f.Take()
	if n < 0 {
		return nil
	}
	// Linux releases the number even when close fails, so there is no retry.
	if err := unix.Close(n); err != nil {
		return fmt.Errorf("sys: close descriptor %d: %w", n, err)
	}
	return nil
}

// Dup makes a second descriptor, close-on-exec, for the same open file.
func (f *FD) Dup() (*FD, error) {
	if f == nil {
		return nil, errClosedFD
	}
	f.mu.Lock() // held over the call, so that a Close cannot hand the number to another file
	defer f.mu.Unlock()
	if f.num == 0 {
		return nil, errClosedFD
	}
	n, err := unix.FcntlInt(uintptr(f.num-1), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("sys: duplicate descriptor %d: %w", f.num-1, err)
	}
	return OwnFD(n), nil
}

var errClosedFD = fmt.Errorf("sys: duplicate a descriptor that is closed: %w", unix.EBADF)

// CloseAll closes every descriptor of the list; nil entries are allowed.
func CloseAll(fds []*FD) {
	for _, f := range fds {
		_ = f.Close() // nothing was written through it, so nothing can be lost
	}
}
