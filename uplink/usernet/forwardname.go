package usernet

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// errNoAddress is that nothing is known of a VM that a way in leads to by name.
var errNoAddress = errors.New("the VM has no address yet")

// maxTried is how many addresses of a VM are tried of those of which one kind of
// guestsOf consists.
const maxTried = 16

// guestsOf are the addresses to which a way in leads now, those first that are to be
// tried first: of a VM that it names its leases, or else what it uses. For those that
// are known the guest was seen to answer; whether it does for the others has to be
// asked: of leases many may be of systems that the VM ran before.
func (n *Network) guestsOf(f Forward) (known, others []netip.AddrPort) {
	addresses := []netip.Addr{f.Guest.Addr()}
	if f.VM != "" {
		addresses = n.addressesOfVM(f.VM)
	}
	for _, a := range addresses {
		at := netip.AddrPortFrom(a, f.Guest.Port())
		switch st := n.stations.find(a); {
		case st == nil:
			others = append(others, at)
		case f.VM == "" || strings.EqualFold(st.guest.name, f.VM):
			known = append(known, at)
		}
	}
	return known[:min(len(known), maxTried)], others[:min(len(others), maxTried)]
}

// addressesOfVM are those of the VM at a port, those of IPv4 first.
func (n *Network) addressesOfVM(port string) []netip.Addr {
	if leases := n.services.dhcp.Addresses(time.Now(), port); len(leases) > 0 {
		return leases
	}
	list := n.guests.named(port)
	if at := slices.IndexFunc(list, func(g *guest) bool { return g.name == port }); at >= 0 {
		list = list[at : at+1]
	}
	addresses := n.addressesAt(list)
	slices.SortFunc(addresses, netip.Addr.Compare)
	return addresses
}

// callVM is callGuest of the first address of a way in that takes a connection.
func (n *Network) callVM(ctx context.Context, f Forward) (ep tcpip.Endpoint, wq *waiter.Queue, err error) {
	known, others := n.guestsOf(f)
	err = errNoAddress
	for _, a := range known {
		if ep, wq, err = n.callGuest(ctx, a); err == nil || ctx.Err() != nil {
			return ep, wq, err
		}
	}
	asking, cancel := context.WithTimeoutCause(ctx, resolveWait, errNobody) // for all of them
	defer cancel()
	for tried := len(known) > 0; len(others) > 0 && ctx.Err() == nil; tried = true {
		at, nobody := n.resolveOne(asking, others)
		if nobody != nil && tried {
			break
		}
		if nobody != nil {
			return nil, nil, nobody
		}
		if ep, wq, err = n.callGuest(ctx, others[at]); err == nil {
			return ep, wq, nil
		}
		others = slices.Delete(others, at, at+1)
	}
	return nil, nil, err
}
