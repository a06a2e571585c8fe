package usernet

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The host's own addresses are asked for at most this often.
const addressesAge = 5 * time.Second

var (
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	loopback6 = netip.IPv6Loopback()
)

// target is where what a guest sends to dst goes on the host, and whether it may:
// the gateway is the host's loopback. What has a meaning on one link only, or on
// none, is not reached: the host's link is not the guest's, and cloud hosts keep
// their secrets behind link-local addresses.
func (n *Network) target(dst netip.Addr) (netip.Addr, bool) {
	switch {
	case dst == n.o.IPv4.Addr():
		return loopback4, n.o.Host
	case dst == n.o.IPv6.Addr(), dst == n.linkLocal:
		return loopback6, n.o.Host
	case dst.Is4In6():
		return dst, false // the host would take it for IPv4, and what is said below of IPv4 would be passed by
	case n.o.IPv4.Contains(dst), n.o.IPv6.Contains(dst):
		return dst, false // a station of the guests' network that is not there
	case !usable(dst), dst.Is4() && dst.As4()[0] == 0, dst.Is4() && dst.As4()[0] >= 240:
		return dst, false
	}
	return dst, n.o.Host || !hostHas(dst)
}

// hostAddresses is what the host took for its own when last asked.
var hostAddresses struct {
	mu    sync.Mutex
	asked time.Time
	list  []netip.Prefix
}

// hostHas reports whether a is an address of the host. When the host does not
// tell its addresses, all are taken for its.
func hostHas(a netip.Addr) bool {
	h := &hostAddresses
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.list == nil || time.Since(h.asked) > addressesAge {
		list, err := localPrefixes()
		if err != nil {
			return true
		}
		h.asked, h.list = time.Now(), list
	}
	return slices.ContainsFunc(h.list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// localPrefixes is what the host delivers to itself: the addresses of its
// interfaces, and all else that its routing tables say so of, which are whole
// prefixes on the loopback and the anycast addresses of routers.
func localPrefixes() ([]netip.Prefix, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var list []netip.Prefix
	for _, each := range addresses {
		if p, err := netip.ParsePrefix(each.String()); err == nil {
			list = append(list, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
		}
	}
	for name, parse := range map[string]func(string) []netip.Prefix{"/proc/net/fib_trie": localRoutes4, "/proc/net/ipv6_route": localRoutes6} {
		text, err := os.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist): // without the one or the other protocol
		case err != nil:
			return nil, err
		default:
			list = append(list, parse(string(text))...)
		}
	}
	return list, nil
}

// localRoutes4 is what /proc/net/fib_trie says is the host's: under a line
// "|-- ADDRESS" there is one "/BITS SCOPE TYPE" for each route to it.
func localRoutes4(text string) (list []netip.Prefix) {
	var address netip.Addr
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 2 && fields[0] == "|--":
			address, _ = netip.ParseAddr(fields[1])
		case len(fields) >= 3 && slices.Contains([]string{"LOCAL", "BROADCAST", "ANYCAST"}, fields[2]):
			bits, err := strconv.Atoi(strings.TrimPrefix(fields[0], "/"))
			if p, perr := address.Prefix(bits); err == nil && perr == nil && p.IsValid() {
				list = append(list, p)
			}
		}
	}
	return list
}

// Flags of routes in /proc/net/ipv6_route (linux/ipv6_route.h).
const (
	routeAnycast = 0x00100000
	routeLocal   = 0x80000000
)

// localRoutes6 is what /proc/net/ipv6_route says is the host's: destination and
// length come first, the flags last but one, all in hexadecimal.
func localRoutes6(text string) (list []netip.Prefix) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 10 {
			continue
		}
		raw, err := hex.DecodeString(fields[0])
		bits, berr := strconv.ParseUint(fields[1], 16, 8)
		flags, ferr := strconv.ParseUint(fields[8], 16, 32)
		if err != nil || berr != nil || ferr != nil || len(raw) != 16 || flags&(routeAnycast|routeLocal) == 0 {
			continue
		}
		if p, err := netip.AddrFrom16([16]byte(raw)).Prefix(int(bits)); err == nil {
			list = append(list, p)
		}
	}
	return list
}
