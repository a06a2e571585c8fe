package usernet

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// guestConn is a guest's connection to a service. It knows when it was closed.
type guestConn struct {
	*gonet.TCPConn
	guest  string
	once   sync.Once
	closed chan struct{}
}

func newGuestConn(c *gonet.TCPConn, guest string) *guestConn {
	return &guestConn{TCPConn: c, guest: guest, closed: make(chan struct{})}
}

// Guest is whose it is (boot.FromGuest).
func (c *guestConn) Guest() string { return c.guest }

// Close closes the connection.
func (c *guestConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.TCPConn.Close()
}

// connListener is a net.Listener of connections that are given to it.
type connListener struct {
	address net.Addr
	conns   chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

func newConnListener(a netip.AddrPort) *connListener {
	return &connListener{address: net.TCPAddrFromAddrPort(a), conns: make(chan net.Conn), closed: make(chan struct{})}
}

// give hands c over and returns when it was closed, or ctx has ended.
func (l *connListener) give(ctx context.Context, c *guestConn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-c.closed:
	case <-ctx.Done():
	}
}

// Accept is the next connection.
func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *connListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is where guests find it.
func (l *connListener) Addr() net.Addr { return l.address }
