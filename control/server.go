package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
)

// Bounds of a server. A connection that says nothing is closed, and those that
// are open do not keep others out for longer than that.
const (
	maxConns   = 64
	headerTime = 5 * time.Second
	idleTime   = time.Minute
	maxHeader  = 16 << 10
	endTime    = time.Second // for answers that are under way at the end
)

// ServerOptions are what a Server is made from.
type ServerOptions struct {
	// Listener is where callers connect, a unix socket; the server owns it.
	// Only root and the user of this process are answered, whatever the file's
	// permissions.
	Listener *net.UnixListener
	Handler  http.Handler
	Log      hclog.Logger // nil: none
}

// Server answers the callers of a unix socket.
type Server struct {
	listener *limitListener
	http     *http.Server
	log      hclog.Logger
	admits   func(sys.Credentials) error
}

// NewServer makes a Server. Nothing is answered before [Server.Serve].
func NewServer(o ServerOptions) (*Server, error) {
	if o.Listener == nil || o.Handler == nil {
		return nil, errors.New("control: a server needs a listener and a handler")
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	s := &Server{listener: newLimitListener(o.Listener, maxConns), log: o.Log, admits: admits}
	s.http = &http.Server{
		Handler:           s.check(o.Handler),
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       withPeer,
		ErrorLog:          o.Log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	return s, nil
}

// Serve answers until ctx ends, and returns when nothing of it is left: nil
// unless the socket failed. It is called once.
func (s *Server) Serve(ctx context.Context) error {
	err := serveUntil(ctx, s.http, s.listener)
	s.listener.wait()
	return err
}

// Close ends a server that is never served.
func (s *Server) Close() { _ = s.listener.Close() }

// peerKey is the key of who is at the other end, in a connection's context.
type peerKey struct{}

type peer struct {
	who sys.Credentials
	err error
}

func withPeer(ctx context.Context, c net.Conn) context.Context {
	var p peer
	if u, ok := c.(*limitConn); ok {
		p.who, p.err = sys.CredentialsOf(u.UnixConn)
	} else {
		p.err = fmt.Errorf("control: a connection of type %T has no credentials", c)
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// check answers only those who may ask.
func (s *Server) check(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := r.Context().Value(peerKey{}).(peer)
		err := p.err
		if err == nil {
			err = s.admits(p.who)
		}
		if err != nil {
			s.log.Warn("a caller of the control socket was refused", "user", p.who.UID, "error", err)
			w.Header().Set("Connection", "close")
			e := asError(err)
			writeJSON(w, defaultPatience, e.code(), e)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// admits lets in root and the process's own user.
func admits(who sys.Credentials) error {
	if who.UID == 0 || who.UID == os.Geteuid() {
		return nil
	}
	if os.Geteuid() == 0 {
		return Errorf(StatusNotAccepted, "user %d may not use this socket; root may", who.UID)
	}
	return Errorf(StatusNotAccepted, "user %d may not use this socket; root and user %d may", who.UID, os.Geteuid())
}

// limitListener bounds how many connections are open, and knows when all are
// closed.
type limitListener struct {
	*net.UnixListener
	places chan struct{}
	open   sync.WaitGroup
	ended  chan struct{}
	once   sync.Once
}

func newLimitListener(l *net.UnixListener, n int) *limitListener {
	return &limitListener{UnixListener: l, places: make(chan struct{}, n), ended: make(chan struct{})}
}

// Accept waits for a place and then for a caller.
func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.ended:
		return nil, net.ErrClosed
	}
	u, err := l.AcceptUnix()
	if err != nil {
		<-l.places
		return nil, err
	}
	l.open.Add(1)
	return &limitConn{UnixConn: u, done: sync.OnceFunc(func() { <-l.places; l.open.Done() })}, nil
}

func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.ended) })
	return l.UnixListener.Close()
}

// wait returns when every connection is closed.
func (l *limitListener) wait() { l.open.Wait() }

type limitConn struct {
	*net.UnixConn
	done func()
}

func (c *limitConn) Close() error {
	defer c.done()
	return c.UnixConn.Close()
}
