package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"

	"vhostnet/control"
	"vhostnet/netdev"
	"vhostnet/vhostuser"
)

// guestChannel is how guests reach their ports.
type guestChannel struct {
	*control.Guests
	d      *daemon
	listen func(port uint32) (net.Listener, error) // of AF_VSOCK
	once   sync.Once
	opened chan net.Listener // that of AF_VSOCK, if a port needs it
}

func newGuestChannel(d *daemon) *guestChannel {
	g := &guestChannel{d: d, listen: control.ListenVsock, opened: make(chan net.Listener, 1)}
	g.Guests = control.NewGuests(&guestHost{backend{d: d, origin: netdev.OriginGuest}}, d.log)
	return g
}

// need listens at AF_VSOCK from the first port on whose guest comes that way. A
// machine without it has no such guests.
func (g *guestChannel) need() {
	g.once.Do(func() {
		l, err := g.listen(g.d.c.guest)
		if err != nil {
			g.d.log.Warn("guests with guest-cid cannot call, as there is no AF_VSOCK here", "error", err)
			return
		}
		g.d.log.Info("guest channel is open", "vsock-port", g.d.c.guest)
		g.opened <- l
	})
}

// serve answers guests that come by AF_VSOCK until ctx ends.
func (g *guestChannel) serve(ctx context.Context) {
	select {
	case l := <-g.opened:
		if err := g.Serve(ctx, l); err != nil {
			g.d.log.Error("guests with guest-cid cannot call any more", "error", err)
		}
	case <-ctx.Done():
		g.close()
	}
}

// close is for a channel that is never served.
func (g *guestChannel) close() {
	if g == nil {
		return
	}
	select {
	case l := <-g.opened:
		_ = l.Close()
	default:
	}
}

// giveWay takes addresses that a port has now away from guests of other ports
// that have filters of them.
func (g *guestChannel) giveWay(to portSpec, has func(mac [6]byte) bool) {
	g.Exclude(func() {
		for _, p := range g.d.ports.all() {
			if p.vm == nil || p.name == to.name || !p.spec().meets(to.switching) {
				continue
			}
			for _, w := range p.vm.device.Wanted() {
				if w.Origin != netdev.OriginGuest || !has(w.MAC) {
					continue
				}
				if err := p.vm.device.Unwant(netdev.OriginGuest, w.Filter); err != nil {
					continue // the guest was faster, or has gone
				}
				g.d.log.Info("a guest's filter gave way to another port", "port", p.name, "to", to.name, "mac", net.HardwareAddr(w.MAC[:]).String())
			}
		}
	})
}

// guest is how a port's guest reaches it; nil: it does not.
type guest struct {
	*control.Guest
	remove func() // the socket
}

// newGuest makes the guest of a port, and its socket if it has one.
func (d *daemon) newGuest(spec portSpec) (*guest, error) {
	if !spec.guest.open() {
		return nil, nil
	}
	g := &guest{remove: func() {}}
	o := control.GuestOptions{Port: spec.name, Policy: spec.policy(), CID: spec.guest.cid, Log: d.log.With("port", spec.name)}
	if spec.guest.socket != "" {
		access := spec.access.or(d.c.access)
		l, remove, err := vhostuser.ListenFile(spec.guest.path(d.c.guest), access.mode, access.owner, access.group)
		if err != nil {
			return nil, spec.said.errorf("guest-socket=%s: %w", spec.guest.socket, err)
		}
		o.Listener, g.remove = l, remove
	}
	var err error
	if g.Guest, err = d.guests.NewGuest(o); err != nil {
		g.remove()
		return nil, spec.said.wrong(err)
	}
	if spec.guest.cid != 0 {
		d.guests.need()
	}
	return g, nil
}

// beside serves the guest as long as something else is served.
func (g *guest) beside(ctx context.Context, serve func(context.Context) error) error {
	if g == nil {
		return serve(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx) }()
	err := serve(ctx)
	cancel()
	return errors.Join(err, <-done)
}

// close ends what is never served, and removes the socket.
func (g *guest) close() {
	if g != nil {
		g.Close()
		g.remove()
	}
}

// guestHost carries out what guests ask for.
type guestHost struct{ backend }

var _ control.GuestHost = (*guestHost)(nil)

// others are the ports that share a VLAN with the one of a name, by theirs.
func (h *guestHost) others(name string) map[string]*port {
	list, self := map[string]*port{}, h.d.ports.find(name)
	for _, p := range h.d.ports.all() {
		if p != self && self != nil && p.spec().meets(self.spec().switching) {
			list[p.name] = p
		}
	}
	return list
}

// Taken reports whether another port that shares a VLAN with this one has an
// address: its own, or by a filter.
func (h *guestHost) Taken(port string, mac [6]byte) bool {
	others := h.others(port)
	for _, p := range others {
		if p.spec().has(mac) {
			return true
		}
	}
	text := net.HardwareAddr(mac[:]).String()
	return slices.ContainsFunc(h.Filters(), func(f control.Filter) bool { return others[f.Port] != nil && f.MAC == text })
}

// Seen reports whether the switch knows an address at such a port.
func (h *guestHost) Seen(port string, mac [6]byte) bool {
	others, text := h.others(port), net.HardwareAddr(mac[:]).String()
	return slices.ContainsFunc(h.Table(), func(e control.Entry) bool { return others[e.Port] != nil && e.MAC == text })
}

// SetGuestFilter sets a filter on the queue of a port.
func (h *guestHost) SetGuestFilter(port string, a control.Address) (control.Filter, error) {
	p, err := h.vmPortOf(port)
	if err != nil {
		return control.Filter{}, err
	}
	if p.vm.device.QueueMode() == netdev.QueueManual { // nobody would count what it sets
		return control.Filter{}, wrong("the queue of port %s is driven by hand", port)
	}
	return h.SetFilter(control.FilterRequest{Port: port, Address: a})
}

// DropGuestFilter takes it back.
func (h *guestHost) DropGuestFilter(port string, a control.Address) error {
	return h.DropFilter(port, a)
}

// SuggestBuffers says how many receive buffers are good for a port's queue.
func (h *guestHost) SuggestBuffers(port string, n uint32) error {
	p, err := h.vmPortOf(port)
	if err != nil {
		return err
	}
	if p.vm.device.QueueMode() == netdev.QueueManual {
		return wrong("the queue of port %s is driven by hand", port)
	}
	return ndis(p.vm.device.SuggestBuffers(n))
}

// meets reports whether there is a VLAN of a switch in which both ports are.
func (s *switching) meets(o switching) bool {
	mine, theirs := s.all(), o.all()
	return s.network == o.network && slices.ContainsFunc(mine, func(id uint16) bool { return slices.Contains(theirs, id) })
}

// all are the VLANs of a port; 0: it is in none, as others are.
func (s *switching) all() []uint16 {
	list := slices.Clone(s.vlan.Trunk)
	for _, id := range []uint16{s.vlan.Access, s.vlan.Native} {
		if id != 0 {
			list = append(list, id)
		}
	}
	if len(list) == 0 {
		return []uint16{0}
	}
	return list
}
