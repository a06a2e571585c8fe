package sys

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxFDs is how many descriptors one message can carry (SCM_MAX_FD of Linux).
const MaxFDs = 253

// ErrTruncated is returned by [Conn.Recv] when not all descriptors of a message
// arrived: the peer sent more than the caller wanted, or this process is at
// its limit of open files. Those that did arrive are closed.
var ErrTruncated = errors.New("sys: descriptors of a message were lost: " +
	"the peer sent more than the message may carry, or this process has too many open files")

// Conn is a unix stream socket that passes descriptors. One goroutine may Recv
// while another one Sends; Close ends both.
type Conn struct {
	u   *net.UnixConn
	raw syscall.RawConn
}

// NewConn takes over u, on error too.
func NewConn(u *net.UnixConn) (*Conn, error) {
	raw, err := u.SyscallConn()
	if err != nil {
		_ = u.Close()
		return nil, fmt.Errorf("sys: use a unix socket: %w", err)
	}
	c := &Conn{u: u, raw: raw}
	// An inherited socket may ask for credentials; they would take the room
	// that is meant for descriptors.
	err = c.control(func(fd int) error {
		return errors.Join(checkSocket(fd, false),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 0),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSSEC, 0))
	})
	if err != nil {
		_ = u.Close()
		return nil, fmt.Errorf("sys: use a unix socket: %w", err)
	}
	return c, nil
}

func (c *Conn) control(f func(fd int) error) error {
	var inner error
	if err := c.raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// checkSocket accepts a unix stream socket that listens, or one that does not.
func checkSocket(n int, listens bool) error {
	switch accepts, err := IsListening(n); {
	case err != nil:
		return err
	case listens && !accepts:
		return errors.New("a socket that listens is needed, got one that does not")
	case !listens && accepts:
		return errors.New("a connected socket is needed, got one that listens")
	}
	return nil
}

// socketFile takes ownership of an inherited socket that checkSocket accepts.
func socketFile(fd *FD, listens bool) (*os.File, error) {
	n := fd.Take()
	if n < 0 {
		return nil, errors.New("sys: use an inherited socket: the descriptor is not open")
	}
	f := os.NewFile(uintptr(n), "inherited socket")
	if err := checkSocket(n, listens); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("sys: use an inherited socket: %w", err)
	}
	return f, nil
}

// ConnFrom makes a Conn of an inherited descriptor. It takes ownership, on
// error too.
func ConnFrom(fd *FD) (*Conn, error) {
	f, err := socketFile(fd, false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // the net package works on a duplicate
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("sys: use an inherited socket: %w", err)
	}
	return NewConn(c.(*net.UnixConn)) // checkSocket has seen what it is
}

// ListenerFrom makes a listener of an inherited unix socket that listens
// already. It takes ownership, on error too. Closing the listener leaves the
// socket's file alone: whoever bound it removes it.
func ListenerFrom(fd *FD) (*net.UnixListener, error) {
	f, err := socketFile(fd, true)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("sys: use an inherited socket: %w", err)
	}
	u := l.(*net.UnixListener) // checkSocket has seen what it is
	u.SetUnlinkOnClose(false)
	return u, nil
}

// Pair makes two connected Conns.
func Pair() (a, b *Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("sys: create a socket pair: %w", err)
	}
	other := OwnFD(fds[1])
	if a, err = ConnFrom(OwnFD(fds[0])); err != nil {
		_ = other.Close()
		return nil, nil, err
	}
	if b, err = ConnFrom(other); err != nil {
		_ = a.Close()
		return nil, nil, err
	}
	return a, b, nil
}

// Recv reads at most len(b) bytes, which is at least one, and the descriptors
// that came with them, at most maxFDs. It waits for the first byte until the
// deadline or Close. The caller owns the descriptors; they are close-on-exec.
// n is at least 1 without an error; the end of the stream is io.EOF. More
// descriptors than wanted: all are closed, and the error is ErrTruncated.
//
// The kernel does not join bytes of a message that carries descriptors with
// those of a later one that does, but it may return less than a whole message.
func (c *Conn) Recv(b []byte, maxFDs int) (n int, fds []*FD, err error) {
	return c.RecvBounded(b, maxFDs, noBound)
}

// RecvBounded is Recv that calls bound once before it waits, if it has to. bound
// may set the read deadline; its error ends the attempt. So a deadline is set
// only where it can matter: each is a timer, which wakes the process if it is left
// behind.
func (c *Conn) RecvBounded(b []byte, maxFDs int, bound func() error) (n int, fds []*FD, err error) {
	if len(b) == 0 || maxFDs < 0 || maxFDs > MaxFDs {
		return 0, nil, fmt.Errorf("sys: receive %d bytes and %d descriptors: at least 1 byte and 0 to %d descriptors can be asked for", len(b), maxFDs, MaxFDs)
	}
	var oob []byte
	if maxFDs > 0 {
		oob = make([]byte, unix.CmsgLen(4*maxFDs)) // CmsgSpace would leave room for one more
	}
	var oobn, flags int
	var inner error
	wait := waiting{bound: bound}
	err = c.raw.Read(func(fd uintptr) bool {
		for {
			n, oobn, flags, _, inner = unix.Recvmsg(int(fd), b, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
			switch {
			case errors.Is(inner, unix.EINTR):
			case errors.Is(inner, unix.EAGAIN):
				return !wait.begin(&inner)
			default:
				return true
			}
		}
	})
	if err == nil { // else inner is the EAGAIN that made us wait
		err = inner
	}
	if err != nil {
		return 0, nil, fmt.Errorf("sys: receive: %w", err)
	}
	fds, err = rights(oob[:oobn])
	switch {
	case err != nil:
	case flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 || len(fds) > maxFDs:
		err = ErrTruncated
	case n == 0:
		err = io.EOF
	default:
		return n, fds, nil
	}
	CloseAll(fds)
	return 0, nil, err
}

// rights takes ownership of the descriptors in a control message. It returns
// those it found on error, too.
func rights(oob []byte) (fds []*FD, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("sys: receive descriptors: %w", err)
	}
	for i := range messages {
		if messages[i].Header.Level != unix.SOL_SOCKET || messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		numbers, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, fmt.Errorf("sys: receive descriptors: %w", err)
		}
		for _, n := range numbers {
			fds = append(fds, OwnFD(n))
		}
	}
	return fds, nil
}

// Send writes all of b, and the descriptors with its first byte, in one
// message as far as the socket's buffer allows. It waits for room until the
// write deadline or Close. The descriptors stay the caller's.
func (c *Conn) Send(b []byte, fds []*FD) error { return c.SendBounded(b, fds, noBound) }

// SendBounded is Send that calls bound once before it waits, if it has to; see
// RecvBounded. It is for the write deadline.
func (c *Conn) SendBounded(b []byte, fds []*FD, bound func() error) error {
	if len(b) == 0 || len(fds) > MaxFDs {
		return fmt.Errorf("sys: send %d bytes and %d descriptors: at least 1 byte and at most %d descriptors are needed", len(b), len(fds), MaxFDs)
	}
	var oob []byte
	if len(fds) > 0 {
		numbers := make([]int, len(fds))
		for i, f := range fds {
			numbers[i] = f.Num()
		}
		oob = unix.UnixRights(numbers...)
	}
	var inner error
	wait := waiting{bound: bound}
	err := c.raw.Write(func(fd uintptr) bool {
		for len(b) > 0 {
			var n int
			n, inner = unix.SendmsgN(int(fd), b, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			switch {
			case errors.Is(inner, unix.EINTR):
			case errors.Is(inner, unix.EAGAIN):
				return !wait.begin(&inner)
			case inner != nil:
				return true
			default:
				b, oob = b[n:], nil // what was accepted carried the descriptors
			}
		}
		return true
	})
	if err == nil {
		err = inner
	}
	if err != nil {
		return fmt.Errorf("sys: send: %w", err)
	}
	return nil
}

// waiting is an attempt that may have to wait.
type waiting struct {
	bound func() error
	begun bool
}

// begin reports whether the attempt may wait; if not, err is why.
func (w *waiting) begin(err *error) bool {
	if !w.begun {
		w.begun = true
		*err = w.bound()
		return *err == nil
	}
	return true
}

func noBound() error { return nil }

// PeerGone reports whether the peer has closed its end, or at least its
// writing half; bytes that it wrote before may still wait to be read.
func (c *Conn) PeerGone() bool {
	gone := true // a closed Conn has no peer
	_ = c.control(func(fd int) error {
		gone = ready(fd, unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR)
		return nil
	})
	return gone
}

// SetReadDeadline bounds Recv, also one in flight; the zero time is no bound.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.u.SetReadDeadline(t) }

// SetWriteDeadline bounds Send, also one in flight; the zero time is no bound.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.u.SetWriteDeadline(t) }

// SetDeadline bounds Recv and Send.
func (c *Conn) SetDeadline(t time.Time) error { return c.u.SetDeadline(t) }

// Close ends the connection; a Recv or Send in flight returns with an error
// for which errors.Is(err, net.ErrClosed) holds.
func (c *Conn) Close() error { return c.u.Close() }
