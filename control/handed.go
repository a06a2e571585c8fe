package control

import (
	"net"
	"sync"
)

// handed is a listener whose connections somebody else accepts and offers. It
// bounds how many are open, and knows when all are closed.
type handed struct {
	addr  net.Addr
	queue chan net.Conn // never full: a connection in it has a place

	mu    sync.Mutex
	open  int // connections, in the queue and out of it
	most  int
	ended chan struct{}
	none  *sync.Cond // open has become 0
}

func newHanded(addr net.Addr, most int) *handed {
	h := &handed{addr: addr, queue: make(chan net.Conn, most), most: most, ended: make(chan struct{})}
	h.none = sync.NewCond(&h.mu)
	return h
}

// offer gives a connection, which is the listener's then. It is closed at once
// when there are too many, or when the listener is closed.
func (h *handed) offer(c net.Conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.isClosed() || h.open == h.most {
		_ = c.Close()
		return
	}
	h.open++
	h.queue <- &handedConn{Conn: c, done: sync.OnceFunc(h.left)}
}

func (h *handed) isClosed() bool {
	select {
	case <-h.ended:
		return true
	default:
		return false
	}
}

func (h *handed) left() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open--
	h.none.Broadcast()
}

// Accept waits for a connection that is offered.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.queue:
		return c, nil
	case <-h.ended:
		return nil, net.ErrClosed
	}
}

// Close closes the listener and what nobody has taken yet.
func (h *handed) Close() error {
	h.mu.Lock()
	if !h.isClosed() {
		close(h.ended)
	}
	h.mu.Unlock()
	for {
		select {
		case c := <-h.queue:
			_ = c.Close()
		default:
			return nil
		}
	}
}

// Addr is where the connections come from.
func (h *handed) Addr() net.Addr { return h.addr }

// wait returns when every connection is closed.
func (h *handed) wait() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.open > 0 {
		h.none.Wait()
	}
}

// handedConn gives its place back when it is closed.
type handedConn struct {
	net.Conn
	done func()
}

func (c *handedConn) Close() error {
	defer c.done()
	return c.Conn.Close()
}
