package usernet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"

	"vhostnet/nbl"
)

// A guest takes a port again as soon as it is free on its side, which it is at once
// when the host closed first.
func TestGuestTakesPortAgain(t *testing.T) {
	noLeak(t)
	const times = 20
	l := newLab(t, Options{Host: true})
	g := newTestGuest(l, 1, nbl.UplinkFeatures)
	for _, gateway := range gateways {
		at := server(t, loopbackOf(gateway), func(net.Conn) {})
		for i := range times {
			c, err := g.dialFrom(l, 40000, netip.AddrPortFrom(gateway, at.Port()))
			if err != nil {
				t.Fatalf("connection %d to %v from the same port: %v; %+v", i+1, gateway, err, l.n.Snapshot())
			}
			l.must(c.SetDeadline(time.Now().Add(20 * time.Second)))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Fatalf("connection %d to %v: %v, want its end", i+1, gateway, err)
			}
			l.must(c.Close())
		}
	}
	l.wait("no connection to be left", func() bool { return l.n.stack.Stats().TCP.CurrentConnected.Value() == 0 })
}

// dialFrom connects from one of the guest's ports, once it is free.
func (g *testGuest) dialFrom(l *lab, port uint16, to netip.AddrPort) (c *gonet.TCPConn, err error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), 20*time.Second, errTimeout)
	defer cancel()
	local := tcpip.FullAddress{Addr: stackAddress(g.v4), Port: port}
	if to.Addr().Is6() {
		local.Addr = stackAddress(g.v6)
	}
	remote := tcpip.FullAddress{NIC: nicID, Addr: stackAddress(to.Addr()), Port: to.Port()}
	inUse := (&tcpip.ErrPortInUse{}).String()
	l.wait("the guest's port to be free", func() bool {
		c, err = gonet.DialTCPWithBind(ctx, g.stack, local, remote, protocolOf(to.Addr()))
		return err == nil || !strings.Contains(err.Error(), inUse)
	})
	return c, err
}
