package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// reload is how the configuration is read anew.
type reload struct {
	file  string
	read  func() (config, error)
	asked <-chan os.Signal
}

// reloads reads the configuration whenever it is asked to, until ctx ends. What
// cannot be taken is not taken at all.
func (d *daemon) reloads(ctx context.Context, old config) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-old.reload.asked:
		}
		notify(d.log, sd.SdNotifyReloading)
		c, err := old.reload.read()
		var p *plan
		if err == nil {
			p, err = newPlan(old, c)
		}
		if err == nil {
			err = d.follow(p)
		}
		switch {
		case errors.Is(err, errEnding):
		case err != nil:
			d.log.Error("the new configuration is not taken, what was there stays", "file", old.reload.file, "error", oneLine(err))
		default:
			c.reload = old.reload
			old = c
			if level := c.logLevel; level != d.log.GetLevel() {
				d.log.SetLevel(level)
			}
			d.tellStrangers(c)
			d.log.Info("configuration is read anew", "added", len(p.add)-len(p.replaced), "removed", len(p.remove)-len(p.replaced), "replaced", len(p.replaced), "changed", len(p.change))
		}
		notify(d.log, sd.SdNotifyReady)
	}
}

// plan is what leads from one configuration to another. Ports that others added
// at run time are in neither. What goes goes first, as what comes may take its
// place.
type plan struct {
	remove   []portSpec   // before, in this order
	add      []portSpec   // after that, in this order
	replaced []string     // names of both
	change   []portChange // in place: they lose before, and get after that
}

// newPlan compares two configurations; the error says what cannot change while
// the program runs.
func newPlan(old, c config) (*plan, error) {
	errs := []error{settingsChanged(old, c)}
	p := &plan{}
	for _, was := range old.ports {
		i := indexOfPort(c.ports, was.name)
		if i >= 0 && follow(was, c.ports[i]) == stays {
			continue
		}
		p.remove = append(p.remove, was)
		if i >= 0 {
			p.replaced = append(p.replaced, was.name)
			errs = append(errs, replaceable(was, c.ports[i]))
		}
	}
	for _, was := range old.ports {
		i := indexOfPort(c.ports, was.name)
		if i < 0 || indexOfPort(p.remove, was.name) >= 0 {
			continue
		}
		change := portChange{was, c.ports[i], indexOfPort(p.remove, was.mirror) >= 0}
		if change.rewatch || !samePort(was, c.ports[i]) {
			p.change = append(p.change, change)
		}
	}
	for _, is := range c.ports {
		i := indexOfPort(old.ports, is.name)
		if i >= 0 && indexOfPort(p.remove, is.name) < 0 {
			continue
		}
		p.add = append(p.add, is)
		if i < 0 && is.inherits() {
			errs = append(errs, is.said.errorf("what is inherited can be taken at the start only; want a path or a name"))
		}
	}
	watched := func(a, b portSpec) int { return boolInt(b.sink) - boolInt(a.sink) }
	slices.SortStableFunc(p.add, watched)                                             // what is mirrored names them
	slices.SortStableFunc(p.remove, func(a, b portSpec) int { return watched(b, a) }) // and needs them
	return p, errors.Join(errs...)
}

// inherits reports that a port lives on descriptors of who started the program.
func (p *portSpec) inherits() bool {
	return p.fd >= 0 || p.uplink != nil && len(p.uplink.tap.fds) > 0
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// samePort compares what two descriptions mean.
func samePort(a, b portSpec) bool {
	a.said, a.from, b.said, b.from = origin{}, "", origin{}, ""
	return reflect.DeepEqual(a, b)
}

// replaceable refuses changes that the VM on the port could not follow: it
// comes back with the features that it was offered before.
func replaceable(was, is portSpec) error {
	switch {
	case was.inherits() || is.inherits():
		return is.said.errorf("what is inherited cannot be opened again; its options change when the program is started again")
	case follow(was, is) == refused:
		return is.said.errorf("its VM keeps the features, queue pairs and MTU that it was offered; want mask, frontend, pairs and mtu as they were, or the port removed by one reload and added by another")
	}
	return nil
}

// settingsChanged refuses what holds for the whole program.
func settingsChanged(old, c config) error {
	for _, s := range []struct {
		setting string
		same    bool
	}{
		{"workers", old.workers == c.workers},
		{"cpus", slices.Equal(old.cpus, c.cpus)},
		{"state-dir", old.stateDir == c.stateDir},
		{"socket-mode, socket-owner or socket-group at the top", old.access == c.access},
		{"placement", old.balance == c.balance},
		{"stats", old.interval == c.interval},
		{"control", old.control == c.control},
		{"guest-port", old.guest == c.guest},
		{"output", old.json == c.json},
		{"log-format", old.logJSON == c.logJSON},
	} {
		if !s.same {
			return fmt.Errorf("%s has another value than at the start; want that one until the program is started again", s.setting)
		}
	}
	return nil
}

// follow carries out a plan, or takes back what it has done of it. When it returns
// no worker goes by what was before.
func (d *daemon) follow(p *plan) error {
	if err := d.leaveOthers(p); err != nil {
		return err
	}
	err := d.carryOut(p)
	if len(p.change) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), quiesceTimeout)
		defer cancel()
		if err := d.group.Quiesce(ctx); err != nil {
			d.log.Warn("some frames may still go by what ports were told before", "error", err)
		}
	}
	return err
}

// leaveOthers takes out of a plan those ports that others have put in the place of
// the configuration's. It refuses one that has other options for such a port.
func (d *daemon) leaveOthers(p *plan) error {
	others := func(name string) bool {
		q := d.ports.find(name)
		return q != nil && q.spec().atRunTime
	}
	var errs []error
	for _, is := range p.add {
		if others(is.name) {
			errs = append(errs, atRunTime(is))
		}
	}
	p.change = slices.DeleteFunc(p.change, func(c portChange) bool {
		if !others(c.is.name) {
			return false
		}
		if !samePort(c.was, c.is) {
			errs = append(errs, atRunTime(c.is))
		}
		return true
	})
	p.remove = slices.DeleteFunc(p.remove, func(was portSpec) bool {
		if !others(was.name) {
			return false
		}
		if len(errs) == 0 {
			d.log.Info("the port was added at run time and stays, as the one of the configuration was removed before", "port", was.name)
		}
		return true
	})
	return errors.Join(errs...)
}

func atRunTime(is portSpec) error {
	return is.said.errorf("a port of this name was added at run time; want that removed first (vhostnet ports remove %s), or another name", is.name)
}

// carryOut is follow, but for workers that are at it.
func (d *daemon) carryOut(p *plan) error {
	apart := d.vlanApart(p)
	if len(p.replaced) > 0 {
		d.log.Info("these ports are replaced, as their options do not change while they are open: VMs are disconnected and connect again, and connections by a user-mode network end", "ports", strings.Join(p.replaced, " "))
	}
	var undo undoing
	change := func(c portChange) error {
		err := d.changePort(c)
		if err == nil {
			undo.with(func() error { return d.changePort(c.back()) })
		}
		return err
	}
	for _, c := range p.change {
		lose, _ := c.parts(apart)
		if err := change(lose); err != nil {
			return undo.after(err)
		}
	}
	before := map[string]*waysIn{} // of ports that are replaced
	for _, spec := range p.remove {
		ways := d.waysIn(spec.name)
		gone, err := d.removeSpec(spec)
		if gone {
			undo.with(func() error { return errors.Join(d.addAgain(spec, ways), d.waysIn(spec.name).restore(ways)) })
		}
		if slices.Contains(p.replaced, spec.name) {
			before[spec.name] = ways
		}
		if err != nil {
			return undo.after(err)
		}
	}
	for _, spec := range p.add {
		opened, err := d.addPortAfter(spec, before[spec.name])
		if err != nil {
			return undo.after(err)
		}
		undo.with(func() error {
			_, err := d.removeSpec(*opened.spec())
			return err
		})
		if err := spec.said.wrong(d.waysIn(spec.name).restore(before[spec.name])); err != nil {
			return undo.after(err)
		}
	}
	for _, c := range p.change {
		_, get := c.parts(apart)
		if err := change(get); err != nil {
			return undo.after(err)
		}
	}
	for _, c := range p.change {
		if c.is.uplink != nil {
			d.waysIn(c.is.name).settle(c.is.uplink.user.forwards)
		}
	}
	return nil
}

// undoing is how what was done is taken back, the last first.
type undoing []func() error

func (u *undoing) with(f func() error) { *u = append(*u, f) }

// after takes everything back, as err came.
func (u *undoing) after(err error) error {
	for _, f := range slices.Backward(*u) {
		err = errors.Join(err, f())
	}
	return err
}

// removeSpec removes a port of the configuration, and reports whether it did, also
// when not all of it came to an end; that somebody else removed it, and perhaps added
// another one, is as well.
func (d *daemon) removeSpec(spec portSpec) (gone bool, err error) {
	if p := d.ports.find(spec.name); p == nil || p.spec().atRunTime {
		return false, nil
	}
	err = d.removePort(spec.name)
	return d.ports.find(spec.name) == nil, err
}

// addAgain adds a port again, whose ways in were before. One of what was inherited is
// not: its number may be another descriptor's by now.
func (d *daemon) addAgain(spec portSpec, before *waysIn) error {
	if spec.inherits() {
		return spec.said.errorf("it is removed, as what is inherited cannot be opened again; it comes back when the program is started again")
	}
	_, err := d.addPortAfter(spec, before)
	return err
}
