package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vhostnet/control"
	"vhostnet/netdev"
)

// guestOptions say how a port's guest may call, and what it may do then.
type guestOptions struct {
	what    string // one of guestWords; "": not said
	cid     uint32 // of AF_VSOCK; 0: none
	socket  string // of hybrid vsock, without the port; "": none
	filters int    // that it may have; 0: not said
}

// What a guest may do.
const (
	guestOff     = "off"
	guestSees    = "see"
	guestFilters = "filters"
)

var guestWords = []string{guestOff, guestSees, guestFilters}

// Bounds of what guests may have. maxCID is the greatest CID that is somebody's;
// of the lowest, 1 is this machine's own, by vsock_loopback, and 2 its host's.
const (
	maxCID         = 1<<32 - 2
	maxGuestPort   = 1<<32 - 2
	localCID       = 1
	firstCID       = 3
	maxFilters     = 256
	defaultFilters = 32
	maxBuffers     = 1 << 15 // of a ring
)

// option takes one of the options of the guest channel; known says whether key
// is one.
func (g *guestOptions) option(key, value string) (known bool, err error) {
	switch key {
	case "guest":
		g.what = value
		if !slices.Contains(guestWords, value) {
			err = fmt.Errorf("guest=%s: want %s", value, listOf(guestWords))
		}
	case "guest-cid":
		n, cerr := strconv.ParseUint(value, 10, 32)
		if cerr != nil || n > maxCID || n < firstCID && n != localCID {
			err = fmt.Errorf("guest-cid=%s: want the CID of a VM, %d to %d, or %d for programs of this machine", value, firstCID, uint32(maxCID), localCID)
		}
		g.cid = uint32(n)
	case "guest-socket":
		g.socket = value
		if value == "" || strings.HasPrefix(value, "@") {
			err = fmt.Errorf("guest-socket=%s: want the path of the VM's vsock socket, to which _ and the port are added", value)
		}
	case "guest-filters":
		g.filters, err = strconv.Atoi(value)
		if err != nil || g.filters < 1 || g.filters > maxFilters {
			err = fmt.Errorf("guest-filters=%s: want 1 to %d", value, maxFilters)
		}
	default:
		return false, nil
	}
	return true, err
}

// consistent refuses what cannot have an effect.
func (g *guestOptions) consistent(mode netdev.QueueMode) error {
	reached := g.cid != 0 || g.socket != ""
	switch {
	case g.what != "" && g.what != guestOff && !reached:
		return fmt.Errorf("guest=%s: want guest-cid or guest-socket too, by which the guest is known", g.what)
	case g.filters != 0 && g.what != guestFilters:
		return fmt.Errorf("guest-filters=%d: want guest=filters too", g.filters)
	case g.what == guestFilters && mode == netdev.QueueManual:
		return errors.New("queue=manual: the control API alone sets the filters of this port; want guest=see")
	}
	return nil
}

// open reports whether the guest may call.
func (g *guestOptions) open() bool {
	return g.what != guestOff && (g.cid != 0 || g.socket != "")
}

// path is where a guest calls by hybrid vsock.
func (g *guestOptions) path(port uint32) string { return fmt.Sprintf("%s_%d", g.socket, port) }

// describe tells the options that are said.
func (g *guestOptions) describe(set func(key, value string, is bool)) {
	set("guest", g.what, g.what != "")
	set("guest-cid", strconv.FormatUint(uint64(g.cid), 10), g.cid != 0)
	set("guest-socket", g.socket, g.socket != "")
	set("guest-filters", strconv.Itoa(g.filters), g.filters != 0)
}

// policy is what the guest of a port may do.
func (p *portSpec) policy() control.GuestPolicy {
	out := control.GuestPolicy{GuestVLANs: control.GuestVLANs{
		Every:    p.vlan.Access == 0 && len(p.vlan.Trunk) == 0,
		Untagged: p.vlan.Native != 0 || len(p.vlan.Trunk) == 0,
		Tags:     p.vlan.Trunk,
	}}
	if p.guest.what == guestFilters {
		out.Filters, out.Buffers = p.guest.filters, maxBuffers
		if out.Filters == 0 {
			out.Filters = defaultFilters
		}
	}
	return out
}

// guestsSeen are ports by what their guests are known by.
type guestsSeen map[string]string

// add refuses a port whose guest would be taken for another's.
func (s guestsSeen) add(p *portSpec) error {
	var errs []error
	p.guest.describe(func(key, value string, is bool) {
		if !is || key != "guest-cid" && key != "guest-socket" {
			return
		}
		word := key + "=" + value
		if other := s[word]; other != "" {
			errs = append(errs, p.said.errorf("%s is the guest of port %s already; each guest is known by its own", word, other))
		}
		s[word] = p.name
	})
	return errors.Join(errs...)
}
