package usernet

import (
	"fmt"
	"net/netip"

	"vhostnet/uplink/usernet/internal/dhcp"
)

// CheckGateway says what is wrong with a gateway's address in its network, of either
// family; nil: nothing.
func CheckGateway(p netip.Prefix) error {
	a, usual, least, most := p.Addr(), DefaultIPv4, 8, 30
	lengths := "8 to 30"
	if !a.Is4() {
		usual, least, most, lengths = DefaultIPv6, 64, 64, "64"
	}
	if !a.IsValid() || a.Is4In6() || !usable(a) {
		return fmt.Errorf("%v is no station's address; want one such as %v", a, usual)
	}
	if p.Bits() < least || p.Bits() > most {
		return fmt.Errorf("a network with a prefix of %d bits; want a prefix length of %s, such as %v", p.Bits(), lengths, usual)
	}
	if err := dhcp.CheckStation(p, a); err != nil {
		other := netip.PrefixFrom(p.Masked().Addr().Next().Next(), p.Bits())
		return fmt.Errorf("%w; want another one of it, such as %v", err, other)
	}
	return nil
}

// CheckReservations says of each of list what is wrong with it in the network of a
// gateway with these addresses; nil: nothing.
func CheckReservations(list []Reservation, ipv4, ipv6 netip.Prefix) []error {
	return dhcp.CheckReservations(list,
		&dhcp.IPv4{Prefix: ipv4.Masked(), Server: ipv4.Addr()},
		&dhcp.IPv6{Prefix: ipv6.Masked(), DNS: []netip.Addr{ipv6.Addr()}})
}

// usable reports whether a gateway can have the address.
func usable(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
}
