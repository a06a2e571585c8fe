package usernet

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"

	"vhostnet/internal/sys"
)

// relayBytes is how much is carried from one side to the other at once. A short
// buffer would cut what the stack could send in one packet of 64 KiB.
const relayBytes = 256 << 10

// A guest's first connections have buffers of full size. What it opens beyond has
// small ones: bytes that nobody reads stay in them, and a guest decides how many
// connections it has, and whether it reads.
const (
	fullBuffers = 128
	smallBuffer = 64 << 10
)

// carrier is what bytes are carried in.
type carrier struct{ b []byte }

var fullPool, smallPool = newBuffers(relayBytes), newBuffers(smallBuffer)

func newBuffers(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return &carrier{make([]byte, size)} }}
}

func (r *relay) pool() *sync.Pool {
	if r.chunk == smallBuffer {
		return smallPool
	}
	return fullPool
}

func (r *relay) takeBuffer() *carrier {
	b, ok := r.pool().Get().(*carrier)
	if !ok {
		b = &carrier{make([]byte, r.chunk)}
	}
	return b
}

// streamConn is the host's side of a connection: TCP, or a unix stream.
type streamConn interface {
	net.Conn
	CloseWrite() error
	SyscallConn() (sys.RawConn, error)
}

// relay carries a connection between a guest and the host: one goroutine each
// way. A side that says its last byte is told to the other side, which may go
// on; a side that breaks off breaks the other one off. A buffer is held only
// while there are bytes to carry.
type relay struct {
	ep    tcpip.Endpoint
	wq    *waiter.Queue
	host  streamConn
	chunk int // bytes of a buffer
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
	r := &relay{ep: ep, wq: wq, host: host, chunk: relayBytes}
	keepAlive(ep)
	if others > fullBuffers {
		ep.SocketOptions().SetSendBufferSize(smallBuffer, true)
		ep.SocketOptions().SetReceiveBufferSize(smallBuffer, true)
		r.chunk = smallBuffer
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

var errReset = errors.New("the guest broke the connection off")

// toHost carries what the guest sends.
func (r *relay) toHost() error {
	we, readable := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	r.wq.EventRegister(&we)
	defer r.wq.EventUnregister(&we)
	for {
		more, err := r.carryToHost()
		if errors.Is(err, io.EOF) {
			return r.host.CloseWrite()
		}
		if err != nil {
			return err
		}
		if !more {
			<-readable
		}
	}
}

// carryToHost carries what there is now and reports whether there was any.
func (r *relay) carryToHost() (bool, error) {
	b := r.takeBuffer()
	defer r.pool().Put(b)
	w := tcpip.SliceWriter(b.b)
	res, terr := r.ep.Read(&w, tcpip.ReadOptions{})
	switch terr.(type) {
	case nil:
		_, err := r.host.Write(b.b[:res.Count])
		return true, err
	case *tcpip.ErrWouldBlock:
		return false, nil
	case *tcpip.ErrClosedForReceive:
		return false, io.EOF
	}
	return false, errReset
}

// toGuest carries what the host sends.
func (r *relay) toGuest() error {
	we, writable := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	r.wq.EventRegister(&we)
	defer r.wq.EventUnregister(&we)
	raw, err := r.host.SyscallConn()
	if err != nil {
		return err
	}
	for {
		b, n, err := r.readWhenReady(raw)
		if err != nil {
			return err
		}
		if n > 0 {
			err = r.writeToGuest(b.b[:n], writable)
		}
		r.pool().Put(b)
		if n == 0 {
			_ = r.ep.Shutdown(tcpip.ShutdownWrite) // a connection that is over says the same
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readWhenReady waits for bytes and reads them into a buffer that it takes only
// then. n is 0 at the end of the stream.
func (r *relay) readWhenReady(raw sys.RawConn) (b *carrier, n int, err error) {
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		if b == nil {
			b = r.takeBuffer()
		}
		var again bool
		if n, again, failed = sys.ReadNow(int(fd), b.b); again {
			r.pool().Put(b)
			b = nil
		}
		return !again
	})
	if err == nil {
		err = failed
	}
	if err != nil && b != nil {
		r.pool().Put(b)
	}
	return b, n, err
}

// writeToGuest waits for the stack to take all of b.
func (r *relay) writeToGuest(b []byte, writable <-chan struct{}) error {
	for len(b) > 0 {
		n, terr := r.ep.Write(&sliceReader{b}, tcpip.WriteOptions{})
		b = b[n:]
		switch _, full := terr.(*tcpip.ErrWouldBlock); {
		case full:
			<-writable
		case terr != nil || n == 0:
			return errReset
		}
	}
	return nil
}

// sliceReader is a tcpip.Payloader.
type sliceReader struct{ b []byte }

// Len is how many bytes are left.
func (s *sliceReader) Len() int { return len(s.b) }

// Read gives the next bytes.
func (s *sliceReader) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.b)
	s.b = s.b[n:]
	return n, nil
}
