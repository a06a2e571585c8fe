package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"vhostnet/netdev"
	"vhostnet/uplink/usernet"
	"vhostnet/vswitch"
)

// portChange is a port that stays, with other options. rewatch: the port that gets
// copies of its frames is another one of the same name.
type portChange struct {
	was, is portSpec
	rewatch bool
}

func (c portChange) back() portChange { return portChange{c.is, c.was, c.rewatch} }

// parts are the change in two steps, as other ports come, go and change in between:
// the port lets others have what it has no more, and becomes one that watches others;
// then it gets what it had not. So ports that are apart before and after are so in
// between. apart is a VLAN for ports that have none in both; 0: there is no such.
func (c portChange) parts(apart uint16) (lose, get portChange) {
	both := c.was
	switch {
	case c.is.sink:
		both.switching, both.statics = c.is.switching, c.is.statics
	case !c.was.sink:
		both.switching = c.common(apart)
		if !reflect.DeepEqual(c.was.vlan, c.is.vlan) {
			both.statics = nil // they may be of VLANs that go
		}
	}
	if c.was.uplink != nil {
		u := *c.was.uplink
		u.user.forwards = slices.DeleteFunc(slices.Clone(u.user.forwards), func(f usernet.Forward) bool {
			return !slices.Contains(c.is.uplink.user.forwards, f)
		})
		both.uplink = &u
	}
	return portChange{was: c.was, is: both}, portChange{was: both, is: c.is}
}

// common is what the port is told by both.
func (c portChange) common(apart uint16) switching {
	both := c.was.switching
	if c.rewatch || c.was.mirror != c.is.mirror {
		both.mirror = ""
	}
	both.protected = c.was.protected || c.is.protected
	both.transparent = c.was.transparent && c.is.transparent
	if reflect.DeepEqual(c.was.vlan, c.is.vlan) {
		return both
	}
	vlan, some := commonVLANs(c.was.vlan, c.is.vlan)
	switch {
	case some:
		both.vlan = vlan
	case apart == 0:
	case len(c.is.vlan.Trunk) > 0: // so that its own filter is of all VLANs at once
		both.vlan, both.protected = vswitch.VLANOptions{Trunk: []uint16{apart}}, true
	default:
		both.vlan, both.protected = vswitch.VLANOptions{Access: apart}, true
	}
	return both
}

// commonVLANs are the VLANs that a port is in by both, with the same tags; some: there
// are such.
func commonVLANs(was, is vswitch.VLANOptions) (both vswitch.VLANOptions, some bool) {
	for _, id := range was.Trunk {
		if slices.Contains(is.Trunk, id) {
			both.Trunk = append(both.Trunk, id)
		}
	}
	untagged := max(was.Access, was.Native)
	if untagged != max(is.Access, is.Native) {
		untagged = 0
	}
	if len(both.Trunk) > 0 {
		both.Native = untagged
	} else {
		both.Access = untagged
	}
	return both, len(both.Trunk) > 0 || untagged != 0
}

// vlanApart is a VLAN in which no port is, before or after, but those that are in
// all: they are in one with each port that is in any. 0: there is none.
func (d *daemon) vlanApart(p *plan) uint16 {
	used := map[uint16]bool{}
	use := func(s switching) {
		if len(s.vlan.Trunk) < maxVLAN {
			for _, id := range s.all() {
				used[id] = true
			}
		}
	}
	for _, s := range d.ports.specs() {
		use(s.switching)
	}
	for _, s := range p.add {
		use(s.switching)
	}
	for _, c := range p.change {
		use(c.is.switching)
	}
	for id := uint16(maxVLAN); id > 0; id-- {
		if !used[id] {
			return id
		}
	}
	return 0
}

// told is p with what another description changes in place. What the port is made of
// remains.
func (p *portSpec) told(is portSpec) portSpec {
	now := *p
	now.switching, now.network = is.switching, p.network
	now.statics, now.mode, now.said = is.statics, is.mode, is.said
	if p.uplink != nil && is.uplink != nil {
		u := *p.uplink
		u.user.forwards = is.uplink.user.forwards
		now.uplink = &u
	}
	return now
}

// changePort changes a port of the configuration in place. On error it is as it was;
// that somebody removed it meanwhile, and perhaps added another one, is none.
func (d *daemon) changePort(c portChange) error {
	p := d.ports.find(c.was.name)
	if p == nil || p.spec().atRunTime || samePort(c.was, c.is) {
		return nil
	}
	p.changing.Lock()
	defer p.changing.Unlock()
	if d.ports.isLeaving(p) {
		return nil
	}
	if !d.ports.claim(p, c.is.mirror) {
		return c.is.said.wrong(noMirror(c.is.mirror))
	}
	defer d.ports.release(p)
	if err := d.change(p, c.was, c.is); err != nil {
		return c.is.said.wrong(err)
	}
	now := p.spec().told(c.is)
	p.now.Store(&now)
	if !now.sink && p.vm != nil {
		d.guests.giveWay(now, now.has)
	}
	return nil
}

// change carries a change out.
func (d *daemon) change(p *port, was, is portSpec) error {
	before, err := d.switchOptions(was)
	if err != nil {
		before = was.options(0) // who watched it has gone
	}
	after, err := d.switchOptions(is)
	if err != nil {
		return err
	}
	if p.vm != nil {
		return d.changeVM(p, was, is, before, after)
	}
	sw, at, err := d.place(p)
	if err != nil {
		return err
	}
	if err := sw.Reconfigure(at.ID, after); err != nil {
		return err
	}
	if u, ok := p.behind.(*uplink); ok && u.waysIn != nil {
		if err := u.waysIn.change(was.uplink.user.forwards, is.uplink.user.forwards); err != nil {
			return errors.Join(err, sw.Reconfigure(at.ID, before))
		}
	}
	return nil
}

// switchOptions are what the switch is told about a port.
func (d *daemon) switchOptions(spec portSpec) (vswitch.PortOptions, error) {
	if spec.mirror == "" {
		return spec.options(0), nil
	}
	to := d.ports.find(spec.mirror)
	if to == nil || to.vm == nil || d.ports.isLeaving(to) {
		return vswitch.PortOptions{}, noMirror(spec.mirror)
	}
	return spec.options(to.vm.device.Port()), nil
}

func noMirror(name string) error {
	return fmt.Errorf("mirror=%s: want a VM's port that is there already", name)
}

// changeVM changes a VM's port; static addresses last, as they have to be in its
// VLANs.
func (d *daemon) changeVM(p *port, was, is portSpec, before, after vswitch.PortOptions) error {
	sw, err := d.switchOf(p.spec().network)
	if err != nil {
		return err
	}
	v, id := p.vm, p.vm.device.Port()
	to := func(mode portSpec, o vswitch.PortOptions, drop, have []vswitch.Address) error {
		for _, a := range drop {
			sw.RemoveStatic(id, a.VLAN, a.MAC)
		}
		if err := v.device.Reconfigure(netdev.Changeable{Mode: mode.mode, Switching: o}); err != nil {
			return err
		}
		for _, a := range have {
			if err := sw.AddStatic(id, a.VLAN, a.MAC); err != nil {
				return err
			}
		}
		return nil
	}
	if err := to(is, after, was.statics, is.statics); err != nil {
		return errors.Join(err, to(was, before, is.statics, was.statics))
	}
	return nil
}
