package usernet

import (
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"vhostnet/worker"
)

// How long a SYN waits for the rest of an earlier connection of its name: a guest
// may take a port again when its last packet is acknowledged, which is a moment
// before the stack has done with the connection. The stack would refuse or lose the
// SYN meanwhile. What is there longer is told by the stack (RFC 9293, section
// 3.10.7.4).
const (
	resynEvery = time.Millisecond
	resynTimes = 10
)

// rests reports whether the stack has an earlier connection of the name of a SYN.
// One that is being opened is not: the SYN comes again.
func (n *Network) rests(k dialKey) bool {
	id := stack.TransportEndpointID{
		LocalAddress: stackAddress(k.to.Addr()), LocalPort: k.to.Port(),
		RemoteAddress: stackAddress(k.from.Addr()), RemotePort: k.from.Port(),
	}
	ep, ok := n.stack.FindTransportEndpoint(protocolOf(k.to.Addr()), header.TCPProtocolNumber, id, nicID).(tcpip.Endpoint)
	if !ok {
		return false
	}
	switch tcp.EndpointState(ep.State()) {
	case tcp.StateSynRecv, tcp.StateSynSent, tcp.StateConnecting, tcp.StateInitial:
		return false
	default:
		return true
	}
}

// later puts a SYN into the stack when the rest of the earlier connection is gone.
// One of each name waits (dials), and as many times as that takes, up to times.
func (n *Network) later(d stack.NetworkDispatcher, g *guest, k dialKey, s segment, times int) {
	time.AfterFunc(resynEvery, func() {
		if !n.enter() {
			s.payload.Release()
			return
		}
		defer n.leave()
		if times > 1 && n.rests(k) {
			n.later(d, g, k, s, times-1)
			return
		}
		n.dials.waits(k, false)
		n.openTCP(d, g, k, s, worker.Now())
	})
}

// openTCP puts a SYN into the stack, unless its guest asks for too much.
func (n *Network) openTCP(d stack.NetworkDispatcher, g *guest, k dialKey, s segment, now int64) {
	if !n.dials.begin(g, k, now) {
		s.payload.Release()
		n.counters.connectingLimit.Add(1)
		return
	}
	s.deliver(d)
}
