package vutest

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"vhostnet/internal/sys"
)

// line is an eventfd that the back-end signals. Several rings may share one
// (libkrun's call). Nobody reads it: each ring waits for its edges with its own
// poller, and a poller does not report an edge whose event another reader has
// emptied. So the counter is the count of all signals.
type line struct {
	event *sys.Event
	old   *line // the one that it replaced, whose signals count, too
}

func newLine() (*line, error) {
	e, err := sys.NewEvent()
	if err != nil {
		return nil, fmt.Errorf("vutest: create an event: %w", err)
	}
	return &line{event: e}, nil
}

// signals is the count of all signals so far. The nil line has none.
func (l *line) signals() uint64 {
	if l == nil {
		return 0
	}
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(l.event.FD()))
	if err != nil {
		panic(fmt.Errorf("vutest: count signals (needs /proc): %w", err))
	}
	_, count, _ := strings.Cut(string(info), "eventfd-count:")
	count, _, _ = strings.Cut(strings.TrimSpace(count), "\n")
	n, err := strconv.ParseUint(count, 16, 64)
	if err != nil {
		panic(fmt.Errorf("vutest: count signals: %w", err))
	}
	return n + l.old.signals()
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
