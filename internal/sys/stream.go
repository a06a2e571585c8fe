package sys

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Stream is the end of a pipe, or of a unix stream socket, that a peer sent to
// pass bytes. One goroutine reads or writes; Stop may come from any and ends
// the wait.
//
// The peer holds the same open file and may clear O_NONBLOCK, so a call that
// waits is never made: sockets are used with MSG_DONTWAIT, and bytes go to and
// from a pipe by splice with SPLICE_F_NONBLOCK, through a pipe of our own.
type Stream struct {
	fd      *FD
	relay   [2]*FD // the pipe of our own: read from, written to; nil for a socket
	stopped *Event
}

var errStopped = errors.New("sys: the transfer was stopped")

// relayBytes is what fits in a pipe of our own at once, whatever the system's
// default size: sixteen pages of the smallest kind.
const relayBytes = 16 * 4096

// StreamFrom makes a Stream of a descriptor that a peer sent. It takes
// ownership of fd, also when it fails. Anything but a pipe or a connected unix
// stream socket is refused.
func StreamFrom(fd *FD) (*Stream, error) {
	s := &Stream{fd: fd}
	err := s.open()
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stream) open() (err error) {
	var st unix.Stat_t
	if err := unix.Fstat(s.fd.Num(), &st); err != nil {
		return fmt.Errorf("sys: look at a stream's descriptor: %w", err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			return fmt.Errorf("sys: create a pipe: %w", err)
		}
		s.relay = [2]*FD{OwnFD(ends[0]), OwnFD(ends[1])}
	case unix.S_IFSOCK:
		if err := checkSocket(s.fd.Num(), false); err != nil {
			return fmt.Errorf("sys: use a socket as a stream: %w", err)
		}
	default:
		return fmt.Errorf("sys: a stream must be a pipe or a unix stream socket, got a file of type %#o", st.Mode&unix.S_IFMT)
	}
	s.stopped, err = NewEvent()
	return err
}

// Read reads up to len(b) bytes, which is at least one, and waits for the first;
// the end of the stream is io.EOF.
func (s *Stream) Read(b []byte) (n int, err error) {
	b = b[:min(len(b), relayBytes)]
	for {
		if n, err = s.readNow(b); err == nil && n == 0 {
			return 0, io.EOF
		}
		if err == nil {
			return n, nil
		}
		if err := s.retry(err, unix.POLLIN); err != nil {
			return 0, err
		}
	}
}

func (s *Stream) readNow(b []byte) (int, error) {
	if s.relay[0] == nil {
		n, _, err := unix.Recvfrom(s.fd.Num(), b, unix.MSG_DONTWAIT)
		return n, err
	}
	n, err := unix.Splice(s.fd.Num(), nil, s.relay[1].Num(), nil, len(b), unix.SPLICE_F_NONBLOCK)
	if n <= 0 || err != nil {
		return 0, err
	}
	return unix.Read(s.relay[0].Num(), b[:n])
}

// Write writes all of b and waits for room as long as it takes.
func (s *Stream) Write(b []byte) (done int, err error) {
	for done < len(b) {
		part := b[done:min(len(b), done+relayBytes)]
		if s.relay[0] == nil {
			err = s.send(part)
		} else {
			err = s.spliceOut(part)
		}
		if err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

func (s *Stream) send(b []byte) error {
	for len(b) > 0 {
		n, err := unix.SendmsgN(s.fd.Num(), b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err != nil {
			if err := s.retry(err, unix.POLLOUT); err != nil {
				return err
			}
			continue
		}
		b = b[n:]
	}
	return nil
}

// spliceOut hands b over to the pipe. It fits into the relay, which is empty
// before and after.
func (s *Stream) spliceOut(b []byte) error {
	n, err := unix.Write(s.relay[1].Num(), b)
	if err != nil || n != len(b) {
		return fmt.Errorf("sys: write %d of %d bytes to a pipe of our own: %w", n, len(b), err)
	}
	for left := int64(n); left > 0; {
		n, err := unix.Splice(s.relay[0].Num(), nil, s.fd.Num(), nil, int(left), unix.SPLICE_F_NONBLOCK)
		if err != nil {
			if err := s.retry(err, unix.POLLOUT); err != nil {
				return err
			}
			continue
		}
		left -= n
	}
	return nil
}

// retry answers nil when what failed with err is to be tried again: at once, or
// when the descriptor is ready.
func (s *Stream) retry(err error, events int16) error {
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case !errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("sys: pass bytes on a stream: %w", err)
	}
	p := [2]unix.PollFd{{Fd: int32(s.fd.Num()), Events: events}, {Fd: int32(s.stopped.FD()), Events: unix.POLLIN}}
	_, err = unix.Poll(p[:], -1)
	switch {
	case err != nil && !errors.Is(err, unix.EINTR):
		return fmt.Errorf("sys: wait for a stream: %w", err)
	case p[1].Revents != 0:
		return errStopped
	}
	return nil
}

// Stop ends a Read or Write that waits, and every later one that would.
func (s *Stream) Stop() { s.stopped.Signal() }

// Close gives the descriptors back, when nobody reads or writes any more.
func (s *Stream) Close() {
	CloseAll([]*FD{s.fd, s.relay[0], s.relay[1]})
	s.stopped.Close()
}
