package main

import (
	"errors"
	"fmt"
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

// parts are the change in two steps, as other ports come and go in between: the port
// lets others have what it has no more, and becomes one that watches others; then it
// gets what it had not.
func (c portChange) parts() (lose, get portChange) {
	both := c.was
	switch {
	case c.is.sink:
		both.switching, both.statics = c.is.switching, c.is.statics
	case c.rewatch || c.was.mirror != c.is.mirror:
		both.mirror = ""
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

// changePort changes a port in place. On error it is as it was; that somebody
// removed it meanwhile is none.
func (d *daemon) changePort(c portChange) error {
	p := d.ports.find(c.was.name)
	if p == nil || samePort(c.was, c.is) {
		return nil
	}
	p.changing.Lock()
	defer p.changing.Unlock()
	if d.ports.isLeaving(p) {
		return nil
	}
	if err := d.change(p, c.was, c.is); err != nil {
		return c.is.said.wrong(err)
	}
	p.now.Store(&c.is)
	if !c.is.sink && c.is.uplink == nil {
		d.guests.giveWay(c.is, c.is.has)
	}
	return nil
}

// change carries a change out.
func (d *daemon) change(p *port, was, is portSpec) error {
	before, err := d.switchOptions(was)
	if err != nil {
		return err
	}
	after, err := d.switchOptions(is)
	if err != nil {
		return err
	}
	if p.vm != nil {
		return d.changeVM(p.vm, was, is, before, after)
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
	if to == nil || to.vm == nil {
		return vswitch.PortOptions{}, fmt.Errorf("mirror=%s: want a VM's port that is there already", spec.mirror)
	}
	return spec.options(to.vm.device.Port()), nil
}

// changeVM changes a VM's port; static addresses last, as they have to be in its
// VLANs.
func (d *daemon) changeVM(v *vm, was, is portSpec, before, after vswitch.PortOptions) error {
	sw, err := d.switchOf(is.network)
	if err != nil {
		return err
	}
	id := v.device.Port()
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
