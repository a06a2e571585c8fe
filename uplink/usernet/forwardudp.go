package usernet

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"vhostnet/internal/sys"
	"vhostnet/worker"
)

// acceptPause is how long nothing is taken from a socket that failed: it would
// fail again at once.
const acceptPause = 100 * time.Millisecond

// pause waits a little, or until ctx ends.
func pause(ctx context.Context) {
	t := time.NewTimer(acceptPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// reset breaks a connection off.
func reset(c net.Conn) {
	if t, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = t.SetLinger(0) // so that Close resets it
	}
	_ = c.Close() // it is broken off
}

// udpForward is a way in for datagrams. Each address that sends to it is a client,
// which the guest sees as a port of the gateway.
type udpForward struct {
	n    *Network
	spec Forward
	conn *net.UDPConn
	raw  sys.RawConn // of conn
	v6   bool        // it is a socket of IPv6, for IPv4 too perhaps

	mu      sync.Mutex
	clients map[netip.AddrPort]*udpClient

	waiting waiting
	opening sync.Mutex // held while there is a new client; before mu
	shut    bool       // there is none any more; guarded by opening
}

// udpClient is one who sends to a guest.
type udpClient struct {
	forward *udpForward
	address netip.AddrPort
	flow    *flow
}

func newUDPForward(n *Network, f Forward) (*udpForward, error) {
	listen, err := net.ResolveUDPAddr(f.socket(), f.Listen)
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP(f.socket(), listen)
	if err != nil {
		return nil, err
	}
	u := &udpForward{n: n, spec: f, conn: conn, clients: map[netip.AddrPort]*udpClient{}}
	if u.raw, err = conn.SyscallConn(); err == nil {
		u.v6, err = sys.IsIPv6(u.raw)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return u, nil
}

// receive carries datagrams to the guest until the way in is closed.
func (u *udpForward) receive() {
	b := make([]byte, maxDatagram)
	for {
		count, from, err := u.conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) || u.n.ctx.Err() != nil {
			u.forgetAll()
			return
		}
		if err != nil { // an earlier answer found nobody
			continue
		}
		u.take(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), b[:count])
	}
}

// take carries a datagram. It never waits: one whose guest has to be looked for is
// set aside, and what others send goes on.
func (u *udpForward) take(from netip.AddrPort, data []byte) {
	if c := u.find(from); c != nil {
		c.carry(data)
		return
	}
	known, others := u.n.guestsOf(u.spec)
	switch {
	case len(known) > 0:
		u.begin(from, known[0], data)
	case len(others) == 0 || !u.putAside(from, data, others):
		u.n.counters.forwardFailed.Add(1)
	}
}

// begin carries the first datagram of a client to a guest that is known.
func (u *udpForward) begin(from, guest netip.AddrPort, data []byte) {
	c := u.client(from, guest)
	if c == nil {
		u.n.counters.forwardFailed.Add(1)
		return
	}
	c.carry(data)
}

func (c *udpClient) carry(data []byte) {
	c.flow.used.Store(worker.Now())
	c.forward.n.sendUDP(c.flow.key.far, c.flow.key.guest, data)
}

func (u *udpForward) find(from netip.AddrPort) *udpClient {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.clients[from]
}

// client is who sends from an address to a guest, with a flow; nil when there can be
// none.
func (u *udpForward) client(from, guest netip.AddrPort) *udpClient {
	u.opening.Lock()
	defer u.opening.Unlock()
	if c := u.find(from); c != nil {
		return c
	}
	st := u.n.stations.find(guest.Addr())
	if st == nil || u.shut {
		return nil
	}
	c := &udpClient{forward: u, address: from}
	gateway := u.n.o.IPv4.Addr()
	if guest.Addr().Is6() {
		gateway = u.n.o.IPv6.Addr()
	}
	port := from.Port()
	for range 16 { // of ports that are taken
		c.flow = &flow{key: flowKey{protoUDP, guest, netip.AddrPortFrom(gateway, port)}, guest: st.guest, client: c}
		if u.n.flows.find(c.flow.key) == nil {
			break
		}
		port = uint16(49152 + rand.IntN(16384))
	}
	u.mu.Lock()
	u.clients[from] = c
	u.mu.Unlock()
	if !u.n.flows.add(c.flow) {
		u.forget(c)
		return nil
	}
	u.n.counters.forwarded.Add(1)
	return c
}

// send answers a client. It never waits: others' packets wait meanwhile.
func (c *udpClient) send(b []byte) sys.Outcome {
	return sys.SendTo(c.forward.raw, c.forward.v6, b, c.address)
}

func (u *udpForward) forget(c *udpClient) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.clients[c.address] == c {
		delete(u.clients, c.address)
	}
}

// forgetAll ends the flows of a way in that is closed.
func (u *udpForward) forgetAll() {
	u.opening.Lock()
	u.shut = true
	u.opening.Unlock()
	u.mu.Lock()
	list := make([]*udpClient, 0, len(u.clients))
	for _, c := range u.clients {
		list = append(list, c)
	}
	u.mu.Unlock()
	for _, c := range list {
		u.n.flows.remove(c.flow)
	}
}
