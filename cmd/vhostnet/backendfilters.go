package main

import (
	"context"
	"net"

	"vhostnet/control"
	"vhostnet/netdev"
	"vhostnet/queues"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// addressOf is a filter's address as the API writes it.
func addressOf(mac [6]byte, vlan uint16) control.Address {
	a := control.Address{MAC: net.HardwareAddr(mac[:]).String(), VLAN: vlan}
	if vlan == queues.AnyVLAN {
		a.VLAN, a.AnyVLAN = 0, true
	}
	return a
}

// filterOf reads an address.
func filterOf(a control.Address) (f queues.Filter, err error) {
	mac, err := net.ParseMAC(a.MAC)
	if err != nil || len(mac) != len(f.MAC) {
		return f, wrong("mac %q: want an address such as 52:54:00:12:34:56", a.MAC)
	}
	f = queues.Filter{MAC: [6]byte(mac), VLAN: a.VLAN}
	switch {
	case a.AnyVLAN && a.VLAN != 0:
		return f, wrong("VLAN %d and any VLAN: want one of the two", a.VLAN)
	case a.AnyVLAN:
		f.VLAN = queues.AnyVLAN
	}
	return f, ndis(f.Check())
}

// Filters are those that are set, and those that ports want in vain now.
func (b *backend) Filters() []control.Filter {
	origins := map[queues.FilterID]netdev.Origin{}
	var waiting []control.Filter
	for _, p := range b.d.ports.all() {
		if p.vm == nil {
			continue
		}
		for _, w := range p.vm.device.Wanted() {
			if w.ID == 0 {
				waiting = append(waiting, control.Filter{Port: p.name, Origin: w.Origin.String(), Address: addressOf(w.MAC, w.VLAN)})
				continue
			}
			origins[w.ID] = w.Origin
		}
	}
	var list []control.Filter
	for _, q := range b.d.adapter.EnumQueues() {
		set, err := b.d.adapter.EnumFilters(q.ID)
		if err != nil {
			continue // it is on its way out, without filters
		}
		for _, f := range set {
			origin, ok := origins[f.ID]
			if !ok {
				origin = netdev.OriginControl
			}
			list = append(list, control.Filter{ID: uint32(f.ID), Queue: uint16(q.ID), Port: q.VMName, Origin: origin.String(), Address: addressOf(f.MAC, f.VLAN)})
		}
	}
	return append(list, waiting...)
}

// target is the port and the queue that a filter is to be set on.
func (b *backend) target(r control.FilterRequest) (*port, queues.QueueID, error) {
	switch {
	case (r.Port == "") == (r.Queue == 0):
		return nil, 0, wrong("a filter is set on a queue or on that of a port; want one of the two")
	case r.Port != "":
		p, err := b.vmPortOf(r.Port)
		if err != nil {
			return nil, 0, err
		}
		return p, p.vm.device.QueueID(), nil
	}
	p := b.portOfQueue(queues.QueueID(r.Queue))
	if p == nil {
		return nil, 0, wrong("there is no queue %d", r.Queue)
	}
	return p, queues.QueueID(r.Queue), nil
}

// portOfQueue is the port whose NIC's queue it is, nil: there is none.
func (b *backend) portOfQueue(id queues.QueueID) *port {
	for _, p := range b.d.ports.all() {
		if p.vm != nil && id != 0 && p.vm.device.QueueID() == id {
			return p
		}
	}
	return nil
}

// SetFilter is SET_FILTER. A port whose session drives its queue keeps the
// filter.
func (b *backend) SetFilter(r control.FilterRequest) (control.Filter, error) {
	f, err := filterOf(r.Address)
	if err != nil {
		return control.Filter{}, err
	}
	p, queue, err := b.target(r)
	if err != nil {
		return control.Filter{}, err
	}
	out, err := b.setFilter(p, queue, f)
	if err != nil {
		return control.Filter{}, err
	}
	b.claim(p, f.MAC)
	return out, nil
}

// setFilter sets a filter of a port; one whose session drives its queue keeps it.
func (b *backend) setFilter(p *port, queue queues.QueueID, f queues.Filter) (control.Filter, error) {
	out := control.Filter{Port: p.name, Origin: b.origin.String(), Address: addressOf(f.MAC, f.VLAN)}
	if p.vm.device.QueueMode() == netdev.QueueAuto {
		w, err := p.vm.device.Want(b.origin, f, b.verbs())
		if err != nil {
			return control.Filter{}, ndis(err)
		}
		if out.ID = uint32(w.ID); w.ID != 0 {
			out.Queue = uint16(p.vm.device.QueueID())
		}
		return out, nil
	}
	if queue == 0 {
		return control.Filter{}, wrong("port %s has no queue; allocate one first", p.name)
	}
	id, err := b.verbs().SetFilter(queue, f)
	out.ID, out.Queue = uint32(id), uint16(queue)
	return out, ndis(err)
}

// claim takes an address of which a port has a filter now away from the guests
// of others: behind the filter, so that no guest gets in between.
func (b *backend) claim(p *port, mac [6]byte) {
	if b.origin == netdev.OriginControl {
		b.d.guests.giveWay(*p.spec(), func(other [6]byte) bool { return other == mac })
	}
}

// ClearFilter is CLEAR_FILTER.
func (b *backend) ClearFilter(id uint32) error {
	info, queue, err := b.d.adapter.FilterParametersOf(queues.FilterID(id))
	if err != nil {
		return control.Errorf(control.StatusFileNotFound, "there is no filter %d", id)
	}
	p := b.portOfQueue(queue)
	if p != nil && p.vm.device.QueueMode() == netdev.QueueAuto {
		return ndis(p.vm.device.Unwant(b.origin, info.Filter))
	}
	return ndis(b.verbs().ClearFilter(queue, info.ID))
}

// DropFilter clears a filter of a port by its address.
func (b *backend) DropFilter(port string, a control.Address) error {
	f, err := filterOf(a)
	if err != nil {
		return err
	}
	p, err := b.vmPortOf(port)
	if err != nil {
		return err
	}
	if p.vm.device.QueueMode() == netdev.QueueAuto {
		return ndis(p.vm.device.Unwant(b.origin, f))
	}
	for _, have := range b.Filters() {
		if have.Port == port && have.ID != 0 && have.Address == addressOf(f.MAC, f.VLAN) {
			return b.ClearFilter(have.ID)
		}
	}
	return control.Errorf(control.StatusFileNotFound, "port %s has no filter of %s", port, a.MAC)
}

// MoveFilter is MOVE_FILTER. Ports that keep their filters hand it over.
func (b *backend) MoveFilter(ctx context.Context, id uint32, queue uint16) error {
	filter, dest := queues.FilterID(id), queues.QueueID(queue)
	_, source, err := b.d.adapter.FilterParametersOf(filter)
	if err != nil {
		return control.Errorf(control.StatusFileNotFound, "there is no filter %d", id)
	}
	from, to := b.portOfQueue(source), b.portOfQueue(dest)
	moving := b.verbs().MoveFilter(ctx, filter, source, dest)
	if _, now, err := b.d.adapter.FilterParametersOf(filter); err != nil || now != dest || from == nil || to == nil {
		return ndis(moving) // it has not moved, or has gone again
	}
	w, kept := from.vm.device.GiveUp(filter)
	defer func() { b.claim(to, w.MAC) }()
	if !kept {
		f, _, err := b.d.adapter.FilterParametersOf(filter)
		if err != nil {
			return ndis(moving)
		}
		w = netdev.Wanted{Filter: f.Filter, Origin: b.origin, ID: filter}
	}
	if to.vm.device.QueueMode() == netdev.QueueAuto {
		if err := to.vm.device.Adopt(w, dest, b.verbs()); err != nil {
			return ndis(err)
		}
	}
	return ndis(moving)
}

// Table lists what the switch knows, by the clock of a worker.
func (b *backend) Table() []control.Entry {
	var now int64
	workers := b.d.group.Workers()
	ctx, cancel := context.WithTimeout(context.Background(), quiesceTimeout)
	defer cancel()
	if err := workers[0].Do(ctx, func(c *worker.Context) { now = c.Now() }); err != nil {
		b.d.log.Warn("the age of addresses is not known", "error", err)
	}
	var list []control.Entry
	for _, sw := range b.d.allSwitches() {
		names := map[vswitch.PortID]string{}
		for _, info := range sw.Ports() {
			names[info.ID] = info.Options.Name
		}
		for _, e := range sw.Table(now) {
			list = append(list, control.Entry{
				Address: addressOf(e.MAC, e.VLAN), Tagged: e.Tagged, Kind: e.Kind, Port: names[e.Port], Queue: uint16(e.Queue), Seconds: e.Unseen.Seconds(),
			})
		}
	}
	return list
}
