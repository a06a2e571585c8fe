package usernet

import (
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// nicID is the stack's one interface.
const nicID tcpip.NICID = 1

// Buffers of a connection in the stack, bytes. What a guest sends has all of the
// room at once: the stack gives it late otherwise, as it sees no round trips, and
// each byte costs a seventh more.
const (
	sendUsual  = 1 << 20
	bufferMost = 4 << 20
)

// maxInFlight is how many connections the stack lets wait for their destination.
// What a guest may have of them is decided before (dials).
const maxInFlight = 1 << 16

// newStack makes the TCP stack of a Network: it takes packets to any address, and
// answers from any.
func (n *Network) newStack() (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	if err := n.configure(s); err != nil {
		s.Destroy()
		return nil, fmt.Errorf("usernet: %q: the TCP stack: %w", n.o.Name, err)
	}
	f := tcp.NewForwarder(s, bufferMost, maxInFlight, n.connect)
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, f.HandlePacket)
	return s, nil
}

func (n *Network) configure(s *stack.Stack) error {
	sack, recovery, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPRecovery(0), tcpip.TCPModerateReceiveBufferOption(true)
	control := tcpip.CongestionControlOption("cubic")
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: sendUsual, Max: bufferMost}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: bufferMost, Max: bufferMost}
	// A connection that is over does not wait for packets of its own that are late: a
	// ring delays none. It would keep its guest's port meanwhile, which the guest may
	// take again at once, and the Forwarder has no endpoint that its SYN could go to. A
	// guest whose last packet's acknowledgement was lost is answered with a reset; it
	// has all bytes then, and both ends.
	late := tcpip.TCPTimeWaitTimeoutOption(0)
	// Without loss RACK retransmits spuriously in this version of the stack.
	for _, o := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &moderate, &control, &send, &receive, &late} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return fmt.Errorf("option %T: %v", o, err)
		}
	}
	if err := s.CreateNIC(nicID, n.link); err != nil {
		return fmt.Errorf("interface: %v", err)
	}
	for _, err := range []tcpip.Error{s.SetPromiscuousMode(nicID, true), s.SetSpoofing(nicID, true)} {
		if err != nil {
			return fmt.Errorf("interface: %v", err)
		}
	}
	for _, a := range []netip.Addr{n.o.IPv4.Addr(), n.o.IPv6.Addr()} {
		address := tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: stackAddress(a).WithPrefix()}
		if err := s.AddProtocolAddress(nicID, address, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("address %v: %v", a, err)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nicID}, {Destination: header.IPv6EmptySubnet, NIC: nicID}})
	return nil
}

// stackAddress is a in the stack's form, hostAddress the other way.
func stackAddress(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func hostAddress(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}
