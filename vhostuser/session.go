package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// maxRings is how many rings the 8-bit index of a ring's descriptors can name.
const maxRings = 256

// transport are the feature bits that belong to the socket's two ends and not
// to the driver.
const transport = virtio.ProtocolFeatures | virtio.LogAll

// session is the state of one front-end. All of it belongs to the goroutine in
// run, except conn, which anybody may end.
type session struct {
	srv  *Server
	dev  Device
	conn *conn
	done chan struct{} // closed when nothing of the session is left

	offered    virtio.Features
	features   virtio.Features     // accepted, without the transport's bits
	negotiated bool                // SET_FEATURES has come
	protocol   Protocol            // accepted
	status     uint8               // device status as the front-end says it is
	foreign    bool                // positions were kept in vain, and the log says so
	lacking    bool                // a ring had no memory to start in, and the log says so
	channel    *channel            // for requests to the front-end, nil: none
	logAll     bool                // writes to guest memory are noted (VHOST_F_LOG_ALL)
	dirtyLog   *sharedmem.DirtyLog // where; nil: has not come
	transfer   *transfer           // of the device's state, nil: none
	inflight   inflight            // the region, if one was sent
	memory     memory
	rings      []ring
}

func newSession(srv *Server, c *conn) *session {
	s := &session{
		srv:     srv,
		dev:     srv.dev,
		conn:    c,
		done:    make(chan struct{}),
		offered: srv.dev.Features()&^transport | virtio.ProtocolFeatures,
		rings:   make([]ring, srv.rings),
	}
	if srv.offered.Has(ProtocolLogShmFD) {
		s.offered |= virtio.LogAll
	}
	for i := range s.rings {
		s.rings[i].index = i
	}
	return s
}

// run serves the front-end until it leaves, breaks the protocol or its
// connection is closed, and clears everything away.
func (s *session) run() {
	s.srv.counters.sessions.Add(1)
	s.log(hclog.Info, "front-end connected")
	s.srv.o.OnFrontEnd(true)
	err := s.begin()
	if err == nil {
		err = s.serve()
	}
	// The device lets go first: who sees the connection closed may rely on
	// nobody writing to its memory any more.
	s.clear()
	s.srv.o.OnFrontEnd(false)
	s.conn.close()
	if hungUp(err) {
		s.log(hclog.Info, "front-end disconnected")
		return
	}
	s.srv.counters.closed.Add(1)
	s.log(hclog.Warn, "front-end was disconnected", "error", err)
}

// hungUp reports whether a session ended because the front-end, or this
// process, wanted it to: the connection was closed, between two messages or
// with replies unread.
func hungUp(err error) bool {
	for _, end := range []error{io.EOF, net.ErrClosed, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// begin gives the session the memory of a front-end that has sent none.
func (s *session) begin() (err error) {
	s.memory.current, err = s.newMap(nil)
	return err
}

// serve reads and does one message after the other. It ends with an error
// always, which is io.EOF when the front-end closed the connection.
func (s *session) serve() error {
	for {
		m, err := s.conn.next()
		if err != nil {
			return err
		}
		s.srv.counters.messages.Add(1)
		if err := s.handle(m); err != nil {
			return err
		}
	}
}

// handle does one request and answers it: with the request's own reply, with
// an acknowledgement if one is wanted, or not at all, but never twice. An
// error ends the session. A request that is refused ends it when its sender
// cannot be told, which is what DPDK does, too.
func (s *session) handle(m *message) error {
	reply, err := s.do(m)
	m.close() // before the answer: who has it finds no descriptor held back
	if err != nil {
		s.srv.counters.refused.Add(1)
	}
	switch {
	case err == nil && reply != nil:
		return s.conn.reply(m.Request, reply)
	case err == nil && m.NeedReply():
		return s.conn.reply(m.Request, U64(0).Marshal())
	case err == nil:
		return nil
	case errors.Is(err, errDefect):
		return err
	case m.NeedReply() && !requests[m.Request].replies:
		// NEED_REPLY is answered whether or not REPLY_ACK was negotiated:
		// QEMU sets it on some requests without, and waits.
		s.log(hclog.Warn, "request was refused", "request", m.Request, "error", err)
		return s.conn.reply(m.Request, U64(1).Marshal())
	case errors.Is(err, errRing):
		return nil // the ring's loss only, and its error event has told
	}
	return fmt.Errorf("vhostuser: %s is refused and its sender wants no acknowledgement: %w", m.Request, err)
}

// do runs the request's handler and starts what can start after it. A panic
// is a defect, but one that a front-end found: it costs that front-end its
// session and nobody anything else. A fault outside guest memory goes on, as
// nothing can be trusted then.
func (s *session) do(m *message) (reply []byte, err error) {
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		if _, wild := r.(interface {
			runtime.Error
			Addr() uintptr
		}); wild && sharedmem.AsFault(r) == nil {
			panic(r)
		}
		s.log(hclog.Error, "request made the program fail, please report this", "request", m.Request, "panic", r, "stack", string(debug.Stack()))
		err = fmt.Errorf("%w: %v", errDefect, r)
	}()
	defer s.agree()
	if reply, err = dispatch(s, m); err != nil {
		return nil, err
	}
	if err = s.settle(); err != nil && requests[m.Request].replies {
		return reply, nil // the ring's loss; this request was done
	}
	return reply, err
}

// errDefect marks an error that is this program's fault.
var errDefect = errors.New("vhostuser: the program failed")

// clear gives back everything that the front-end brought.
func (s *session) clear() {
	for i := range s.rings {
		s.stop(&s.rings[i])
		s.rings[i].forget()
	}
	s.closeChannel()
	s.transfer.end()
	s.inflight.drop()
	s.dirtyLog.Unref()
	s.dev.Disconnected()
	if s.memory.current != nil {
		s.memory.current.Unref()
	}
}

// log writes one line about the session's port.
func (s *session) log(level hclog.Level, text string, pairs ...any) {
	s.srv.log.write(level, text, append([]any{"port", s.srv.o.Name}, pairs...)...)
}
