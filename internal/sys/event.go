package sys

import (
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Event is a kick, call or error descriptor of a ring: an eventfd, or a pipe
// that is used like one. A nil Event stands for "explicitly none" (vhost-user:
// the no-fd bit): Signal says true and does nothing, like every other method.
// All methods may be called concurrently.
//
// Theory of operation. The peer holds the same open file and may do with it
// what it likes: fill the counter, empty it, clear O_NONBLOCK. So
//
//   - a read never waits: it is a preadv2 with RWF_NOWAIT, which does not ask
//     O_NONBLOCK (an eventfd supports that since Linux 5.8);
//   - a write has no such flag. Signal polls first, and a full counter means
//     that a signal is pending, which is all a signal can say. A peer that
//     fills the counter in between can make the write wait; Kill, called by a
//     watchdog on another thread, empties the counter and so ends the wait;
//   - the descriptor is closed by its last user, so that a write that is late
//     never reaches a file that got the same number afterwards;
//   - a pipe is opened anew, non-blocking, so that its flags are ours alone.
type Event struct {
	fd    int
	pipe  bool          // a non-blocking pipe whose open file is ours alone
	state atomic.Uint64 // users in the low 32 bits (the owner is one), eventDead, eventClosed
}

const (
	eventUsers  = 1<<32 - 1
	eventDead   = 1 << 32 // killed: no new Signal
	eventClosed = 1 << 33 // the owner has gone: no new user, except for Kill
)

func newEvent(fd int, pipe bool) *Event {
	e := &Event{fd: fd, pipe: pipe}
	e.state.Store(1)
	return e
}

// NewEvent makes an eventfd of our own, non-blocking and close-on-exec.
func NewEvent() (*Event, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("sys: create an eventfd: %w", err)
	}
	return newEvent(fd, false), nil
}

// EventFrom makes an Event of a descriptor that a peer sent. It takes
// ownership of fd, also when it fails. Anything but an eventfd or a pipe is
// refused: to poll and write, say, a socket or an epoll instance could wait
// for ever or recurse.
func EventFrom(fd *FD) (*Event, error) {
	defer func() { _ = fd.Close() }() // nothing is left in it on success
	n := fd.Num()
	if n < 0 {
		return nil, errors.New("sys: an event needs an open descriptor, got none")
	}
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil {
		return nil, fmt.Errorf("sys: look at an event's descriptor: %w", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFIFO {
		return reopenPipe(n)
	}
	what, err := fdName(n)
	if err != nil {
		return nil, err
	}
	if what != "anon_inode:[eventfd]" {
		return nil, fmt.Errorf("sys: an event must be an eventfd or a pipe, got %q", what)
	}
	// One byte is too short for an eventfd, so this asks whether RWF_NOWAIT is
	// known without taking anything from the counter.
	if _, err := readNoWait(n, 1); !errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("sys: this kernel cannot read an eventfd without waiting, Linux 5.8 or newer is needed: %w", err)
	}
	return newEvent(fd.Take(), false), nil
}

// reopenPipe opens the pipe behind descriptor n a second time, both ways, so
// that neither its flags nor its end of file depend on the peer.
func reopenPipe(n int) (*Event, error) {
	fd, err := unix.Open(procFD(n), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("sys: open an event's pipe; an eventfd needs no such right: %w", err)
	}
	return newEvent(fd, true), nil
}

// FD is the descriptor's number for a poller, -1 for nil. It stays good until
// the owner calls Close.
func (e *Event) FD() int {
	if e == nil {
		return -1
	}
	return e.fd
}

// Dup makes a descriptor of the same open file, to send it to somebody.
func (e *Event) Dup() (*FD, error) {
	if e == nil || !e.use(eventClosed) {
		return nil, errClosedFD
	}
	defer e.done()
	n, err := unix.FcntlInt(uintptr(e.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("sys: duplicate descriptor %d: %w", e.fd, err)
	}
	return OwnFD(n), nil
}

// use takes the right to touch the descriptor; done gives it back. It fails
// when any bit of forbidden is set or nobody has the descriptor open.
func (e *Event) use(forbidden uint64) bool {
	for {
		s := e.state.Load()
		if s&forbidden != 0 || s&eventUsers == 0 {
			return false
		}
		if e.state.CompareAndSwap(s, s+1) {
			return true
		}
	}
}

// done closes the descriptor when it was the last user's.
func (e *Event) done() {
	if s := e.state.Add(^uint64(0)); s&eventUsers == 0 {
		_ = unix.Close(e.fd)
	}
}

// Signal adds one to the event. True means that the peer will see a signal,
// this one or one that it has not read yet. False means that the event is
// dead: killed, closed, or its descriptor failed. It can wait only for a peer
// that fills the counter at the same moment, until [Event.Kill].
func (e *Event) Signal() bool {
	if e == nil {
		return true
	}
	if !e.use(eventDead | eventClosed) {
		return false
	}
	defer e.done()
	if !ready(e.fd, unix.POLLOUT) {
		return true
	}
	return e.write()
}

// write is the part of Signal that can wait.
func (e *Event) write() bool {
	for {
		_, err := unix.Write(e.fd, oneSignal)
		alive := e.state.Load()&eventDead == 0
		switch {
		case err == nil, errors.Is(err, unix.EAGAIN):
			return alive
		case !errors.Is(err, unix.EINTR), !alive:
			return false
		}
	}
}

// oneSignal is the number 1 in eight bytes of machine order.
var oneSignal = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// Drain takes what is signalled, so that the next signal is a new one. It
// never waits.
func (e *Event) Drain() {
	if e == nil || !e.use(eventClosed) {
		return
	}
	defer e.done()
	e.empty()
}

// empty reads the counter (of a pipe: some hundred bytes) without waiting.
func (e *Event) empty() {
	read := readNoWait
	if e.pipe {
		read = readPipe
	}
	_, _ = read(e.fd, drainBytes) // that nothing was there is as good
}

// readPipe reads and forgets up to n bytes, at most drainBytes.
func readPipe(fd, n int) (int, error) {
	var buf [drainBytes]byte
	for {
		got, err := unix.Read(fd, buf[:min(n, drainBytes)])
		if !errors.Is(err, unix.EINTR) {
			return got, err
		}
	}
}

// Full reports whether the counter has no room for a signal, so that a write
// waits if the descriptor is a blocking one. It never waits itself.
func (e *Event) Full() bool {
	if e == nil || !e.use(0) {
		return false
	}
	defer e.done()
	return !ready(e.fd, unix.POLLOUT)
}

// Kill marks the event dead for good and empties the counter, so that a Signal
// that waits in its write returns. It never waits, and works after Close as
// long as that Signal is in flight. A peer that fills the counter again before
// the writer has run can win one round: a watchdog calls Kill until the writer
// is back.
func (e *Event) Kill() {
	if e == nil {
		return
	}
	e.state.Or(eventDead)
	if !e.use(0) {
		return
	}
	defer e.done()
	e.empty()
}

// Close gives the event up. It never waits: a Signal that is in flight closes
// the descriptor when it comes back. Closing again does nothing.
func (e *Event) Close() {
	if e == nil {
		return
	}
	if old := e.state.Or(eventClosed); old&eventClosed == 0 {
		e.done()
	}
}

// ready asks whether fd is ready for events, now.
func ready(fd int, events int16) bool {
	for {
		p := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
		n, err := unix.Poll(p[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n == 1 && p[0].Revents&events != 0
	}
}
