package usernet

import (
	"net"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"

	"vhostnet/internal/sys"
)

// relayBytes is how much is carried from one side to the other before the stack
// has a look at what else came: the connection is locked meanwhile.
const relayBytes = 256 << 10

// A guest's first connections have buffers of full size. What it opens beyond has
// small ones: bytes that nobody reads stay in them, and a guest decides how many
// connections it has, and whether it reads.
const (
	fullBuffers = 32
	smallBuffer = 64 << 10
)

// streamConn is the host's side of a connection: TCP, or a unix stream.
type streamConn interface {
	net.Conn
	CloseWrite() error
	SyscallConn() (sys.RawConn, error)
}

// relay carries a connection between a guest and the host: one goroutine each
// way. A side that says its last byte is told to the other side, which may go
// on; a side that breaks off breaks the other one off. Bytes go from the memory
// of the stack to the host's socket and from the socket into it: there is no
// buffer between the two.
type relay struct {
	ep    tcpip.Endpoint
	wq    *waiter.Queue
	host  streamConn
	small bool // its buffers
	ended atomic.Bool
}

// connections are those that are open.
type connections struct {
	open atomic.Int32

	mu    sync.Mutex
	ended bool
	m     map[*relay]struct{}
}

func (c *connections) count() int { return int(max(0, c.open.Load())) }

func (c *connections) add(r *relay) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.m[r] = struct{}{}
	return true
}

func (c *connections) remove(r *relay) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.m, r)
}

// abort breaks all connections off, and those to come.
func (c *connections) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for r := range c.m {
		r.abort()
	}
}

// relay carries a connection until it is over, as the others-th of a guest.
func (n *Network) relay(ep tcpip.Endpoint, wq *waiter.Queue, host streamConn, others int) {
	r := &relay{ep: ep, wq: wq, host: host, small: others > fullBuffers}
	keepAlive(ep)
	if r.small {
		ep.SocketOptions().SetSendBufferSize(smallBuffer, true)
		ep.SocketOptions().SetReceiveBufferSize(smallBuffer, true)
	}
	ep.SocketOptions().SetDelayOption(false)
	if !n.conns.add(r) {
		r.abort()
		return
	}
	defer n.conns.remove(r)
	var down sync.WaitGroup
	down.Go(func() { r.finish(r.toGuest()) })
	r.finish(r.toHost())
	down.Wait()
	ep.Close()
	_ = host.Close() // everything was written, or the connection is broken off
}

// finish ends the connection if one way broke.
func (r *relay) finish(err error) {
	if err != nil {
		r.abort()
	}
}

// abort resets both sides.
func (r *relay) abort() {
	if r.ended.Swap(true) {
		return
	}
	r.ep.Abort()
	if t, ok := r.host.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0) // so that Close resets it
	}
	_ = r.host.Close() // it is broken off
}
