package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"vhostnet/internal/sys"
	"vhostnet/uplink/usernet/internal/dhcp"
)

// Forward is a way in: who connects to Listen on the host reaches Guest.
type Forward struct {
	Network string         // "tcp" or "udp"
	Listen  string         // "127.0.0.1:8080", "[::1]:8080", "0.0.0.0:0"; for tcp also "unix:/path"
	Guest   netip.AddrPort // the guest's address in its network, and its port

	// VM is the port of the switch at which the guest is, where Guest says no
	// address, but a port: the one that the guest has is looked for when somebody
	// calls.
	VM string
}

func (f Forward) String() string { return f.Network + " " + f.Listen + " to " + f.To() }

// To is where the Forward leads to.
func (f Forward) To() string {
	if f.VM != "" && !f.Guest.Addr().IsValid() {
		return f.VM + ":" + strconv.Itoa(int(f.Guest.Port()))
	}
	return f.Guest.String()
}

const unixPrefix = "unix:"

// Errors of ways in.
var (
	ErrEnded    = errors.New("the network has ended")
	ErrForwards = errors.New("no more ways in are possible")
)

// ListenError is that the host does not let a way in listen.
type ListenError struct {
	Forward Forward
	Err     error
}

func (e *ListenError) Error() string { return fmt.Sprintf("usernet: forward %v: %v", e.Forward, e.Err) }
func (e *ListenError) Unwrap() error { return e.Err }

// socket is the network of the socket: one of an IPv4 address is of IPv4 alone,
// also of the address that stands for all.
func (f Forward) socket() string {
	if a, err := netip.ParseAddrPort(f.Listen); err == nil && a.Addr().Is4() {
		return f.Network + "4"
	}
	return f.Network
}

// forwarding is a Forward that listens.
type forwarding struct {
	spec   Forward // as it was asked for
	stream net.Listener
	file   sys.SocketFile // of stream
	packet *udpForward
	once   sync.Once
}

// forwards are those of a Network.
type forwards struct {
	mu   sync.Mutex
	list []*forwarding
	run  *Network // that carries them; nil before it runs
	shut bool
}

// AddForward makes a way in. It listens when AddForward has returned nil;
// before Run its callers wait. The error says what is wrong with f, or is a
// *ListenError, which says why the host does not let us listen. It may be called at
// any time, by any goroutine.
func (n *Network) AddForward(f Forward) error {
	if err := CheckForward(f, n.o.IPv4, n.o.IPv6); err != nil {
		return fmt.Errorf("usernet: forward %v: %w", f, err)
	}
	n.forwards.mu.Lock()
	defer n.forwards.mu.Unlock()
	if n.forwards.shut {
		return fmt.Errorf("usernet: forward %v: %q: %w", f, n.o.Name, ErrEnded)
	}
	if n.forwards.find(f.Network, f.Listen) >= 0 {
		return fmt.Errorf("usernet: forward %v: there is one from %s %s; remove it first", f, f.Network, f.Listen)
	}
	if len(n.forwards.list) >= n.o.Limits.Forwards {
		return fmt.Errorf("usernet: forward %v: %w: there are %d; remove one first", f, ErrForwards, n.o.Limits.Forwards)
	}
	w := &forwarding{spec: f}
	if err := w.listen(n); err != nil {
		return &ListenError{f, err}
	}
	n.forwards.list = append(n.forwards.list, w)
	if n.forwards.run != nil {
		w.start(n)
	}
	return nil
}

// CheckForward says what is wrong with f in the network of a gateway with these
// addresses; nil: nothing.
func CheckForward(f Forward, ipv4, ipv6 netip.Prefix) error {
	isUnix, guest, network := strings.HasPrefix(f.Listen, unixPrefix), f.Guest.Addr(), ipv6
	if guest.Is4() {
		network = ipv4
	}
	switch {
	case f.Network != "tcp" && f.Network != "udp":
		return fmt.Errorf("network %q; tcp or udp is possible", f.Network)
	case isUnix && f.Network != "tcp":
		return errors.New("a unix socket carries a stream; tcp is possible")
	case !f.Guest.IsValid() && f.VM == "" || f.Guest.Port() == 0:
		return fmt.Errorf("guest %v; a VM's port of the switch, or an address of %v or %v and a port, such as %v, are needed", f.To(), ipv4.Masked(), ipv6.Masked(), netip.AddrPortFrom(exampleGuest(ipv4), 80))
	case f.VM != "" && guest.IsValid():
		return fmt.Errorf("guest %v at the port %s; an address or the name of a port is needed, not both", f.Guest, f.VM)
	case f.VM != "":
		return checkListen(f.Listen)
	case !network.Contains(guest) || guest == network.Addr():
		return fmt.Errorf("guest %v is no guest's address; one of %v or %v is needed", f.Guest, ipv4.Masked(), ipv6.Masked())
	}
	if err := dhcp.CheckStation(network, guest); err != nil {
		return fmt.Errorf("guest %v: %w, which no guest has; another one is needed", f.Guest, err)
	}
	return checkListen(f.Listen)
}

// exampleGuest is an address that a guest of a gateway with this address can have; a
// network of IPv4 has one.
func exampleGuest(gateway netip.Prefix) netip.Addr {
	a, _ := dhcp.Example(gateway, func(a netip.Addr) bool { return a == gateway.Addr() })
	return a
}

func checkListen(listen string) error {
	if strings.HasPrefix(listen, unixPrefix) {
		return nil
	}
	if _, err := netip.ParseAddrPort(listen); err != nil {
		return fmt.Errorf("listen address %q; an address and a port of this host, such as 127.0.0.1:8080, are needed", listen)
	}
	return nil
}

// RemoveForward ends the way in from this network and address, as Forwards tells
// it.
// Connections of TCP that came by it go on; flows of UDP end, as their answers left
// by its socket. It may be called at any time, by any
// goroutine.
func (n *Network) RemoveForward(network, listen string) error {
	n.forwards.mu.Lock()
	at := n.forwards.find(network, listen)
	if at < 0 {
		n.forwards.mu.Unlock()
		return fmt.Errorf("usernet: there is no forward from %s %s", network, listen)
	}
	w := n.forwards.list[at]
	n.forwards.list = slices.Delete(n.forwards.list, at, at+1)
	n.forwards.mu.Unlock()
	w.close()
	return nil
}

// ForwardInfo is a Forward and where it listens: the port that the host chose
// when it was asked for port 0.
type ForwardInfo struct {
	Forward
	Address string
}

// Forwards are the ways in. It may be called at any time, by any goroutine.
func (n *Network) Forwards() []ForwardInfo {
	n.forwards.mu.Lock()
	defer n.forwards.mu.Unlock()
	list := make([]ForwardInfo, 0, len(n.forwards.list))
	for _, w := range n.forwards.list {
		list = append(list, ForwardInfo{w.spec, w.address()})
	}
	return list
}

func (s *forwards) find(network, listen string) int {
	return slices.IndexFunc(s.list, func(w *forwarding) bool {
		return w.spec.Network == network && w.address() == listen
	})
}

// start carries what comes by the ways in that are there, and by later ones.
func (s *forwards) start(n *Network) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run = n
	for _, w := range s.list {
		w.start(n)
	}
}

// close ends all ways in, for good.
func (s *forwards) close() {
	s.mu.Lock()
	list := s.list
	s.list, s.shut = nil, true
	s.mu.Unlock()
	for _, w := range list {
		w.close()
	}
}

// listen takes the address on the host.
func (w *forwarding) listen(n *Network) (err error) {
	if w.spec.Network == "udp" {
		w.packet, err = newUDPForward(n, w.spec)
		return err
	}
	if path, ok := strings.CutPrefix(w.spec.Listen, unixPrefix); ok {
		return w.listenUnix(path)
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false) // it does not tell how much there is to read (sys.Waiting)
	w.stream, err = config.Listen(context.Background(), w.spec.socket(), w.spec.Listen)
	return err
}

// listenUnix takes a path, also if a process that was killed left its socket
// there.
func (w *forwarding) listenUnix(path string) error {
	if err := sys.ClearStale(path); err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false) // by name, whoever owns it; SocketFile.Remove looks first
	if w.file, err = sys.SocketFileAt(path); err != nil {
		return errors.Join(err, l.Close())
	}
	w.stream = l
	return nil
}

func (w *forwarding) address() string {
	switch {
	case w.packet != nil:
		return w.packet.conn.LocalAddr().String()
	case strings.HasPrefix(w.spec.Listen, unixPrefix):
		return w.spec.Listen
	}
	return w.stream.Addr().String()
}

// start begins to carry.
func (w *forwarding) start(n *Network) {
	if w.packet != nil {
		n.start(w.packet.receive)
	} else {
		n.start(func() { w.accept(n) })
	}
}

func (w *forwarding) close() {
	w.once.Do(func() {
		if w.packet != nil {
			_ = w.packet.conn.Close() // nothing is in it
		} else {
			_ = w.stream.Close() // likewise
			w.file.Remove()
		}
	})
}

// accept takes connections until the way in is closed.
func (w *forwarding) accept(n *Network) {
	for {
		c, err := w.stream.Accept()
		if errors.Is(err, net.ErrClosed) || n.ctx.Err() != nil {
			if err == nil {
				_ = c.Close() // it came too late
			}
			return
		}
		if err != nil { // out of descriptors, or the caller is gone already
			n.counters.forwardFailed.Add(1)
			pause(n.ctx)
			continue
		}
		host, ok := c.(streamConn)
		if !ok || !n.start(func() { n.forward(w.spec, host) }) {
			_ = c.Close() // it came too late
		}
	}
}

// forward carries one connection that came in.
func (n *Network) forward(f Forward, host streamConn) {
	if !take(&n.conns.open, n.o.Limits.Connections) {
		n.counters.connectLimit.Add(1)
		reset(host)
		return
	}
	defer n.conns.open.Add(-1)
	ctx, cancel := context.WithTimeout(n.ctx, dialWait)
	ep, wq, err := n.callVM(ctx, f)
	cancel()
	if err != nil {
		n.counters.forwardFailed.Add(1)
		n.o.Log.Debug("a guest took no connection", "uplink", n.o.Name, "forward", f.String(), "error", err)
		reset(host)
		return
	}
	n.counters.forwarded.Add(1)
	n.relay(ep, wq, host, n.conns.count())
}
