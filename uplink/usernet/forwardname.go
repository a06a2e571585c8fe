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

// guestsOf are the addresses to which a way in leads now, those first that are to be
// tried first: of a VM that it names its leases, or else what it uses.
func (n *Network) guestsOf(f Forward) (list []netip.AddrPort) {
	if f.VM == "" {
		return []netip.AddrPort{f.Guest}
	}
	addresses := n.services.dhcp.Addresses(time.Now(), f.VM)
	if len(addresses) == 0 {
		addresses = n.addressesOf(strings.ToLower(f.VM))
		slices.SortFunc(addresses, netip.Addr.Compare) // IPv4 first
	}
	for _, a := range addresses {
		list = append(list, netip.AddrPortFrom(a, f.Guest.Port()))
	}
	return list
}

// callOneOf is callGuest of the first address that takes a connection.
func (n *Network) callOneOf(ctx context.Context, list []netip.AddrPort) (ep tcpip.Endpoint, wq *waiter.Queue, err error) {
	err = errNoAddress
	for _, a := range list {
		if ep, wq, err = n.callGuest(ctx, a); err == nil || ctx.Err() != nil {
			break
		}
	}
	return ep, wq, err
}

// findOneOf is the first address that a guest answers for; nil: there is none.
func (n *Network) findOneOf(ctx context.Context, list []netip.AddrPort) (netip.AddrPort, *station) {
	for _, a := range list {
		if n.resolve(ctx, a.Addr()) != nil {
			continue
		}
		if st := n.stations.find(a.Addr()); st != nil {
			return a, st
		}
	}
	return netip.AddrPort{}, nil
}
