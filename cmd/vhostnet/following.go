package main

import "reflect"

// following is what becomes of a port whose option has another value in a new
// configuration.
type following uint8

const (
	stays    following = iota // the port follows in place: its VM, or its connections, notice nothing
	replaced                  // the port is closed and opened again: its VM connects anew
	refused                   // the configuration is not taken, as the VM keeps what it was offered
)

// followed says of an option what a new value does. of is what is compared.
type followed struct {
	option string
	change following
	of     func(p *portSpec) any
}

// followedSwitching is of the options of every port that the switch is concerned
// with.
var followedSwitching = []followed{
	{"switch", replaced, func(p *portSpec) any { return p.network }},
	{"vlan", stays, func(p *portSpec) any { return p.vlan.Access }},
	{"trunk", stays, func(p *portSpec) any { return p.vlan.Trunk }},
	{"native", stays, func(p *portSpec) any { return p.vlan.Native }},
	{"protected", stays, func(p *portSpec) any { return p.protected }},
	{"mirror", stays, func(p *portSpec) any { return p.mirror }},
	{"transparent", stays, func(p *portSpec) any { return p.transparent }},
}

// followedVM is of the other options of a VM's port. Its guest knows the VLANs that it
// may use from when its channel was opened.
var followedVM = []followed{
	{"sink", stays, func(p *portSpec) any { return p.sink }},
	{"static", stays, func(p *portSpec) any { return p.statics }},
	{"mode", stays, func(p *portSpec) any { return p.mode }},
	{"socket", replaced, func(p *portSpec) any { return []any{p.path, p.fd} }},
	{"role", replaced, func(p *portSpec) any { return p.dial }},
	{"inflight", replaced, func(p *portSpec) any { return p.inflight }},
	{"mac", replaced, func(p *portSpec) any { return p.mac }},
	{"queue", replaced, func(p *portSpec) any { return p.queue }},
	{"guest", replaced, func(p *portSpec) any { return p.guest.what }},
	{"guest-cid", replaced, func(p *portSpec) any { return p.guest.cid }},
	{"guest-socket", replaced, func(p *portSpec) any { return p.guest.socket }},
	{"guest-filters", replaced, func(p *portSpec) any { return p.guest.filters }},
	{"socket-mode", replaced, func(p *portSpec) any { return p.access.mode }},
	{"socket-owner", replaced, func(p *portSpec) any { return p.access.owner }},
	{"socket-group", replaced, func(p *portSpec) any { return p.access.group }},
	{"mtu", refused, func(p *portSpec) any { return p.mtu }},
	{"pairs", refused, func(p *portSpec) any { return p.pairs }},
	{"mask", refused, func(p *portSpec) any { return p.mask }},
	{"frontend", refused, func(p *portSpec) any { return p.mask }},
	{"vlan of a guest that may call", replaced, func(p *portSpec) any {
		if p.guest.open() {
			return p.vlan
		}
		return nil
	}},
}

// followedUplink is of the other options of an uplink: all but forwards are what it is
// made of.
var followedUplink = []followed{
	{"forward", stays, func(p *portSpec) any { return p.uplink.user.forwards }},
	{"mode", replaced, func(p *portSpec) any { return p.mode }},
	{"all else of a user-mode network", replaced, func(p *portSpec) any {
		u := p.uplink.user
		u.forwards = nil
		return u
	}},
	{"all else of a TAP device", replaced, func(p *portSpec) any { return p.uplink.tap }},
	{"kind", replaced, func(p *portSpec) any { return p.uplink.kind }},
}

// follow is what becomes of a port that is described otherwise: the hardest of what
// its options that differ ask for.
func follow(was, is portSpec) (change following) {
	if (was.uplink == nil) != (is.uplink == nil) {
		return replaced
	}
	if was.inherits() || is.inherits() {
		return replaced // which is refused
	}
	own := followedVM
	if was.uplink != nil {
		own = followedUplink
	}
	for _, list := range [][]followed{followedSwitching, own} {
		for _, f := range list {
			if !reflect.DeepEqual(f.of(&was), f.of(&is)) {
				change = max(change, f.change)
			}
		}
	}
	return change
}
