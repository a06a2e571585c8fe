package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Config says what a Forwarder knows and whom it asks.
type Config struct {
	// Domain is that of the VMs; empty means "internal". A name with one label
	// before it exists here or not at all; longer ones are forwarded.
	Domain string

	// Host are the addresses of the host, as guests see it: host.internal,
	// whatever Domain is, and host and gateway in Domain. None: no such names.
	Host []netip.Addr

	// Networks are the guests'. Names of their addresses exist here or not at
	// all.
	Networks []netip.Prefix

	// Names answers the addresses of the VM at a port of the switch, in lower
	// case, none for an unknown one. Pointer answers the port of an address.
	// Both may be called concurrently; nil: nobody is known.
	Names   func(port string) []netip.Addr
	Pointer func(netip.Addr) (port string, ok bool)

	// ResolvConf is the file that names the host's resolvers; empty means
	// /etc/resolv.conf. It is read again when it changes. Resolvers are asked
	// instead, if there are any.
	ResolvConf string
	Resolvers  []netip.AddrPort

	// Timeout is for how long a resolver is waited for before the next is asked,
	// at most 4 s; 0 means 1.5 s. A query is given up after 4 s.
	Timeout time.Duration

	// PerGuest is how many queries of one guest may be under way; 0 means 64.
	// InFlight is how many of all; 0 means 512. More are dropped, by UDP, and
	// answered by SERVFAIL, by TCP.
	PerGuest, InFlight int

	// PerGuestConns is how many TCP connections of one guest are served at
	// once, 0 means 8; Conns how many of all, 0 means 128.
	PerGuestConns, Conns int

	// CacheEntries and CacheBytes bound the cache of one guest; 0 means 256 and
	// 128 KiB. Less than 0: no cache.
	CacheEntries, CacheBytes int

	// MaxUDP is the longest answer by UDP; a longer one is cut, and asked for
	// again by TCP. 0 means 1232.
	MaxUDP int

	Log hclog.Logger // nil: nowhere
}

const (
	defaultDomain       = "internal"
	defaultResolvConf   = "/etc/resolv.conf"
	defaultPerGuest     = 64
	defaultInFlight     = 512
	defaultConns        = 8
	defaultAllConns     = 128
	defaultCacheEntries = 256
	defaultCacheBytes   = 128 << 10
	defaultMaxUDP       = 1232
	defaultTimeout      = 1500 * time.Millisecond
	minMaxUDP           = 512 // what every client takes (RFC 1035, 4.2.1)
)

// complete puts in the defaults, or says what is wrong.
func (c Config) complete() (Config, error) {
	for _, d := range []struct {
		field  *int
		number int
	}{
		{&c.PerGuest, defaultPerGuest},
		{&c.InFlight, defaultInFlight},
		{&c.PerGuestConns, defaultConns},
		{&c.Conns, defaultAllConns},
		{&c.CacheEntries, defaultCacheEntries},
		{&c.CacheBytes, defaultCacheBytes},
		{&c.MaxUDP, defaultMaxUDP},
	} {
		if *d.field == 0 {
			*d.field = d.number
		}
	}
	if c.Domain == "" {
		c.Domain = defaultDomain
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.ResolvConf == "" {
		c.ResolvConf = defaultResolvConf
	}
	if c.Log == nil {
		c.Log = hclog.NewNullLogger()
	}
	c.Domain = strings.ToLower(strings.Trim(c.Domain, "."))
	if c.Domain == "" || len(c.Domain) > 190 || strings.Contains(c.Domain, "..") {
		return c, fmt.Errorf("dns: domain %q: want labels with dots between them", c.Domain)
	}
	if c.MaxUDP < minMaxUDP || c.MaxUDP > 65000 {
		return c, fmt.Errorf("dns: answers by UDP of at most %d bytes; want %d to 65000", c.MaxUDP, minMaxUDP)
	}
	if c.Timeout < 0 || c.Timeout > queryTimeout {
		return c, fmt.Errorf("dns: %v for a resolver to answer; want 0 (%v) to %v", c.Timeout, defaultTimeout, queryTimeout)
	}
	for _, r := range c.Resolvers {
		if !r.IsValid() || r.Port() == 0 {
			return c, fmt.Errorf("dns: resolver %v: want an address and a port", r)
		}
	}
	if c.PerGuest < 0 || c.InFlight < 0 || c.PerGuestConns < 0 || c.Conns < 0 {
		return c, errors.New("dns: bounds of queries and connections: want more than 0")
	}
	return c, nil
}
