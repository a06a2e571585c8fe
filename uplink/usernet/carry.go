package usernet

import (
	"bytes"
	"errors"
	"io"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"

	"vhostnet/internal/sys"
)

var (
	errReset  = errors.New("the guest broke the connection off")
	errFull   = errors.New("the host's socket takes no more now")
	errEnough = errors.New("it is the stack's turn")
	errShort  = errors.New("the host's socket gave less than it said")
)

// toHost carries what the guest sends.
func (r *relay) toHost() error {
	we, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	r.wq.EventRegister(&we)
	defer r.wq.EventUnregister(&we)
	raw, err := r.host.SyscallConn()
	if err != nil {
		return err
	}
	var to hostSink
	for {
		more, err := r.drain(raw, &to)
		if errors.Is(err, io.EOF) {
			return r.host.CloseWrite()
		}
		if err != nil {
			return err
		}
		if !more {
			<-readable
		}
	}
}

// drain carries what there is now, as much as a turn may, and reports whether
// there was any. It waits where the host takes nothing.
func (r *relay) drain(raw sys.RawConn, to *hostSink) (more bool, err error) {
	var terr tcpip.Error
	err = raw.Write(func(fd uintptr) bool {
		*to = hostSink{fd: int(fd)}
		_, terr = r.ep.Read(to, tcpip.ReadOptions{})
		return !errors.Is(to.err, errFull)
	})
	if err == nil && to.err != nil && !errors.Is(to.err, errEnough) {
		err = to.err
	}
	if err != nil {
		return false, err
	}
	switch terr.(type) {
	case nil:
		return true, nil
	case *tcpip.ErrWouldBlock:
		return false, nil
	case *tcpip.ErrClosedForReceive:
		return false, io.EOF
	}
	return false, errReset
}

// hostSink is a socket of the host's as the stack writes to it: what it does not
// take stays in the stack.
type hostSink struct {
	fd   int
	done int
	err  error // why it took no more
}

// Write writes as much as the socket takes.
func (s *hostSink) Write(b []byte) (n int, err error) {
	for n < len(b) && s.err == nil {
		m, again, err := sys.WriteNow(s.fd, b[n:])
		n += m
		s.done += m
		switch {
		case err != nil:
			s.err = err
		case again:
			s.err = errFull
		}
	}
	if s.err == nil && s.done >= relayBytes {
		s.err = errEnough
	}
	return n, s.err
}

// toGuest carries what the host sends.
func (r *relay) toGuest() error {
	we, writable := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	r.wq.EventRegister(&we)
	defer r.wq.EventUnregister(&we)
	raw, err := r.host.SyscallConn()
	if err != nil {
		return err
	}
	var from hostSource
	for {
		full, err := r.fill(raw, &from)
		switch {
		case errors.Is(err, io.EOF):
			_ = r.ep.Shutdown(tcpip.ShutdownWrite) // a connection that is over says the same
			return nil
		case err != nil:
			return err
		case full:
			<-writable
		}
	}
}

// fill waits for the host and carries what it has sent, as much as a turn may. It
// reports whether the stack takes no more now.
func (r *relay) fill(raw sys.RawConn, from *hostSource) (full bool, err error) {
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		var again bool
		if again, failed = from.look(int(fd)); again {
			return false
		}
		if failed == nil {
			full, failed = r.pour(from)
		}
		return true
	})
	return full, errors.Join(err, failed)
}

// pour has the stack take what from has.
func (r *relay) pour(from *hostSource) (full bool, err error) {
	offered := from.left
	n, terr := r.ep.Write(from, tcpip.WriteOptions{})
	from.forget()
	switch _, full := terr.(*tcpip.ErrWouldBlock); {
	case errors.Is(from.err, errShort):
		return false, nil // the stack took nothing; what was read is kept for the next turn
	case from.err != nil:
		return false, from.err
	case int(n) != offered-from.left:
		return false, errReset // it was closed while it read
	case full:
		return true, nil
	case terr != nil || n == 0:
		return false, errReset
	}
	return false, nil
}

// hostSource is a socket of the host's as the stack reads from it
// (tcpip.Payloader). It says how much there is before it is read, so nothing is
// in between when the stack has room for a part of that only.
//
// What the socket says is a hint where it counts what is no part of the stream: an
// end (MPTCP), a byte out of band (AF_UNIX). The stack wants what it was told, or
// lets go of all; so what it was given is copied then, and is what there is at the
// next look.
type hostSource struct {
	fd    int
	left  int
	kept  []byte   // was read before the stack took it
	first [1]byte  // of it: what came between the two looks
	given [][]byte // where the stack has what it was given in this turn
	short bool     // less came than was said: only reading tells
	err   error
}

// look finds out what there is: io.EOF at the end of the stream, again if
// nothing yet. What the stack did not take of the last look is in the socket, but
// for what is kept.
func (s *hostSource) look(fd int) (again bool, err error) {
	s.fd, s.err = fd, nil
	if len(s.kept) > 0 {
		s.left = len(s.kept)
		return false, nil
	}
	if !s.short {
		if s.left, err = sys.Waiting(fd); err != nil || s.left > 0 {
			s.left = min(s.left, relayBytes)
			return false, err
		}
	}
	s.short = false
	// It has ended or failed, or has nothing: only reading tells.
	n, again, err := sys.ReadNow(fd, s.first[:])
	switch {
	case again || err != nil:
		return again, err
	case n == 0:
		return false, io.EOF
	}
	s.kept, s.left = s.first[:], 1
	return false, nil
}

// Len is how many bytes there are.
func (s *hostSource) Len() int { return s.left }

// Read gives the next bytes. An error is not io.EOF as long as there are some:
// the stack would wait for the rest.
func (s *hostSource) Read(b []byte) (n int, err error) {
	switch {
	case s.left == 0:
		return 0, io.EOF
	case len(b) == 0:
		return 0, nil
	case len(s.kept) > 0:
		n = copy(b, s.kept)
		s.left -= n
		if s.kept = s.kept[n:]; s.left == 0 {
			s.kept = nil
		}
		return n, nil
	}
	n, again, err := sys.ReadNow(s.fd, b[:min(len(b), s.left)])
	if err == nil && (again || n == 0) {
		s.keep()
		err = errShort
	}
	s.err = err
	s.left -= n
	s.given = append(s.given, b[:n])
	return n, err
}

// keep takes back what was given in this turn, as less came than was said.
func (s *hostSource) keep() {
	s.kept, s.short = bytes.Join(s.given, nil), true
}

// forget ends a turn: what the stack was given is the stack's.
func (s *hostSource) forget() {
	clear(s.given)
	s.given = s.given[:0]
}
