package usernet

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/vswitch"
	"vhostnet/worker"
)

// Defaults of Options.
const (
	DefaultMTU = 1500
	minMTU     = 1280 // what IPv6 needs (RFC 8200, section 5)
	maxMTU     = 65535
)

// The gateway's addresses unless Options say otherwise: an address that is used
// by user-mode networks since slirp, and one of a fixed ULA prefix (RFC 4193).
var (
	DefaultIPv4 = netip.MustParsePrefix("10.0.2.2/24")
	DefaultIPv6 = netip.MustParsePrefix("fd76:686f:7374::2/64")
	DefaultMAC  = [6]byte{0x52, 0x55, 0x0a, 0x00, 0x02, 0x02}
)

// Options is what a Network is made from. Switch, Group and Log are required.
type Options struct {
	Name   string // of the port
	Switch *vswitch.Switch
	Group  *worker.Group
	Log    hclog.Logger
	Mode   worker.Mode // how the queue to the guests is polled

	// Switching says how the switch treats the port: VLANs, and so on. Its Name
	// and Counters are the Network's.
	Switching vswitch.PortOptions

	MAC  [6]byte      // of the gateway; zero means DefaultMAC
	IPv4 netip.Prefix // the gateway's address in its network, /8 to /30; zero means DefaultIPv4
	IPv6 netip.Prefix // likewise, /64; zero means DefaultIPv6
	MTU  int          // longest IP packet to a guest that is not to be cut, 1280 to 65535; 0 means 1500

	// Host makes the gateway's addresses the host's: what guests send to them
	// reaches the host's loopback. Without it they reach neither that nor any
	// other address of the host.
	Host bool

	Services Services
	Limits   Limits
	Forwards []Forward
}

// Limits bound what guests can cost, each of them and all together. 0 means the
// default, which is in parentheses. A guest is a port of the switch.
type Limits struct {
	Addresses      int // that guests use (4096)
	GuestAddresses int // of them, one guest (64)

	Connections      int // open TCP connections (16384)
	GuestConnections int // of them, of one guest (2048)
	GuestConnecting  int // of one guest that are not answered yet (1024)

	Flows      int           // open flows of UDP and ping, each with a socket of the host (8192)
	GuestFlows int           // of them, of one guest (1024)
	FlowIdle   time.Duration // how long a flow stays without a packet (60 s)

	// Packets that come in fragments and of which not all are there. A guest that
	// has more loses its oldest.
	Pieces          int // packets (4096)
	GuestPieces     int // of them, of one guest (64)
	PieceBytes      int // bytes (64 MiB)
	GuestPieceBytes int // of them, of one guest (1 MiB)

	Forwards   int // ways in, each with a socket of the host that listens (1024)
	GuestQueue int // frames of one guest that wait to be looked at, but for TCP (256)
	Queue      int // packets to guests that wait for the worker, to one guest half of them (2048)
}

// fill replaces zeros by defaults and refuses what is less than nothing.
func (l *Limits) fill() error {
	for _, f := range []struct {
		name  string
		value *int
		usual int
	}{
		{"Addresses", &l.Addresses, 4096},
		{"GuestAddresses", &l.GuestAddresses, 64},
		{"Connections", &l.Connections, 16384},
		{"GuestConnections", &l.GuestConnections, 2048},
		{"GuestConnecting", &l.GuestConnecting, 1024},
		{"Flows", &l.Flows, 8192},
		{"GuestFlows", &l.GuestFlows, 1024},
		{"Pieces", &l.Pieces, 4096},
		{"GuestPieces", &l.GuestPieces, 64},
		{"PieceBytes", &l.PieceBytes, 64 << 20},
		{"GuestPieceBytes", &l.GuestPieceBytes, 1 << 20},
		{"Forwards", &l.Forwards, 1024},
		{"GuestQueue", &l.GuestQueue, 256},
		{"Queue", &l.Queue, 2048},
	} {
		if *f.value < 0 {
			return fmt.Errorf("a limit %s of %d; 1 or more, or 0 for %d, is possible", f.name, *f.value, f.usual)
		}
		if *f.value == 0 {
			*f.value = f.usual
		}
	}
	if l.FlowIdle < 0 {
		return fmt.Errorf("a limit FlowIdle of %v; more than 0, or 0 for 60 s, is possible", l.FlowIdle)
	}
	if l.FlowIdle == 0 {
		l.FlowIdle = 60 * time.Second
	}
	return nil
}

// fill replaces zeros by defaults and says what is wrong with the rest.
func (o *Options) fill() error {
	if o.Switch == nil || o.Group == nil || o.Log == nil {
		return errors.New("a Switch, a Group and a Log are needed")
	}
	if o.MAC == [6]byte{} {
		o.MAC = DefaultMAC
	}
	if !o.IPv4.IsValid() {
		o.IPv4 = DefaultIPv4
	}
	if !o.IPv6.IsValid() {
		o.IPv6 = DefaultIPv6
	}
	if o.MTU == 0 {
		o.MTU = DefaultMTU
	}
	switch {
	case o.MAC[0]&1 != 0:
		return fmt.Errorf("the gateway's MAC address %x is that of a group; one station's is needed", o.MAC)
	case !o.IPv4.Addr().Is4() || !o.IPv6.Addr().Is6():
		return fmt.Errorf("the gateway's addresses %v and %v; one of IPv4 and one of IPv6, such as %v and %v, are needed", o.IPv4, o.IPv6, DefaultIPv4, DefaultIPv6)
	case o.MTU < minMTU || o.MTU > maxMTU:
		return fmt.Errorf("an MTU of %d; %d to %d are possible", o.MTU, minMTU, maxMTU)
	}
	for _, p := range []netip.Prefix{o.IPv4, o.IPv6} {
		if err := CheckGateway(p); err != nil {
			return fmt.Errorf("the gateway's address %v: %w", p, err)
		}
	}
	return o.Limits.fill()
}
