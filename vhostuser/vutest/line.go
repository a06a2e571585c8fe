package vutest

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"syscall"

	"vhostnet/internal/sys"
)

// line is an eventfd that the back-end signals, and the count of its signals.
// Several rings may share one (libkrun's call).
type line struct {
	event *sys.Event
	total atomic.Uint64
}

func newLine() (*line, error) {
	e, err := sys.NewEvent()
	if err != nil {
		return nil, fmt.Errorf("vutest: create an event: %w", err)
	}
	return &line{event: e}, nil
}

// collect takes what was signalled and answers the count of all signals so
// far.
func (l *line) collect() uint64 {
	var b [8]byte
	// Not Drain, which does not tell the number. The eventfd is our own and
	// non-blocking; EAGAIN means that there was no signal.
	if n, err := syscall.Read(l.event.FD(), b[:]); err == nil && n == len(b) {
		l.total.Add(binary.NativeEndian.Uint64(b[:]))
	}
	return l.total.Load()
}

func (l *line) close() {
	if l != nil {
		l.event.Close()
	}
}

// lend makes a descriptor that can be sent; giveBack ends the loan without
// closing it.
func lend(e *sys.Event) (fd *sys.FD, giveBack func()) {
	fd = sys.OwnFD(e.FD())
	return fd, func() { _ = fd.Take() }
}

// HostileCall makes an eventfd on which every write waits for ever: blocking,
// its counter full. It is for SetCallFD. Reading it would end the wait, so
// nobody here does. The caller closes it.
func HostileCall() (*sys.FD, error) {
	e, err := sys.NewEvent()
	if err != nil {
		return nil, fmt.Errorf("vutest: create an event: %w", err)
	}
	defer e.Close()
	full := binary.NativeEndian.AppendUint64(nil, 1<<64-2)
	if _, err := syscall.Write(e.FD(), full); err != nil {
		return nil, fmt.Errorf("vutest: fill an event: %w", err)
	}
	// The flag belongs to the open file, which the back-end gets, too.
	if err := syscall.SetNonblock(e.FD(), false); err != nil {
		return nil, fmt.Errorf("vutest: make an event block: %w", err)
	}
	lent, giveBack := lend(e)
	defer giveBack()
	return lent.Dup()
}
