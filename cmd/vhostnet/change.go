package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"vhostnet/control"
	"vhostnet/vswitch"
)

// addPort adds a port while the program runs, and serves it. Whatever a user can
// mend about it is a usageError.
func (d *daemon) addPort(spec portSpec) (*port, error) { return d.addPortAfter(spec, nil) }

// addPortAfter is addPort in the place of a port that is gone, whose ways in those
// before were; nil: it had none.
func (d *daemon) addPortAfter(spec portSpec, before *waysIn) (*port, error) {
	added, err := d.ports.reserve(spec)
	if err != nil {
		return nil, usageError{err}
	}
	defer d.ports.changes.Done()
	p := added[0]
	if err := d.openPort(p, before); err != nil {
		d.ports.drop(p)
		return nil, err
	}
	d.guests.giveWay(*p.spec(), p.spec().has)
	d.announcePort(*p.spec())
	d.hub.Publish(control.Event{Kind: control.EventPortAdded, Port: p.name})
	waysInBehind(p).begin()
	return p, nil
}

// removePort removes a port with its VM's connection: frames that were taken
// from the VM are delivered first, and when it returns nothing is written to the
// VM's memory any more.
func (d *daemon) removePort(name string) error {
	p, err := d.ports.leave(name)
	if err != nil {
		return usageError{err}
	}
	defer d.ports.changes.Done()
	defer d.ports.drop(p)
	p.changing.Lock() // and none begins any more
	defer p.changing.Unlock()
	d.drainPort(p)
	d.ports.end(p)
	err = errors.Join(d.freeManual(p), closeSoon(p.behind))
	d.log.Info("port is removed", "port", name)
	waysInBehind(p).end()
	d.hub.Publish(control.Event{Kind: control.EventPortRemoved, Port: name})
	return err
}

// drainPort brings what was taken from a port to an end.
func (d *daemon) drainPort(p *port) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := p.behind.Drain(ctx); err != nil {
		d.log.Warn("frames may be lost at the end", "port", p.name, "error", err)
	}
}

// openPort makes what is behind a reserved port, after one with the ways in before.
func (d *daemon) openPort(p *port, before *waysIn) error {
	options, err := d.switchOptions(*p.spec())
	if err != nil {
		return usageError{fmt.Errorf("port %s: %w", p.name, err)}
	}
	behind, err := d.newAttachment(*p.spec(), options, before)
	if err != nil {
		return usageError{err}
	}
	if err := d.ports.open(p, behind); err != nil {
		return errors.Join(err, closeSoon(behind))
	}
	return nil
}

// newAttachment makes what is behind a port.
func (d *daemon) newAttachment(spec portSpec, o vswitch.PortOptions, before *waysIn) (attachment, error) {
	if spec.uplink == nil {
		return d.newVM(spec, o)
	}
	u, err := uplinkKinds[spec.uplink.kind].open(d, spec, o, before)
	if err != nil {
		return nil, spec.said.wrong(err)
	}
	return u, nil
}

// announcePort logs a port that was added.
func (d *daemon) announcePort(spec portSpec) {
	if spec.uplink != nil {
		d.log.Info("uplink is open", "port", spec.name, "uplink", spec.uplink.where())
		return
	}
	where := []any{"socket", spec.path}
	if spec.fd >= 0 {
		where = []any{"fd", spec.fd}
	} else if spec.dial {
		where = append(where, "role", "connect")
	}
	if spec.network != "" {
		where = append(where, "switch", spec.network)
	}
	d.log.Info("port is open", append([]any{"port", spec.name, "mac", net.HardwareAddr(spec.mac[:]).String()}, where...)...)
}
