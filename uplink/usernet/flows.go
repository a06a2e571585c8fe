package usernet

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"

	"vhostnet/internal/sys"
	"vhostnet/worker"
)

// flowKey names a flow as the guest sees it. For ping, the guest's port is the
// identifier of its requests and the other one is 0.
type flowKey struct {
	proto      uint8
	guest, far netip.AddrPort
}

// flow is UDP or ping between a guest and one address: a connected socket of the
// host, or a client of a Forward.
type flow struct {
	key    flowKey
	guest  *guest
	token  uint64
	idle   int64        // ns without a packet, and it ends
	used   atomic.Int64 // ns
	client *udpClient   // of a Forward; then there is no sock

	mu       sync.Mutex // guards the socket's life, and what follows
	sock     *sys.Datagram
	whole    bool // datagrams are not to be cut
	origin   [originLen]byte
	originAt int // how much of it
}

// flows is all of them: packets from guests come by the Network's goroutine,
// those to guests by the one of receive.
type flows struct {
	n      *Network
	poller *sys.Poller
	wake   *sys.Event // ends receive
	ended  atomic.Bool

	mu        sync.Mutex
	m         map[flowKey]*flow
	byToken   map[uint64]*flow
	lastToken uint64
}

const wakeFlows = 0 // token of wake

func newFlows(n *Network) (*flows, error) {
	f := &flows{n: n, m: map[flowKey]*flow{}, byToken: map[uint64]*flow{}}
	var err error
	if f.wake, err = sys.NewEvent(); err != nil {
		return nil, err
	}
	if f.poller, err = sys.NewPoller(); err != nil {
		f.wake.Close()
		return nil, err
	}
	if err = f.poller.Add(f.wake.FD(), wakeFlows); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

func (f *flows) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.m)
}

// find is the flow of a key, nil when there is none.
func (f *flows) find(k flowKey) *flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.m[k]
}

// idleOf is how long a flow lives without a packet: names are asked for once.
func (f *flows) idleOf(k flowKey) int64 {
	idle := int64(f.n.o.Limits.FlowIdle)
	if k.far.Port() == 53 || k.proto != protoUDP {
		return min(idle, 15e9)
	}
	return idle
}

// add makes fl a flow of guest g. It answers false when there are too many, or
// there is one of its name.
func (f *flows) add(fl *flow) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m[fl.key] != nil {
		return false
	}
	if f.ended.Load() || len(f.m) >= f.n.o.Limits.Flows || !take(&fl.guest.flows, f.n.o.Limits.GuestFlows) {
		f.n.counters.flowLimit.Add(1)
		return false
	}
	f.lastToken++
	fl.token = f.lastToken
	fl.idle = f.idleOf(fl.key)
	fl.used.Store(worker.Now())
	f.m[fl.key], f.byToken[fl.token] = fl, fl
	f.n.counters.flows.Add(1)
	return true
}

// remove ends a flow.
func (f *flows) remove(fl *flow) {
	f.mu.Lock()
	known := f.m[fl.key] == fl
	if known {
		delete(f.m, fl.key)
		delete(f.byToken, fl.token)
		fl.guest.flows.Add(-1)
	}
	f.mu.Unlock()
	if !known {
		return
	}
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.sock != nil {
		_ = fl.sock.Close() // which ends the poller's interest too
		fl.sock = nil
	}
	if fl.client != nil {
		fl.client.forward.forget(fl.client)
	}
}

// sweep ends flows that were not used for long enough.
func (f *flows) sweep(now int64) {
	var old []*flow
	f.mu.Lock()
	for _, fl := range f.m {
		if now-fl.used.Load() > fl.idle {
			old = append(old, fl)
		}
	}
	f.mu.Unlock()
	for _, fl := range old {
		f.remove(fl)
	}
}

// send sends a guest's datagram on.
func (f *flows) send(p *packet, h ip, k flowKey, data []byte) {
	fl := f.find(k)
	if fl == nil {
		if fl = f.open(p, h, k); fl == nil {
			return
		}
	}
	f.sendOn(fl, h, data)
}

// open makes the flow of a guest's packet, with a socket. It answers nil when
// that cannot be, having told the guest why.
func (f *flows) open(p *packet, h ip, k flowKey) *flow {
	to, ok := f.n.target(k.far.Addr())
	if !ok {
		f.n.counters.flowRefused.Add(1)
		f.n.sendError(sys.Forbidden, origin(h), 0)
		return nil
	}
	fl := &flow{key: k, guest: p.guest}
	if !f.add(fl) {
		return nil
	}
	why, err := fl.dial(f.poller, netip.AddrPortFrom(to, k.far.Port()))
	if err != nil {
		f.failed(fl, h, why, err)
		return nil
	}
	return fl
}

// dial gives a flow its socket.
func (fl *flow) dial(poller *sys.Poller, to netip.AddrPort) (why sys.Outcome, err error) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.key.proto == protoUDP {
		fl.sock, why, err = sys.DialUDP(to)
	} else {
		fl.sock, why, err = sys.DialPing(to.Addr())
	}
	if err != nil {
		return why, err
	}
	return sys.Failed, poller.Add(fl.sock.FD(), fl.token)
}

// failed ends a flow that could not begin.
func (f *flows) failed(fl *flow, h ip, why sys.Outcome, err error) {
	f.remove(fl)
	if fl.key.proto != protoUDP && why == sys.Forbidden {
		f.n.counters.pingForbidden.Add(1)
		if !f.n.silenced.Swap(true) {
			f.n.o.Log.Warn("guests cannot ping beyond the gateway, as the host lets no unprivileged process do it; its administrator can allow it: sysctl -w net.ipv4.ping_group_range='0 2147483647'", "uplink", f.n.o.Name, "error", err)
		}
	} else {
		f.n.counters.flowErrors.Add(1)
	}
	f.n.sendError(why, origin(h), 0)
}

// origin is the part of a packet that an error about it quotes.
func origin(h ip) []byte { return h.packet[:min(len(h.packet), originLen)] }

// sendOn sends data by a flow's socket, and tells the guest if the host does not.
func (f *flows) sendOn(fl *flow, h ip, data []byte) {
	fl.used.Store(worker.Now())
	fl.mu.Lock()
	why, mtu := sys.Failed, 0
	switch {
	case fl.client != nil:
		why = fl.client.send(data)
	case fl.sock != nil:
		fl.originAt = copy(fl.origin[:], h.packet)
		if h.dontFrag != fl.whole && fl.sock.DontFragment(h.dontFrag) == nil {
			fl.whole = h.dontFrag
		}
		if why = fl.sock.Send(data); why == sys.Refused {
			why = fl.sock.Send(data) // that was the answer to an earlier one
			f.n.sendError(sys.Refused, origin(h), 0)
		}
		if why == sys.TooBig {
			mtu = fl.sock.PathMTU()
		}
	}
	fl.mu.Unlock()
	if why != sys.Sent {
		f.n.counters.flowErrors.Add(1)
		if why != sys.Again && why != sys.Refused {
			f.n.sendError(why, origin(h), mtu)
		}
	}
}

// ping sends an echo request on. The host puts an identifier of its own in.
func (f *flows) ping(p *packet, h ip) {
	f.n.counters.pings.Add(1)
	k := flowKey{h.proto, netip.AddrPortFrom(h.src, binary.BigEndian.Uint16(h.payload[4:])), netip.AddrPortFrom(h.dst, 0)}
	f.send(p, h, k, h.payload)
}
