package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"vhostnet/internal/sys"
)

// message is one request with everything that came with it. It owns its
// descriptors until a handler takes them; close ends those that nobody took,
// on every way out.
type message struct {
	Header
	payload []byte // good until the next message is read
	fds     []*sys.FD
}

// take hands the i-th descriptor over to the caller.
func (m *message) take(i int) *sys.FD {
	fd := m.fds[i]
	m.fds[i] = nil
	return fd
}

// close closes the descriptors that nobody took.
func (m *message) close() {
	sys.CloseAll(m.fds)
	m.fds = nil
}

// conn reads and writes whole messages. It is for one goroutine, except that
// end may come from anywhere and ends a read or write in flight.
type conn struct {
	*sys.Conn
	ended   atomic.Bool
	receive time.Duration // for a message, from its first byte on
	send    time.Duration // for a reply
	late    bool          // the read deadline is set, as a message had to be waited for
	buf     [MaxPayload]byte
	goes    *sys.FD // with the next reply, and is then closed
}

// attach has fd, which the conn owns, go with the next reply.
func (c *conn) attach(fd *sys.FD) {
	sys.CloseAll([]*sys.FD{c.goes})
	c.goes = fd
}

// close closes the connection, and the descriptor that no reply has taken. The
// goroutine that reads and writes calls it.
func (c *conn) close() {
	c.attach(nil)
	_ = c.Close()
}

// next waits for a message, as long as it takes; once its first byte is there
// the rest has to follow in time. The error is io.EOF, unwrapped, when the
// peer left between two messages. After any other error the stream cannot be
// followed and must be closed.
func (c *conn) next() (*message, error) {
	m := &message{}
	if err := c.read(m); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// end makes every read and write fail from now on and leaves the connection
// open: the peer sees it closed when nothing of its session is left.
func (c *conn) end() {
	c.ended.Store(true) // before the deadlines, which the reader and writer set, too; see bound
	_ = c.SetDeadline(time.Unix(1, 0))
}

// bound sets a deadline. When end has come it fails: either end's deadline was
// the last to be set, or its flag is seen.
func (c *conn) bound(set func(time.Time) error, t time.Time) error {
	if err := set(t); err != nil {
		return err
	}
	if c.ended.Load() {
		return net.ErrClosed
	}
	return nil
}

// hurry bounds what is still to come of a message. Most are there as a whole, and
// need no deadline.
func (c *conn) hurry() error {
	if c.late {
		return nil
	}
	c.late = true
	return c.bound(c.SetReadDeadline, time.Now().Add(c.receive))
}

// calm takes back what hurry did for the message before.
func (c *conn) calm() error {
	if !c.late {
		return nil
	}
	c.late = false
	return c.bound(c.SetReadDeadline, time.Time{})
}

func (c *conn) read(m *message) error {
	if err := c.calm(); err != nil {
		return fmt.Errorf("vhostuser: wait for a message: %w", err)
	}
	var head [HeaderLen]byte
	n, err := c.some(head[:], m, c.forEver)
	if err != nil {
		return err
	}
	if err := c.rest(head[n:], m); err != nil {
		return fmt.Errorf("vhostuser: message is not complete: header: %w", err)
	}
	if m.Header, err = ParseHeader(head[:]); err != nil {
		return err
	}
	if err := m.Check(); err != nil {
		return err
	}
	m.payload = c.buf[:m.Size]
	if err := c.rest(m.payload, m); err != nil {
		return fmt.Errorf("vhostuser: message is not complete: payload of %s: %w", m.Request, err)
	}
	return nil
}

// forEver is no bound: between two messages a front-end may be silent.
func (c *conn) forEver() error { return nil }

// rest fills b, in time.
func (c *conn) rest(b []byte, m *message) error {
	for len(b) > 0 {
		n, err := c.some(b, m, c.hurry)
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// some reads at least one byte of a message, for which it waits as bound says. Descriptors belong to the byte
// they came with; a sender attaches them to the first one, and whoever spreads
// them gets no more of them in than [MaxFDs].
func (c *conn) some(b []byte, m *message, bound func() error) (int, error) {
	n, fds, err := c.RecvBounded(b, MaxFDs-len(m.fds), bound)
	m.fds = append(m.fds, fds...)
	return n, c.because(err)
}

// because tells a deadline of end from a peer that is too slow.
func (c *conn) because(err error) error {
	if err != nil && c.ended.Load() {
		return net.ErrClosed
	}
	return err
}

// reply sends the answer to r in one piece. A peer that does not read for too
// long is an error.
func (c *conn) reply(r Request, payload []byte) error {
	defer c.attach(nil)
	var fds []*sys.FD
	if c.goes != nil {
		fds = append(fds, c.goes)
	}
	waited := false
	err := c.because(c.SendBounded(Message(r, ReplyFlags, payload), fds, func() error {
		waited = true
		return c.bound(c.SetWriteDeadline, time.Now().Add(c.send))
	}))
	if err == nil && waited {
		err = c.bound(c.SetWriteDeadline, time.Time{}) // or a later reply would be too late
	}
	if err != nil {
		return fmt.Errorf("vhostuser: reply to %s: %w", r, err)
	}
	return nil
}
