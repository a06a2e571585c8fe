package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"
)

// Bounds of one guest, of which none is another's affair.
const (
	guestConns    = 8
	guestStreams  = 2
	guestBody     = 4 << 10
	guestHeader   = 4 << 10
	guestRate     = 20 // requests in a second, and connections
	guestBurst    = 40
	guestPatience = 5 * time.Second
)

// GuestOptions are what a Guest is made from.
type GuestOptions struct {
	Port   string // of the switch; it is what the guest sees
	Policy GuestPolicy
	// CID is how AF_VSOCK names the guest; 0: it does not come that way.
	CID uint32
	// Listener is a socket at which only this guest can connect, that of hybrid
	// vsock; nil: it does not come that way. The Guest owns it.
	Listener net.Listener
	Log      hclog.Logger // nil: none
}

// Guest answers one guest for its own port.
type Guest struct {
	o        GuestOptions
	guests   *Guests
	conns    *handed
	http     *http.Server
	arrivals *rate.Limiter // of connections
	events   Hub           // of its port
}

// NewGuest makes a Guest of g's. Nothing is answered before [Guest.Serve].
func (g *Guests) NewGuest(o GuestOptions) (*Guest, error) {
	switch {
	case o.Port == "":
		return nil, errors.New("control: a guest needs a port")
	case o.CID == 0 && o.Listener == nil:
		return nil, errors.New("control: a guest needs a CID or a listener to be known by")
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	u := &Guest{o: o, guests: g, conns: newHanded(guestAddr(o.Port), guestConns), arrivals: newArrivals()}
	part := &guestPart{host: g.host, port: o.Port, policy: o.Policy, changing: &g.changing, events: &u.events}
	u.http = guestServer(NewHandler(part, HandlerOptions{Streams: guestStreams, Body: guestBody, Patience: guestPatience}))
	return u, nil
}

func newArrivals() *rate.Limiter { return rate.NewLimiter(guestRate, guestBurst) }

// guestServer serves a guest. What comes too fast waits, and with it only the
// connection that it came by. It says nothing to the log: what a guest does is
// no news.
func guestServer(h http.Handler) *http.Server {
	requests := rate.NewLimiter(guestRate, guestBurst)
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if requests.Wait(r.Context()) == nil { // otherwise nobody waits for an answer
				h.ServeHTTP(w, r)
			}
		}),
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    guestHeader,
		ErrorLog:          hclog.NewNullLogger().StandardLogger(nil),
	}
}

// guestAddr is the address of a guest's connections, in errors.
type guestAddr string

func (guestAddr) Network() string  { return "guest" }
func (a guestAddr) String() string { return string(a) }

// Serve answers the guest until ctx ends, and returns when nothing of it is
// left. It is called once.
func (u *Guest) Serve(ctx context.Context) error {
	if err := u.guests.bind(u); err != nil {
		u.Close()
		return err
	}
	defer u.guests.unbind(u)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var beside sync.WaitGroup
	beside.Go(func() { u.forward(ctx) })
	if u.o.Listener != nil {
		beside.Go(func() { u.accept(ctx) })
	}
	err := serveUntil(ctx, u.http, u.conns)
	cancel()
	beside.Wait()
	u.conns.wait()
	return err
}

// Close ends a Guest that is never served.
func (u *Guest) Close() {
	if u.o.Listener != nil {
		_ = u.o.Listener.Close()
	}
	_ = u.conns.Close()
}

// accept takes the connections of the guest's own listener, as fast as a guest
// may bring them.
func (u *Guest) accept(ctx context.Context) {
	acceptAll(ctx, u.o.Listener, u.o.Log, func(c net.Conn) {
		u.conns.offer(c)
		_ = u.arrivals.Wait(ctx) // its end is seen by who accepts
	})
}

// forward tells the guest the events of its port.
func (u *Guest) forward(ctx context.Context) {
	s := u.guests.host.Subscribe(u.o.Port) // what befalls others takes none of its room
	if s == nil {
		return
	}
	defer s.Close()
	for {
		e, err := s.Next(ctx)
		switch {
		case err != nil:
			return
		case e.Kind == EventLost:
			u.events.lose(u.o.Port, e.Count)
		default:
			u.events.Publish(e)
		}
	}
}

// acceptPause is how long a listener that fails is left alone.
const acceptPause = 100 * time.Millisecond

// acceptAll takes a listener's connections until ctx ends, and closes it.
func acceptAll(ctx context.Context, l net.Listener, log hclog.Logger, take func(net.Conn)) {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer func() {
		stop()
		_ = l.Close()
	}()
	said := rate.Sometimes{Interval: time.Minute}
	for ctx.Err() == nil {
		c, err := l.Accept()
		switch {
		case err == nil:
			take(c)
		case ctx.Err() != nil:
		case errors.Is(err, net.ErrClosed):
			return
		default:
			said.Do(func() {
				log.Warn("a guest's connection could not be accepted", "address", l.Addr().String(), "error", err)
			})
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
		}
	}
}
