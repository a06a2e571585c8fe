package main

import (
	"errors"
	"strings"

	"vhostnet/uplink/usernet"
)

// stranger is a way in by the name of a VM that no port of its switch has.
type stranger struct {
	port    *portSpec // of the network
	forward usernet.Forward
}

// note is what a user is told of it.
func (s stranger) note() error {
	return s.port.said.errorf("forward %v: no port of its switch is called %s; nobody comes by it until one of that name is added", s.forward, s.forward.VM)
}

// vmOf is the port of a switch that a way in means by a name, nil: there is none. As
// when somebody calls, the case counts only where it makes a difference.
func vmOf(ports []portSpec, network, name string) (alike *portSpec) {
	for i := range ports {
		p := &ports[i]
		switch {
		case p.network != network || !strings.EqualFold(p.name, name):
		case p.name == name:
			return p
		default:
			alike = p
		}
	}
	return alike
}

// named calls visit for the ways in by name, with the port of that name.
func named(ports []portSpec, visit func(from *portSpec, f usernet.Forward, to *portSpec)) {
	for i := range ports {
		p := &ports[i]
		if p.uplink == nil {
			continue
		}
		for _, f := range p.uplink.user.forwards {
			if f.VM != "" {
				visit(p, f, vmOf(ports, p.network, f.VM))
			}
		}
	}
}

// joinForwards refuses ways in to the names of uplinks.
func joinForwards(ports []portSpec) error {
	var errs []error
	named(ports, func(from *portSpec, f usernet.Forward, to *portSpec) {
		if to != nil && to.uplink != nil {
			errs = append(errs, from.said.errorf("forward %v: %s is an uplink; want the port of a VM, or an address", f, to.name))
		}
	})
	return errors.Join(errs...)
}

// strangers are the ways in of ports to VMs that are at none of them. They are no
// mistakes: ports come at run time too.
func strangers(ports []portSpec) (list []stranger) {
	named(ports, func(from *portSpec, f usernet.Forward, to *portSpec) {
		if to == nil {
			list = append(list, stranger{from, f})
		}
	})
	return list
}

// tellStrangers says in the log which ways in of a configuration lead to VMs of which
// there is no port, also none that was added at run time.
func (d *daemon) tellStrangers(c config) {
	var list []string
	for _, s := range strangers(c.ports) {
		if p := d.ports.find(s.forward.VM); p == nil || p.spec().network != s.port.network {
			list = append(list, s.forward.String())
		}
	}
	if len(list) > 0 {
		d.log.Warn("these forwards lead to VMs of which their switch has no port; nobody comes by them until one of that name is added", "forwards", strings.Join(list, ", "))
	}
}
