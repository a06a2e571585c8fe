package netdev

import (
	"context"
	"errors"
	"fmt"

	"vhostnet/queues"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// Changeable is what can change of a Device while its front-end is connected: what the
// driver was offered is not in it.
type Changeable struct {
	Mode      worker.Mode         // how its transmit rings are polled
	Switching vswitch.PortOptions // its Name and Counters are the Device's
}

// Reconfigure makes c what the Device goes by: rings, filters and link stay as they
// are, and no frame is lost. On error all is as it was. One goroutine at a time calls
// it, and none calls it together with Close; otherwise it may be called concurrently
// with everything.
func (d *Device) Reconfigure(c Changeable) error {
	was, mode := d.switching.Load(), worker.Mode(d.mode.Load())
	before, own := ownFilter(was.VLAN), ownFilter(c.Switching.VLAN)
	if err := d.o.Switch.Reconfigure(d.port, c.Switching); err != nil {
		return fmt.Errorf("netdev: port %q: %w", d.o.Name, err)
	}
	back := func(err error) error {
		return errors.Join(fmt.Errorf("netdev: port %q: %w", d.o.Name, err), d.setMode(mode), d.o.Switch.Reconfigure(d.port, *was))
	}
	if err := d.setMode(c.Mode); err != nil {
		return back(err)
	}
	if own != before {
		if err := d.changeOwn(before, own); err != nil {
			return back(err)
		}
	}
	d.switching.Store(&c.Switching)
	return nil
}

// ownFilter is the VLAN of the filter of a port's own address: its untagged frames,
// or those of all VLANs of a trunk.
func ownFilter(o vswitch.VLANOptions) uint16 {
	if len(o.Trunk) > 0 {
		return queues.AnyVLAN
	}
	return 0
}

// changeOwn gives the port's own filter another VLAN. The new one is set first, as a
// queue without filters pauses. Others may want either already.
func (d *Device) changeOwn(was, is uint16) error {
	if d.o.MAC == [6]byte{} || d.o.Queue != QueueAuto {
		return nil
	}
	_, err := d.Want(OriginConfiguration, queues.Filter{MAC: d.o.MAC, VLAN: is}, d.verbs)
	if err != nil && !d.wants(queues.Filter{MAC: d.o.MAC, VLAN: is}) {
		return err
	}
	err = d.Unwant(OriginConfiguration, queues.Filter{MAC: d.o.MAC, VLAN: was})
	if errors.Is(err, queues.StatusFileNotFound) || errors.Is(err, queues.StatusInvalidParameter) {
		return nil // it was moved to another queue, or is another's
	}
	return err
}

// wants reports whether the port is to have a filter, whoever wants it.
func (d *Device) wants(f queues.Filter) bool {
	d.wanted.mu.Lock()
	defer d.wanted.mu.Unlock()
	return d.wanted.find(f) >= 0
}

// setMode changes how the rings that are polled are, and those that will be. When a
// worker does not take a ring again all are polled as before.
func (d *Device) setMode(m worker.Mode) error {
	d.tasks.Lock()
	defer d.tasks.Unlock()
	before := worker.Mode(d.mode.Swap(uint32(m)))
	if before == m {
		return nil
	}
	for i := range d.rings {
		if err := d.moveTo(i, d.rings[i].at); err != nil {
			d.mode.Store(uint32(before))
			for j := range i + 1 {
				err = errors.Join(err, d.moveTo(j, d.rings[j].at))
			}
			return fmt.Errorf("ring %d: %w", i, err)
		}
	}
	return nil
}

// moveTo brings ring i, if a worker polls it, to a worker, which may be the same one.
// The caller holds tasks.
func (d *Device) moveTo(i int, to *worker.Worker) error {
	r := &d.rings[i]
	if r.at == nil {
		return nil
	}
	if err := r.at.Remove(context.Background(), r.task); err != nil && !errors.Is(err, worker.ErrStopped) {
		return err
	}
	from := r.at
	r.at = to
	if err := to.Add(context.Background(), r.task, d.modeOf(r)); err != nil {
		if back := from.Add(context.Background(), r.task, d.modeOf(r)); back != nil {
			r.at = nil // nobody polls it until it is enabled again
			return errors.Join(err, back)
		}
		r.at = from
		return err
	}
	return nil
}
