package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"
)

// Guests is the guest channel of a host: who calls, and what each one may do.
type Guests struct {
	host     GuestHost
	log      hclog.Logger
	caller   func(net.Conn) (cid uint32, err error)
	changing sync.Mutex // see guestPart

	strangers *rate.Limiter

	mu     sync.Mutex
	guests map[uint32]*Guest // by CID
}

// NewGuests makes a guest channel without guests. log nil: none.
func NewGuests(host GuestHost, log hclog.Logger) *Guests {
	if log == nil {
		log = hclog.NewNullLogger()
	}
	return &Guests{host: host, log: log, caller: vsockCaller, strangers: newArrivals(), guests: map[uint32]*Guest{}}
}

// Exclude runs f while no guest sets a filter: between f's end and the next one
// every guest sees what f has changed.
func (g *Guests) Exclude(f func()) {
	g.changing.Lock()
	defer g.changing.Unlock()
	f()
}

func (g *Guests) bind(u *Guest) error {
	if u.o.CID == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if other := g.guests[u.o.CID]; other != nil {
		return fmt.Errorf("control: CID %d is the guest of port %s already; each guest has its own", u.o.CID, other.o.Port)
	}
	g.guests[u.o.CID] = u
	return nil
}

func (g *Guests) unbind(u *Guest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.guests[u.o.CID] == u {
		delete(g.guests, u.o.CID)
	}
}

// Serve accepts guests that come by AF_VSOCK until ctx ends, gives each
// connection to the guest of its CID, and refuses the others. It owns the
// listener. Nobody's connection waits for another's.
func (g *Guests) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	refused := newHanded(l.Addr(), guestConns)
	refusing := g.refusing()
	var beside sync.WaitGroup
	beside.Go(func() { acceptAll(ctx, l, g.log, func(c net.Conn) { g.dispatch(c, refused) }); cancel() })
	err := serveUntil(ctx, refusing, refused)
	cancel()
	beside.Wait()
	refused.wait()
	return err
}

// dispatch gives a connection to whose it is, or closes it when that one has
// too many or comes too fast.
func (g *Guests) dispatch(c net.Conn, refused *handed) {
	to, arrivals := refused, g.strangers
	if cid, err := g.caller(c); err == nil {
		g.mu.Lock()
		u := g.guests[cid]
		g.mu.Unlock()
		if u != nil {
			to, arrivals = u.conns, u.arrivals
		}
	}
	if !arrivals.Allow() {
		_ = c.Close()
		return
	}
	to.offer(c)
}

// refusing is a server that tells strangers that they are.
func (g *Guests) refusing() *http.Server {
	said := rate.Sometimes{First: 3, Interval: time.Minute}
	s := guestServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e, _ := r.Context().Value(strangerKey{}).(*Error)
		said.Do(func() { g.log.Warn("a stranger on the guest channel was refused", "error", e.Message) })
		w.Header().Set("Connection", "close")
		writeJSON(w, guestPatience, e.code(), e)
	}))
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, strangerKey{}, g.stranger(c))
	}
	return s
}

// strangerKey is the key of why a connection is refused, in its context.
type strangerKey struct{}

func (g *Guests) stranger(c net.Conn) *Error {
	if h, ok := c.(*handedConn); ok {
		c = h.Conn
	}
	cid, err := g.caller(c)
	if err != nil {
		return Errorf(StatusNotAccepted, "who calls is not known: %v", err)
	}
	return Errorf(StatusNotAccepted, "the VM with CID %d has no port here that is open to it; its host would have to say guest-cid=%d on its port", cid, cid)
}

var errNoCID = errors.New("a connection that is not of AF_VSOCK has no CID")
