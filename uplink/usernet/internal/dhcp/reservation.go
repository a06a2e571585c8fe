package dhcp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Reservation sets addresses apart for the client with a MAC, at a port, or
// both. An address may lie outside First to Last.
type Reservation struct {
	Port string  // empty: any
	MAC  [6]byte // zero: any

	IPv4, IPv6 netip.Addr // invalid: given like anybody's
	Hostname   string     // empty: the name of the port
}

// Matches reports whether the reservation is for c.
func (r Reservation) Matches(c Client) bool {
	return (r.Port == "" || r.Port == c.Port) && (r.MAC == [6]byte{} || r.MAC == c.MAC)
}

// CheckStation says why no station of a network can have an address; nil: one can. The
// address of the network itself is, in IPv6, that of any of its routers (RFC 4291,
// section 2.6.1).
func CheckStation(network netip.Prefix, a netip.Addr) error {
	network = network.Masked()
	switch {
	case !network.Contains(a):
		return fmt.Errorf("%v is outside of the network %v", a, network)
	case a == network.Addr():
		return fmt.Errorf("%v is the address of the network %v itself", a, network)
	case a.Is4() && !network.Contains(a.Next()):
		return fmt.Errorf("%v is the address of all in the network %v", a, network)
	}
	return nil
}

// network is one whose addresses can be reserved.
type network struct {
	prefix netip.Prefix // invalid: none of it can
	own    []netip.Addr // those of who serves it
}

func (c *IPv4) network() network {
	if c == nil {
		return network{}
	}
	return network{c.Prefix, append([]netip.Addr{c.Server, c.Router}, c.DNS...)}
}

func (c *IPv6) network() network {
	if c == nil {
		return network{}
	}
	return network{c.Prefix, append([]netip.Addr{c.BootServer}, c.DNS...)}
}

// CheckReservations says of each of list what is wrong with it, nil: nothing. Of the
// networks Prefix and the addresses of servers are looked at; nil: it is not served.
func CheckReservations(list []Reservation, v4 *IPv4, v6 *IPv6) []error {
	reserved := map[netip.Addr]bool{}
	errs := make([]error, len(list))
	for i, r := range list {
		var who, name error
		if r.Port == "" && r.MAC == [6]byte{} {
			who = errors.New("it is for nobody; want a port, a MAC address or both")
		}
		if r.Hostname != "" && !isName(r.Hostname) {
			name = fmt.Errorf("hostname %q: want letters, digits and hyphens", r.Hostname)
		}
		errs[i] = errors.Join(who, v4.network().mayReserve(r.IPv4, reserved), v6.network().mayReserve(r.IPv6, reserved), name)
	}
	return errs
}

// mayReserve refuses an address that no client can be given, or that is in reserved,
// and notes it there.
func (n network) mayReserve(a netip.Addr, reserved map[netip.Addr]bool) error {
	if !a.IsValid() {
		return nil
	}
	if !n.prefix.IsValid() {
		return fmt.Errorf("%v is of a family of which no addresses are given", a)
	}
	err := CheckStation(n.prefix, a)
	switch {
	case err != nil:
	case slices.Contains(n.own, a):
		err = fmt.Errorf("%v is the gateway's own, where names are resolved too", a)
	case reserved[a]:
		err = fmt.Errorf("%v is reserved twice", a)
	default:
		reserved[a] = true
		return nil
	}
	not := func(a netip.Addr) bool { return slices.Contains(n.own, a) || reserved[a] }
	if example, ok := Example(n.prefix, not); ok {
		return fmt.Errorf("%w; want another one of %v, such as %v", err, n.prefix.Masked(), example)
	}
	return fmt.Errorf("%w; want another one of %v, if one is free, or a larger network", err, n.prefix.Masked())
}

// Example is an address that a station of a network can have, one of the lowest, of
// which not does not report that it is another's; not ok: none of them is.
func Example(network netip.Prefix, not func(netip.Addr) bool) (a netip.Addr, ok bool) {
	a = network.Masked().Addr()
	for range 100 { // others are as good as none
		if a = a.Next(); CheckStation(network, a) != nil {
			break // so are those that follow
		}
		if !not(a) {
			return a, true
		}
	}
	return a, false
}
