package main

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"vhostnet/vswitch"
)

// switches are the program's switches, which exchange nothing: each has ports and a
// table of its own. Workers, queues and memory are those of all. That without a name
// is daemon.vswitch.
type switches struct {
	mu    sync.Mutex // before ports.mu
	named map[string]*vswitch.Switch
}

// switchOf is the switch of a name, made if need be. Those that have no port any more
// go when another one is made.
func (d *daemon) switchOf(name string) (*vswitch.Switch, error) {
	if name == "" {
		return d.vswitch, nil
	}
	s := &d.switches
	s.mu.Lock()
	defer s.mu.Unlock()
	if sw := s.named[name]; sw != nil {
		return sw, nil
	}
	maps.DeleteFunc(s.named, func(other string, _ *vswitch.Switch) bool { return !d.ports.use(other) })
	sw, err := vswitch.New(vswitch.Options{})
	if err != nil {
		return nil, err
	}
	if s.named == nil {
		s.named = map[string]*vswitch.Switch{}
	}
	s.named[name] = sw
	return sw, nil
}

// allSwitches are those that there are.
func (d *daemon) allSwitches() []*vswitch.Switch {
	d.switches.mu.Lock()
	defer d.switches.mu.Unlock()
	list := []*vswitch.Switch{d.vswitch}
	for _, name := range slices.Sorted(maps.Keys(d.switches.named)) {
		list = append(list, d.switches.named[name])
	}
	return list
}

// place is where a port is on its switch.
func (d *daemon) place(p *port) (sw *vswitch.Switch, info vswitch.PortInfo, err error) {
	if sw, err = d.switchOf(p.spec().network); err != nil {
		return nil, info, err
	}
	infos := sw.Ports()
	at := slices.IndexFunc(infos, func(i vswitch.PortInfo) bool { return i.Options.Name == p.name })
	if at < 0 {
		return nil, info, usageError{fmt.Errorf("port %s is being removed", p.name)}
	}
	return sw, infos[at], nil
}

// joinSwitches gives ports that name no switch the one that there is; of several they
// have to name one. The first so many ports are there already, and what comes to them
// from a file is said: its ports were given their switches with all others of the file.
func joinSwitches(ports []portSpec, there int) []error {
	var names []string
	known := ports
	if there > 0 {
		known = ports[:there]
	}
	for _, p := range known {
		if !slices.Contains(names, p.network) && (p.network != "" || there > 0) {
			names = append(names, p.network)
		}
	}
	var errs []error
	for i := range ports[there:] {
		switch p := &ports[there+i]; {
		case there > 0 && !p.atRunTime:
		case p.network != "" || slices.Contains(names, "") || len(names) == 0:
		case len(names) == 1:
			p.network = names[0]
		default:
			errs = append(errs, p.said.wrong(fmt.Errorf("there are several switches; want it in the block of one, or switch= and its name: %s", listOf(names))))
		}
	}
	return errs
}
