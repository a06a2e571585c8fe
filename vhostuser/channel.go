package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
)

// BackendRequest is the id of a message from the back-end, a space of its own
// (vhost-user protocol, "Back-end message types").
type BackendRequest uint32

// BackendConfigChange says that the configuration space has changed.
const BackendConfigChange BackendRequest = 2

// channel is the socket for requests to the front-end (SET_BACKEND_REQ_FD). A
// goroutine of its own sends and waits for the answers, so that the session
// goes on answering meanwhile: a front-end may ask it something before it
// answers us.
//
// Nothing is sent while no ring runs: a device that is suspended is silent.
// What was to be said is said when a ring starts.
type channel struct {
	conn    *sys.Conn
	timeout time.Duration // for an answer
	log     func(level hclog.Level, text string, pairs ...any)
	wake    chan struct{} // one element: there may be something to send
	done    chan struct{} // closed when the goroutine has ended
	quit    chan struct{}

	mu    sync.Mutex // held while a request is sent, but not for its answer
	terms terms
	dirty bool // the configuration has changed and the front-end does not know
}

// terms are under what conditions a channel speaks.
type terms struct {
	config bool // CONFIG is negotiated
	acks   bool // REPLY_ACK is negotiated
	runs   bool // a ring runs
}

// channelSend is how long a request of some bytes may take to leave: it has
// room at once unless the front-end reads nothing at all, and the session
// waits for it when the last ring stops.
const channelSend = 100 * time.Millisecond

func newChannel(c *sys.Conn, timeout time.Duration, log func(hclog.Level, string, ...any)) *channel {
	return &channel{conn: c, timeout: timeout, log: log, wake: make(chan struct{}, 1), done: make(chan struct{}), quit: make(chan struct{})}
}

// run sends what there is to send until the channel is closed or fails.
func (c *channel) run() {
	defer close(c.done)
	for {
		select {
		case <-c.quit:
			return
		case <-c.wake:
		}
		acks, sent, err := c.send()
		if err == nil && sent && acks {
			err = c.answer()
		}
		if err != nil {
			if !hungUp(err) {
				c.log(hclog.Warn, "requests to the front-end end", "error", err)
			}
			_ = c.conn.Close()
			return
		}
	}
}

// changed notes that the configuration has changed.
func (c *channel) changed() {
	c.mu.Lock()
	c.dirty = true
	c.mu.Unlock()
	c.look()
}

// agree sets the terms. When it returns, nothing is sent against them.
func (c *channel) agree(t terms) {
	c.mu.Lock()
	changed := t != c.terms
	c.terms = t
	c.mu.Unlock()
	if changed {
		c.look()
	}
}

// look makes the goroutine look whether there is something to send.
func (c *channel) look() {
	select {
	case c.wake <- struct{}{}:
	default: // it will look
	}
}

// send sends what is due. An answer comes if acks says so.
func (c *channel) send() (acks, sent bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.dirty || !c.terms.config || !c.terms.runs {
		return false, false, nil
	}
	c.dirty = false
	flags := FlagVersion
	if c.terms.acks {
		flags |= FlagNeedReply
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(channelSend)); err != nil {
		return false, false, fmt.Errorf("vhostuser: send to the front-end: %w", err)
	}
	return c.terms.acks, true, c.conn.Send(Message(Request(BackendConfigChange), flags, nil), nil)
}

// answer reads the acknowledgement. A front-end that cannot use the message
// says so, which changes nothing.
func (c *channel) answer() error {
	if err := c.conn.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return fmt.Errorf("vhostuser: read an answer: %w", err)
	}
	var b [HeaderLen + 8]byte
	for n := 0; n < len(b); {
		got, fds, err := c.conn.Recv(b[n:], 0)
		sys.CloseAll(fds)
		if errors.Is(err, io.EOF) && n > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("vhostuser: read an answer: %w", err)
		}
		n += got
	}
	h, err := ParseHeader(b[:])
	if err != nil {
		return err
	}
	if h != (Header{Request: Request(BackendConfigChange), Flags: ReplyFlags, Size: 8}) {
		return fmt.Errorf("vhostuser: header %+v where the answer to request %d of the back-end is expected", h, BackendConfigChange)
	}
	if code := order.Uint64(b[HeaderLen:]); code != 0 {
		c.log(hclog.Debug, "front-end has no use for a change of the configuration", "answer", code)
	}
	return nil
}

// close ends the channel and waits for its goroutine.
func (c *channel) close() {
	if c == nil {
		return
	}
	close(c.quit)
	_ = c.conn.Close()
	<-c.done
}

// setBackendReqFD: the socket for requests to the front-end. It takes the place
// of an earlier one.
func (s *session) setBackendReqFD(m *message) ([]byte, error) {
	if err := empty(m); err != nil {
		return nil, err
	}
	if len(m.fds) != 1 {
		return nil, errors.New("vhostuser: SET_BACKEND_REQ_FD without its socket")
	}
	conn, err := sys.ConnFrom(m.take(0))
	if err != nil {
		return nil, fmt.Errorf("vhostuser: SET_BACKEND_REQ_FD: %w", err)
	}
	s.closeChannel()
	s.channel = newChannel(conn, s.srv.o.SendTimeout, s.log)
	s.srv.channel.Store(s.channel)
	go s.channel.run()
	return nil, nil
}

// closeChannel ends the channel if there is one.
func (s *session) closeChannel() {
	s.srv.channel.Store(nil)
	s.channel.close()
	s.channel = nil
}

// agree tells the channel what the last message has changed for it.
func (s *session) agree() {
	if s.channel == nil {
		return
	}
	s.channel.agree(terms{config: s.protocol.Has(ProtocolConfig), acks: s.protocol.Has(ProtocolReplyAck), runs: s.runs()})
}

// ConfigChanged says that the device's configuration space has changed by
// itself: a front-end that has asked for it, by BACKEND_REQ and CONFIG, is
// told, when a ring runs. It may be called concurrently with everything, and
// does not wait.
func (s *Server) ConfigChanged() {
	if c := s.channel.Load(); c != nil {
		c.changed()
	}
}
