package usernet

import (
	"net"
	"net/netip"
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

// hostAddresses is what the host's interfaces had when last asked.
var hostAddresses struct {
	mu    sync.Mutex
	asked time.Time
	m     map[netip.Addr]bool
}

// hostHas reports whether a is an address of the host. When the host does not
// tell its addresses, all are taken for its.
func hostHas(a netip.Addr) bool {
	h := &hostAddresses
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m == nil || time.Since(h.asked) > addressesAge {
		list, err := net.InterfaceAddrs()
		if err != nil {
			return true
		}
		h.asked, h.m = time.Now(), map[netip.Addr]bool{}
		for _, each := range list {
			if p, err := netip.ParsePrefix(each.String()); err == nil {
				h.m[p.Addr()] = true
			}
		}
	}
	return h.m[a]
}
