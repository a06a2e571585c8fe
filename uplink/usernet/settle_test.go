package usernet

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"vhostnet/nbl"
)

// What a guest does not take of a connection that is closed stays its
// connection's: it counts against its limit as long as it takes memory.
func TestClosedConnectionsCount(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	small := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 16 << 10, Max: 16 << 10}
	l.mustStack(g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &small))
	sent := bytes.Repeat([]byte("left"), 100<<10)
	at := server(t, "127.0.0.1:0", func(c net.Conn) { _, _ = c.Write(sent) })
	c, err := g.dial(netip.AddrPortFrom(gateways[0], at.Port()))
	l.must(err)
	defer c.Close()
	l.must(c.CloseWrite())
	relayed := func() bool {
		l.n.conns.mu.Lock()
		defer l.n.conns.mu.Unlock()
		return len(l.n.conns.m) == 0
	}
	l.wait("the host's side to be over", func() bool { return l.n.counters.connected.Value() == 1 && relayed() })
	if n := l.n.conns.count(); n != 1 {
		t.Errorf("%d connections are counted, want the one whose bytes are still here", n)
	}
	got, err := io.ReadAll(c)
	l.must(err)
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes came, %d were sent", len(got), len(sent))
	}
	l.wait("the connection to be over", func() bool { return l.n.conns.count() == 0 })
}

// A network that ends does not wait for a guest that takes nothing.
func TestEndWithBytesLeft(t *testing.T) {
	noLeak(t)
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	small := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: 16 << 10, Max: 16 << 10}
	l.mustStack(g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &small))
	at := server(t, "127.0.0.1:0", func(c net.Conn) { _, _ = c.Write(make([]byte, 400<<10)) })
	c, err := g.dial(netip.AddrPortFrom(gateways[0], at.Port()))
	l.must(err)
	defer c.Close()
	l.must(c.CloseWrite())
	l.wait("the connection", func() bool { return l.n.conns.count() == 1 })
	l.end()
	if n := l.n.conns.count(); n != 0 {
		t.Errorf("%d connections are counted after the end", n)
	}
}
