package dhcp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Client is who sent a message.
type Client struct {
	Port string  // the port of the switch at which it came in; empty: not known
	MAC  [6]byte // the source of its frame
}

// guest is whose share of addresses the client's are of.
func (c Client) guest() string {
	if c.Port != "" {
		return c.Port
	}
	return string(c.MAC[:])
}

// Config says what a Server gives out.
type Config struct {
	IPv4 *IPv4 // nil: DHCPv4 is not answered
	IPv6 *IPv6 // nil: DHCPv6 is not answered

	// Domain is the guests' own, and the first of those in which short names
	// are looked up; Search are the others. Both may be empty.
	Domain string
	Search []string

	// Lease is for how long an address is given, 2 min to 1 year; 0 means 1 h.
	Lease time.Duration

	// PerGuest is how many addresses, of IPv4 and of IPv6 each, the clients
	// behind one port of the switch may have together, counting those that they
	// declined; 0 means 16. Clients of no known port are each alone.
	PerGuest int

	// Reservations are addresses and names of certain clients.
	Reservations []Reservation

	// Moved reports whether the VM that c is has left c's port for another one:
	// its leases follow it, as a VM that migrates does not ask for new ones. nil:
	// leases follow nobody. It is called under the Server's lock.
	Moved func(c Client, to string) bool

	// Taken reports whether somebody else than c uses an address that is not c's
	// lease; it is not given to c meanwhile. nil: nobody does. It is called under
	// the Server's lock.
	Taken func(a netip.Addr, c Client) bool

	// File is where leases are kept over restarts; empty: they are not. Its
	// directory must exist. A file that cannot be read is set aside.
	File string

	Log hclog.Logger // nil: nowhere
}

// IPv4 is what DHCPv4 gives out. Lists may be empty.
type IPv4 struct {
	Server      netip.Addr   // the server's own address
	Prefix      netip.Prefix // the guests' network
	First, Last netip.Addr   // addresses given to who has no reservation, at most 16384
	Router      netip.Addr   // the default gateway; invalid: none
	DNS         []netip.Addr
	NTP         []netip.Addr
	MTU         int // 68 to 65535; 0: not told
	Boot        Boot
}

// IPv6 is what DHCPv6 gives out. Lists may be empty.
type IPv6 struct {
	MAC         [6]byte      // the server's, of which its DUID is made
	Prefix      netip.Prefix // the guests' network
	First, Last netip.Addr   // addresses given to who has no reservation, at most 16384
	DNS         []netip.Addr
	NTP         []netip.Addr
	Boot        Boot

	// BootServer gives the boot files whose names are no URLs, by TFTP: DHCPv6
	// tells URLs only (RFC 5970, 3.1). Invalid: those are not told.
	BootServer netip.Addr
}

const (
	defaultLease    = time.Hour
	minLease        = 2 * time.Minute
	maxLease        = 366 * 24 * time.Hour
	defaultPerGuest = 16
	maxPool         = 16384 // a full pool is walked once for each new client
)

func (c Config) validate() error {
	if c.IPv4 == nil && c.IPv6 == nil {
		return errors.New("dhcp: neither IPv4 nor IPv6 is to be answered; want at least one")
	}
	if c.Lease != 0 && (c.Lease < minLease || c.Lease > maxLease) {
		return fmt.Errorf("dhcp: lease of %v; want %v to %v", c.Lease, minLease, maxLease)
	}
	if c.File != "" {
		if info, err := os.Stat(filepath.Dir(c.File)); err != nil || !info.IsDir() {
			return fmt.Errorf("dhcp: lease file %s; want it in a directory that exists", c.File)
		}
	}
	if c.PerGuest < 0 {
		return fmt.Errorf("dhcp: %d addresses for each guest; want 0 (16) or more", c.PerGuest)
	}
	for _, name := range append([]string{c.Domain}, c.Search...) {
		if name != "" && !isName(name) {
			return fmt.Errorf("dhcp: domain %q: want labels of letters, digits and hyphens with dots between them", name)
		}
	}
	if err := c.IPv4.validate(); err != nil {
		return err
	}
	if err := c.IPv6.validate(); err != nil {
		return err
	}
	return c.validateReservations()
}

func (c *IPv4) validate() error {
	if c == nil {
		return nil
	}
	if !c.Server.Is4() || !c.Prefix.Contains(c.Server) {
		return fmt.Errorf("dhcp: server's address %v: want one of the network %v", c.Server, c.Prefix)
	}
	if c.Router.IsValid() && !c.Prefix.Contains(c.Router) {
		return fmt.Errorf("dhcp: router %v: want one of the network %v", c.Router, c.Prefix)
	}
	if c.MTU != 0 && (c.MTU < 68 || c.MTU > 65535) {
		return fmt.Errorf("dhcp: MTU %d; want 68 to 65535, or 0 for none", c.MTU)
	}
	for _, a := range append(append([]netip.Addr{}, c.DNS...), c.NTP...) {
		if !a.Is4() {
			return fmt.Errorf("dhcp: server %v to be told by DHCPv4: want an IPv4 address", a)
		}
	}
	if err := c.Boot.validate(); err != nil {
		return err
	}
	return validateRange(c.Prefix, c.First, c.Last, c.Server)
}

func (c *IPv6) validate() error {
	if c == nil {
		return nil
	}
	if c.MAC == [6]byte{} {
		return errors.New("dhcp: the server has no MAC, of which its DUID is made")
	}
	if !c.Prefix.Addr().Is6() {
		return fmt.Errorf("dhcp: network %v: want an IPv6 prefix", c.Prefix)
	}
	for _, a := range append(append([]netip.Addr{}, c.DNS...), c.NTP...) {
		if !a.Is6() || a.Is4In6() {
			return fmt.Errorf("dhcp: server %v to be told by DHCPv6: want an IPv6 address", a)
		}
	}
	if err := c.Boot.validate(); err != nil {
		return err
	}
	return validateRange(c.Prefix, c.First, c.Last, netip.Addr{})
}

func validateRange(p netip.Prefix, first, last, server netip.Addr) error {
	if !p.Contains(first) || !p.Contains(last) || last.Less(first) {
		return fmt.Errorf("dhcp: addresses %v to %v: want two of the network %v, the smaller first", first, last, p)
	}
	if server.IsValid() && !server.Less(first) && !last.Less(server) {
		return fmt.Errorf("dhcp: addresses %v to %v hold the server's own, %v", first, last, server)
	}
	if size(first, last) > maxPool {
		return fmt.Errorf("dhcp: addresses %v to %v are more than %d", first, last, maxPool)
	}
	return nil
}

func (c Config) validateReservations() error {
	for i, err := range CheckReservations(c.Reservations, c.IPv4, c.IPv6) {
		if err != nil {
			return fmt.Errorf("dhcp: reservation %d: %w", i+1, err)
		}
	}
	return nil
}

// isName reports whether name is one of a host (RFC 1123, 2.1).
func isName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i] | 0x20
			if (c < 'a' || c > 'z') && (label[i] < '0' || label[i] > '9') && label[i] != '-' {
				return false
			}
		}
	}
	return true
}
