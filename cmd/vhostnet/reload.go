package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"

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
			d.log.Info("configuration is read anew", "added", len(p.add)-p.replaced, "removed", len(p.remove)-p.replaced, "replaced", p.replaced)
		}
		notify(d.log, sd.SdNotifyReady)
	}
}

// plan is what leads from one configuration to another. Ports that others added
// at run time are in neither.
type plan struct {
	remove   []portSpec // before, in this order
	add      []portSpec // after that, in this order
	replaced int        // of both
}

// newPlan compares two configurations; the error says what cannot change while
// the program runs.
func newPlan(old, c config) (*plan, error) {
	errs := []error{settingsChanged(old, c)}
	p := &plan{}
	for _, was := range old.ports {
		i := indexOfPort(c.ports, was.name)
		if i >= 0 && samePort(was, c.ports[i]) && !replacedBehind(old, c, was.mirror) {
			continue
		}
		p.remove = append(p.remove, was)
		if i >= 0 {
			p.replaced++
			errs = append(errs, replaceable(was, c.ports[i]))
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

// replacedBehind reports that a port that watches is not the same any more, so
// that those it watches have to be told.
func replacedBehind(old, c config, name string) bool {
	if name == "" {
		return false
	}
	was, is := indexOfPort(old.ports, name), indexOfPort(c.ports, name)
	return was < 0 || is < 0 || !samePort(old.ports[was], c.ports[is])
}

// replaceable refuses changes that the VM on the port could not follow: it
// comes back with the features that it was offered before.
func replaceable(was, is portSpec) error {
	switch {
	case was.inherits() || is.inherits():
		return is.said.errorf("what is inherited cannot be opened again; its options change when the program is started again")
	case was.mask != is.mask, was.pairs != is.pairs, was.mtu != is.mtu:
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

// follow carries out a plan, or takes back what it has done of it.
func (d *daemon) follow(p *plan) error {
	var removed, added []portSpec
	for _, spec := range p.remove {
		gone, err := d.removeSpec(spec)
		if gone {
			removed = append(removed, spec)
		}
		if err != nil {
			return errors.Join(err, d.addSpecs(removed))
		}
	}
	for _, spec := range p.add {
		opened, err := d.addPort(spec)
		if err == nil {
			added = append(added, opened.spec)
			continue
		}
		for _, spec := range slices.Backward(added) {
			_, failed := d.removeSpec(spec)
			err = errors.Join(err, failed)
		}
		return errors.Join(err, d.addSpecs(removed))
	}
	return nil
}

// removeSpec removes a port, and reports whether it did, also when not all of it
// came to an end; that somebody else removed it is as well.
func (d *daemon) removeSpec(spec portSpec) (gone bool, err error) {
	if d.ports.find(spec.name) == nil {
		return false, nil
	}
	err = d.removePort(spec.name)
	return d.ports.find(spec.name) == nil, err
}

// addSpecs adds ports again, those first that were removed last. Those of what
// was inherited are not: its number may be another descriptor's by now.
func (d *daemon) addSpecs(specs []portSpec) error {
	var errs []error
	for _, spec := range slices.Backward(specs) {
		if spec.inherits() {
			errs = append(errs, spec.said.errorf("it is removed, as what is inherited cannot be opened again; it comes back when the program is started again"))
			continue
		}
		_, err := d.addPort(spec)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
