package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
)

// Options say where front-ends come from and what they may use. One of Path,
// Listener and Conn is needed. The zero value of any other field means its
// default.
type Options struct {
	// Name is the port's name, for logs and memory faults.
	Name string

	// Path is where a socket is made. A stale one is replaced, a live one
	// refused; it is removed at the end. A name behind '@' is an abstract
	// socket's, which is no file.
	Path string
	// Mode of the socket at Path, default 0660. Who may write to it may hand
	// the process memory and attach to the port. Of an abstract socket the
	// same is asked of the credentials of whoever connects.
	Mode os.FileMode
	// Owner and Group of the socket at Path, by name or number; default: the
	// process's.
	Owner, Group string

	// Dial connects to the socket at Path instead, where the front-end listens
	// (QEMU's server=on), and connects again whenever the connection has ended,
	// until Serve ends. Mode, Owner and Group are the front-end's affair then.
	Dial bool
	// DialPause is the longest pause between two attempts to connect; default
	// 1 s.
	DialPause time.Duration

	// Listener is a socket that listens already. The server owns it.
	Listener *sys.FD
	// Conn is a socket that a front-end is connected to already; Serve returns
	// when it is gone. The server owns it.
	Conn *sys.FD

	// Positions is a file on a tmpfs in which the positions of packed rings
	// outlive the process, so that they survive a kill; it is made if need be.
	// "": packed rings do not survive.
	Positions string

	// Inflight offers INFLIGHT_SHMFD. Split rings have no need of it: what it is
	// for is done here without it, and it lets another program serve their guests
	// in turn. Packed rings survive by it without Positions, if their front-end
	// asks for it.
	Inflight bool

	// Budget bounds the memory that front-ends can make this port map;
	// required.
	Budget *sharedmem.Budget
	// ProtocolMask are protocol features that are not offered.
	ProtocolMask Protocol
	// Log takes the state changes, at most ten lines in a second; default: none.
	Log hclog.Logger

	// OnFrontEnd is told that a front-end is there and that it has gone: then
	// nothing of its session is left, and nobody writes to its memory. It is
	// called on the session's goroutine and must not block. nil: nobody listens.
	OnFrontEnd func(connected bool)

	// MessageTimeout is how long a message may take from its first byte to its
	// last; default 5 s.
	MessageTimeout time.Duration
	// SendTimeout is how long a front-end may leave a reply unread; default 5 s.
	SendTimeout time.Duration
}

// defaultTimeout is of no use to a front-end that lives: it sends a message in
// one piece and waits for the reply.
const defaultTimeout = 5 * time.Second

// defaultMode lets the owner and the group attach VMs.
const defaultMode = 0o660

// acceptPause is the rest after a failed accept (no descriptors left, say),
// so that it does not become a busy loop.
const acceptPause = 100 * time.Millisecond

// Server is a port's socket. It serves one front-end at a time and outlives
// every one of them.
//
// A second front-end on a port whose front-end lives is refused: its
// connection is closed at once and counted. When the first one has hung up and
// its session is only being cleared away, the newcomer waits for that and is
// served.
type Server struct {
	dev     Device
	o       Options
	log     *limitedLog
	rings   int
	offered Protocol
	budget  *sharedmem.PortBudget

	positions *positions        // nil: are not kept
	keeping   *positions        // the same while Serve runs
	listener  *net.UnixListener // nil with o.Conn and o.Dial
	conn      *sys.Conn         // nil without o.Conn
	file      sys.SocketFile
	access    access
	channel   atomic.Pointer[channel] // of the session, nil: none
	counters  counters
	served    atomic.Bool
	ended     chan struct{} // closed by Close
	closed    atomic.Bool
}

// NewServer binds the socket, or takes over the one in o, and checks that dev
// can be served. Nothing is answered before [Server.Serve]. The descriptors in
// o belong to the server from here on, on error too.
func NewServer(dev Device, o Options) (*Server, error) {
	s := &Server{dev: dev, o: o, rings: dev.Rings(), offered: offered(dev) &^ o.ProtocolMask, ended: make(chan struct{})}
	if o.Inflight {
		s.offered |= ProtocolInflight &^ o.ProtocolMask
	}
	if err := s.check(); err != nil {
		sys.CloseAll([]*sys.FD{o.Listener, o.Conn})
		return nil, err
	}
	s.log = newLimitedLog(s.o.Log)
	s.budget = s.o.Budget.Port()
	var err error
	if s.positions, err = openPositions(o.Positions, s.rings); err != nil {
		sys.CloseAll([]*sys.FD{o.Listener, o.Conn})
		return nil, err
	}
	if err = s.open(); err != nil {
		s.positions.drop()
		return nil, err
	}
	return s, nil
}

// check judges the options and fills in the defaults.
func (s *Server) check() error {
	ways := 0
	for _, given := range []bool{s.o.Path != "", s.o.Listener != nil, s.o.Conn != nil} {
		if given {
			ways++
		}
	}
	switch {
	case ways != 1:
		return fmt.Errorf("vhostuser: %d ways to reach port %q are given; exactly one of a path, a listening socket and a connected one is needed", ways, s.o.Name)
	case s.rings < 1 || s.rings > maxRings:
		return fmt.Errorf("vhostuser: device %q has %d rings, 1 to %d can be served", s.o.Name, s.rings, maxRings)
	case s.o.Budget == nil:
		return fmt.Errorf("vhostuser: port %q needs a memory budget", s.o.Name)
	case s.o.Mode&^os.ModePerm != 0:
		return fmt.Errorf("vhostuser: socket mode %#o of port %q; permission bits (0 to 0777) are needed", s.o.Mode, s.o.Name)
	case s.o.Dial && (s.o.Path == "" || s.o.Mode != 0 || s.o.Owner != "" || s.o.Group != ""):
		return fmt.Errorf("vhostuser: port %q connects to its front-end, so it needs a path and has no mode, owner or group of a socket to set", s.o.Name)
	case s.o.MessageTimeout < 0 || s.o.SendTimeout < 0 || s.o.DialPause < 0:
		return fmt.Errorf("vhostuser: a timeout or pause of port %q is negative", s.o.Name)
	}
	if s.o.Mode == 0 {
		s.o.Mode = defaultMode
	}
	if s.o.Log == nil {
		s.o.Log = hclog.NewNullLogger()
	}
	if s.o.OnFrontEnd == nil {
		s.o.OnFrontEnd = func(bool) {}
	}
	if s.o.MessageTimeout == 0 {
		s.o.MessageTimeout = defaultTimeout
	}
	if s.o.DialPause == 0 {
		s.o.DialPause = defaultPause
	}
	if s.o.SendTimeout == 0 {
		s.o.SendTimeout = defaultTimeout
	}
	return nil
}

func (s *Server) open() (err error) {
	switch {
	case s.o.Conn != nil:
		s.conn, err = sys.ConnFrom(s.o.Conn)
	case s.o.Listener != nil:
		s.listener, err = sys.ListenerFrom(s.o.Listener)
	case s.o.Dial:
		err = checkPath(s.o.Path)
	default:
		if s.access, err = newAccess(s.o.Mode, s.o.Owner, s.o.Group); err == nil {
			s.listener, s.file, err = listen(s.o.Path, s.access)
		}
	}
	return err
}

// Serve accepts front-ends, or connects to one, and runs their sessions until
// ctx ends or the server is closed; with [Options.Conn] also until that front-end is gone. It
// returns when every session and goroutine of it has ended and the socket file
// is removed: nil unless it was called a second time.
func (s *Server) Serve(ctx context.Context) error {
	if s.served.Swap(true) {
		return errors.New("vhostuser: Serve was called before; a server serves once")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	end := watch(s.ended, cancel)
	defer end()
	s.keeping = s.positions.take()
	defer s.keeping.drop() // no session is left
	defer s.Close()
	if s.conn != nil {
		<-s.start(ctx, s.conn).done
		return nil
	}
	if s.o.Dial {
		s.dial(ctx)
		return nil
	}
	release := watch(ctx.Done(), func() { _ = s.listener.Close() })
	defer release()
	s.accept(ctx)
	return nil
}

// Close ends Serve, which does the waiting, and releases the socket. It is for
// servers that are never served, too; closing again does nothing.
func (s *Server) Close() {
	if s.closed.Swap(true) {
		return
	}
	close(s.ended)
	if s.listener != nil {
		_ = s.listener.Close()
	}
	if s.conn != nil && !s.served.Load() {
		_ = s.conn.Close()
	}
	s.positions.drop()
	s.file.Remove()
}

// accept hands each newcomer to a session or refuses it, and returns when the
// last session has ended.
func (s *Server) accept(ctx context.Context) {
	var live *session
	defer func() {
		if live != nil {
			<-live.done
		}
	}()
	for {
		u, err := s.listener.AcceptUnix()
		if err == nil && ctx.Err() != nil {
			_ = u.Close()
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.write(hclog.Warn, "a front-end could not be accepted", "port", s.o.Name, "error", err)
			rest(ctx, acceptPause)
			continue
		}
		c, err := s.admit(u)
		if err != nil {
			s.log.write(hclog.Warn, "a front-end could not be accepted", "port", s.o.Name, "error", err)
			continue
		}
		if live != nil && !s.vacated(ctx, live) {
			s.counters.second.Add(1)
			s.log.write(hclog.Warn, "a second front-end was refused, the first one is still connected", "port", s.o.Name)
			_ = c.Close()
			continue
		}
		live = s.start(ctx, c)
	}
}

// admit makes a connection of u, which it owns, if whoever connected may.
func (s *Server) admit(u *net.UnixConn) (*sys.Conn, error) {
	if s.o.Path != "" && abstract(s.o.Path) {
		if err := s.access.admits(u); err != nil {
			s.counters.stranger.Add(1)
			_ = u.Close()
			return nil, err
		}
	}
	return sys.NewConn(u)
}

// vacated reports whether live's place can be had: it has ended, or its
// front-end has hung up, and then vacated waits for the end.
func (s *Server) vacated(ctx context.Context, live *session) bool {
	select {
	case <-live.done:
		return true
	default:
	}
	if !live.conn.PeerGone() {
		return false
	}
	<-live.done // ends by itself, as the peer is gone, and when ctx ends
	return ctx.Err() == nil
}

// start runs a session for c, which it owns, until the front-end is gone or
// ctx ends; then the session's done is closed.
func (s *Server) start(ctx context.Context, c *sys.Conn) *session {
	live := newSession(s, &conn{Conn: c, receive: s.o.MessageTimeout, send: s.o.SendTimeout})
	go func() {
		defer close(live.done)
		release := watch(ctx.Done(), live.conn.end)
		defer release()
		live.run()
	}()
	return live
}

// watch calls f when c is closed. The function that it returns ends the watch
// and returns when f is not running any more.
func watch(c <-chan struct{}, f func()) (end func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-c:
			f()
		case <-quit:
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

// rest waits for d or for the end of ctx.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
