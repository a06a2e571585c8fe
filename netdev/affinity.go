package netdev

import (
	"errors"
	"fmt"

	"vhostnet/vswitch"
)

// Port is the device's port of the switch.
func (d *Device) Port() vswitch.PortID { return d.port }

// placement moves a Device's transmit rings between workers (queues.Placement).
type placement Device

// Worker is the index of the worker that polls pair 0.
func (p *placement) Worker() int { return int((*Device)(p).home.Load()) }

// Move makes a worker the home: pair 0 is polled there, the others by the
// workers behind it. Each ring's old worker leaves it before its new one takes
// it, with the packets that wait for their receivers, so nothing is lost or
// overtaken. When a worker does not take a ring, all are where they were.
func (p *placement) Move(home int) error {
	d := (*Device)(p)
	if n := len(d.o.Group.Workers()); home < 0 || home >= n {
		return fmt.Errorf("netdev: port %q: worker %d; there are %d, the first is 0", d.o.Name, home, n)
	}
	d.tasks.Lock()
	defer d.tasks.Unlock()
	before := int(d.home.Load())
	d.home.Store(int32(home))
	for i := range d.rings {
		if err := d.follow(i); err != nil {
			d.home.Store(int32(before))
			for j := range i + 1 {
				err = errors.Join(err, d.follow(j))
			}
			return fmt.Errorf("netdev: port %q: ring %d: %w", d.o.Name, i, err)
		}
	}
	return nil
}

// follow brings ring i to the worker that is to poll it, if one does poll it.
// The caller holds tasks.
func (d *Device) follow(i int) error {
	r := &d.rings[i]
	to := d.worker(i / 2)
	if r.at == nil || r.at == to {
		return nil
	}
	return d.moveTo(i, to)
}
