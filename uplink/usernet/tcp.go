package usernet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Times of connections.
const (
	dialWait  = 30 * time.Second // for the destination's answer
	dialStale = 60e9             // ns after which a SYN is not waited for any more, whatever became of it
	keepIdle  = 10 * time.Minute // without a packet until the guest is asked whether it is there
	keepEvery = 30 * time.Second // between questions
	keepCount = 6                // in vain, and it is not
)

// dialKey names a connection that a guest asks for.
type dialKey struct{ from, to netip.AddrPort }

// dial is a SYN that was let into the stack, or the connection that came of it.
type dial struct {
	guest    *guest
	at       int64 // ns
	answered bool
}

// dials bounds how many connections of a guest wait to be answered. It decides
// at the SYN, before the stack has it, so a flood of them costs its guest only.
// Connections stay in it as long as they are open: a SYN that comes again is not
// another one.
type dials struct {
	each    int
	mu      sync.Mutex
	m       map[dialKey]*dial
	waiting map[dialKey]struct{} // SYNs that wait for the rest of an earlier connection
}

// waits notes that a SYN waits for the rest of an earlier connection, or no longer,
// and reports whether that is news.
func (d *dials) waits(k dialKey, is bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, was := d.waiting[k]
	if is {
		d.waiting[k] = struct{}{}
	} else {
		delete(d.waiting, k)
	}
	return is != was
}

// begin lets a SYN in, or not.
func (d *dials) begin(g *guest, k dialKey, now int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.m[k] != nil {
		return true
	}
	if !take(&g.connecting, d.each) {
		return false
	}
	d.m[k] = &dial{guest: g, at: now}
	return true
}

// answered notes that a SYN was answered by a connection.
func (d *dials) answered(k dialKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if it := d.m[k]; it != nil && !it.answered {
		it.answered = true
		it.guest.connecting.Add(-1)
	}
}

// end notes that a SYN was refused, or that its connection is over.
func (d *dials) end(k dialKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forget(k)
}

func (d *dials) forget(k dialKey) {
	if it := d.m[k]; it != nil {
		if !it.answered {
			it.guest.connecting.Add(-1)
		}
		delete(d.m, k)
	}
}

// sweep forgets SYNs of which nothing came: those that the stack answered
// itself, for the rest of an earlier connection of that name.
func (d *dials) sweep(now int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, it := range d.m {
		if !it.answered && now-it.at > dialStale {
			d.forget(k)
		}
	}
}

// connect answers a guest's wish for a connection: it asks the destination first,
// so that a guest is told the truth. It is called by the stack on a goroutine of
// its own.
func (n *Network) connect(r *tcp.ForwarderRequest) {
	if !n.enter() {
		r.Complete(true)
		return
	}
	defer n.leave()
	id := r.ID()
	key := dialKey{
		netip.AddrPortFrom(hostAddress(id.RemoteAddress), id.RemotePort),
		netip.AddrPortFrom(hostAddress(id.LocalAddress), id.LocalPort),
	}
	defer n.dials.end(key)
	g, ok := n.admit(key)
	if !ok {
		r.Complete(true)
		return
	}
	defer n.dismiss(g)
	var host streamConn
	if !n.servesTCP(key.to) {
		if host, ok = n.dial(key); !ok {
			r.Complete(true)
			return
		}
	}
	var wq waiter.Queue
	ep, err := r.CreateEndpoint(&wq)
	r.Complete(err != nil)
	if err != nil {
		if host != nil {
			_ = host.Close() // nothing was written to it
		}
		return
	}
	n.dials.answered(key)
	n.counters.connected.Add(1)
	if host != nil {
		n.relay(ep, &wq, host, int(g.conns.Load()))
	} else {
		c := newGuestConn(gonet.NewTCPConn(&wq, ep), g.name)
		n.serveConn(n.ctx, g, key.to, c)
		_ = c.Close() // the guest has what it was to get
	}
	settle(n.ctx, ep, settleTime)
}

// settleTime is how long a guest has to take what is left of a closed connection.
const settleTime = time.Minute

// settle waits until a guest has taken what is left for it of a connection that is
// closed, and breaks it off when that takes too long. The bytes stay in memory as
// long as the guest answers that it has no room for them, and are as long its
// connection's.
func settle(ctx context.Context, ep tcpip.Endpoint, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	for wait := time.Millisecond; isUnsettled(ep); wait = min(2*wait, time.Second) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			ep.Abort()
			return
		}
	}
}

// isUnsettled reports whether a closed connection may have bytes that were not
// acknowledged.
func isUnsettled(ep tcpip.Endpoint) bool {
	switch tcp.EndpointState(ep.State()) {
	case tcp.StateEstablished, tcp.StateCloseWait, tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return true
	default:
		return false
	}
}

// admit counts a connection against its guest's limit and everybody's, and
// counts why not.
func (n *Network) admit(k dialKey) (*guest, bool) {
	st := n.stations.find(k.from.Addr())
	if st == nil {
		return nil, false // forgotten since its SYN came
	}
	if _, ok := n.target(k.to.Addr()); !ok && !n.servesTCP(k.to) {
		n.counters.connectRefused.Add(1)
		return nil, false
	}
	if !take(&st.guest.conns, n.o.Limits.GuestConnections) {
		n.counters.connectLimit.Add(1)
		return nil, false
	}
	if !take(&n.conns.open, n.o.Limits.Connections) {
		st.guest.conns.Add(-1)
		n.counters.connectLimit.Add(1)
		return nil, false
	}
	return st.guest, true
}

func (n *Network) dismiss(g *guest) {
	g.conns.Add(-1)
	n.conns.open.Add(-1)
}

// dial connects to where the guest's connection goes on the host.
func (n *Network) dial(k dialKey) (streamConn, bool) {
	to, _ := n.target(k.to.Addr())
	ctx, cancel := context.WithTimeout(n.ctx, dialWait)
	defer cancel()
	var d net.Dialer
	d.SetMultipathTCP(false) // whatever GODEBUG says, as for a Forward
	c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(to, k.to.Port()).String())
	if err != nil {
		n.counters.connectFailed.Add(1)
		return nil, false
	}
	host, ok := c.(streamConn)
	return host, ok
}

// keepAlive makes the stack notice a guest that is gone.
func keepAlive(ep tcpip.Endpoint) {
	idle, every := tcpip.KeepaliveIdleOption(keepIdle), tcpip.KeepaliveIntervalOption(keepEvery)
	_ = ep.SetSockOpt(&idle) // they are in range
	_ = ep.SetSockOpt(&every)
	_ = ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepCount)
	ep.SocketOptions().SetKeepAlive(true)
}

// callGuest opens a connection to a guest, from the gateway.
func (n *Network) callGuest(ctx context.Context, to netip.AddrPort) (tcpip.Endpoint, *waiter.Queue, error) {
	if err := n.resolve(ctx, to.Addr()); err != nil {
		return nil, nil, err
	}
	wq := new(waiter.Queue)
	ep, terr := n.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(to.Addr()), wq)
	if terr != nil {
		return nil, nil, stackError(terr)
	}
	we, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	wq.EventRegister(&we)
	defer wq.EventUnregister(&we)
	terr = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: stackAddress(to.Addr()), Port: to.Port()})
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ready:
			terr = ep.LastError()
		case <-ctx.Done():
			ep.Close()
			return nil, nil, context.Cause(ctx)
		}
	}
	switch tcp.EndpointState(ep.State()) {
	case tcp.StateEstablished, tcp.StateCloseWait: // the guest may have said all already
	default:
		if terr == nil {
			terr = &tcpip.ErrConnectionRefused{}
		}
	}
	if terr != nil {
		ep.Close()
		return nil, nil, stackError(terr)
	}
	return ep, wq, nil
}

// stackError is an error of the stack as one of Go's.
func stackError(err tcpip.Error) error { return errors.New(err.String()) }

var _ stack.LinkEndpoint = (*link)(nil)
