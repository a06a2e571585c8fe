package ndp

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Config says what a Gateway is and advertises.
type Config struct {
	// MAC is the gateway's, unicast.
	MAC [6]byte

	// Addresses are the gateway's, IPv4 and IPv6. An IPv6 gateway has one of
	// fe80::/10, which is the source of what it says.
	Addresses []netip.Addr

	// Router is what is advertised. nil: nothing.
	Router *Router

	// Holder answers which MAC an address was given to, if any was. For such
	// an address no other MAC is believed. It is called under the Gateway's
	// lock; nil: none was given.
	Holder func(netip.Addr) (mac [6]byte, ok bool)

	// PerGuest is how many addresses one guest may have; 0 means 64.
	PerGuest int

	// Neighbours is how many addresses are remembered in all; 0 means 65536.
	Neighbours int
}

// Router is the content of router advertisements.
type Router struct {
	// Prefix is on the link, 64 bits long for autoconfiguration.
	Prefix netip.Prefix

	// Autonomous lets guests make addresses of Prefix by themselves (SLAAC).
	Autonomous bool

	// Managed says that addresses can be had by DHCPv6, Other that other
	// things can.
	Managed, Other bool

	// MTU is the link's; 0: not told.
	MTU uint32

	// DNS are resolvers, Search are domains in which short names are looked up.
	DNS    []netip.Addr
	Search []string

	// Interval is the longest time between advertisements to everybody, 4 s to
	// 30 min (RFC 4861, 6.2.1); 0 means 10 min. Guests take what they were told
	// for valid three times as long.
	Interval time.Duration
}

const (
	defaultPerGuest   = 64
	defaultNeighbours = 65536
	defaultInterval   = 10 * time.Minute

	minInterval = 4 * time.Second
	maxInterval = 30 * time.Minute
	minMTU      = 1280 // of any link with IPv6 (RFC 8200, 5)
)

func (c Config) validate() error {
	if c.MAC == [6]byte{} || c.MAC[0]&1 != 0 {
		return fmt.Errorf("ndp: gateway's MAC %x: want a unicast address", c.MAC)
	}
	if len(c.Addresses) == 0 {
		return errors.New("ndp: the gateway has no address; want at least one")
	}
	var v6, linkLocal bool
	for _, a := range c.Addresses {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("ndp: gateway's address %v: want a unicast address without zone", a)
		}
		v6 = v6 || a.Is6()
		linkLocal = linkLocal || a.Is6() && a.IsLinkLocalUnicast()
	}
	if v6 && !linkLocal {
		return errors.New("ndp: the gateway has IPv6 addresses, but none of fe80::/10, from which it must speak")
	}
	if c.PerGuest < 0 || c.Neighbours < 0 {
		return fmt.Errorf("ndp: %d addresses for each guest, %d in all; both are 0 (the default) or more", c.PerGuest, c.Neighbours)
	}
	if c.Router == nil {
		return nil
	}
	if !v6 {
		return errors.New("ndp: router advertisements without an IPv6 address of the gateway")
	}
	return c.Router.validate()
}

func (r Router) validate() error {
	p := r.Prefix
	switch {
	case !p.IsValid() || !p.Addr().Is6() || p.Addr().Is4In6() || p.Masked() != p:
		return fmt.Errorf("ndp: advertised prefix %v: want an IPv6 prefix without host bits", p)
	case r.Autonomous && p.Bits() != 64:
		return fmt.Errorf("ndp: advertised prefix %v: guests make addresses of prefixes of 64 bits only (RFC 4862, 5.5.3)", p)
	case r.MTU != 0 && (r.MTU < minMTU || r.MTU > 65535):
		return fmt.Errorf("ndp: advertised MTU %d; want %d to 65535, or 0 for none", r.MTU, minMTU)
	case r.Interval != 0 && (r.Interval < minInterval || r.Interval > maxInterval):
		return fmt.Errorf("ndp: advertisements every %v; want %v to %v", r.Interval, minInterval, maxInterval)
	}
	for _, a := range r.DNS {
		if !a.Is6() || a.Is4In6() || a.Zone() != "" {
			return fmt.Errorf("ndp: advertised resolver %v: want an IPv6 address without zone", a)
		}
	}
	return nil
}
