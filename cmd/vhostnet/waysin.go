package main

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"vhostnet/control"
	"vhostnet/uplink/usernet"
)

// waysIn are the forwards of a user-mode network: those of the configuration, and
// those that were added at run time. A new configuration is compared with the one
// before, so that what was added stays, and what was removed is not there again.
type waysIn struct {
	n       *usernet.Network
	port    string              // its name
	publish func(control.Event) // tells who listens to events

	mu      sync.Mutex        // held while any come or go
	added   []usernet.Forward // at run time, by the address at which they listen
	removed []usernet.Forward // of the configuration, at run time
	begun   bool              // its port was told, so ways in are
	told    []control.Forward // that listen
}

// wayIn is a forward, and who wanted it.
type wayIn struct {
	usernet.ForwardInfo
	added bool // at run time
}

// all are those that are there.
func (w *waysIn) all() (list []wayIn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.n.Forwards() {
		list = append(list, wayIn{i, w.find(i.Network, i.Address) >= 0})
	}
	return list
}

// find is the place in added of a forward, -1: it is not there. The caller holds
// mu.
func (w *waysIn) find(network, address string) int {
	return slices.IndexFunc(w.added, func(f usernet.Forward) bool { return f.Network == network && f.Listen == address })
}

// add adds one at run time.
func (w *waysIn) add(f usernet.Forward) (wayIn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open(f, true)
}

// open adds one. The caller holds mu.
func (w *waysIn) open(f usernet.Forward, added bool) (wayIn, error) {
	if err := w.n.AddForward(f); err != nil {
		w.tellFailed(err, added)
		return wayIn{}, err
	}
	list := w.n.Forwards()
	if len(list) == 0 {
		return wayIn{}, errEnding // meanwhile, with its network
	}
	is := wayIn{list[len(list)-1], added}
	if added {
		f := is.Forward
		f.Listen = is.Address
		w.added = append(w.added, f)
	}
	w.tellAdded(is)
	return is, nil
}

// shut ends one. The caller holds mu.
func (w *waysIn) shut(network, address string) error {
	err := w.n.RemoveForward(network, address)
	if err == nil {
		w.tellRemoved(network, address)
	}
	return err
}

// remove ends one, whoever wanted it; its address is the one at which it listens.
func (w *waysIn) remove(network, address string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.n.Forwards()
	if err := w.shut(network, address); err != nil {
		return err
	}
	if at := w.find(network, address); at >= 0 {
		w.added = slices.Delete(w.added, at, at+1)
		return nil
	}
	for _, i := range list {
		if i.Network == network && i.Address == address {
			w.removed = append(w.removed, i.Forward)
		}
	}
	return nil
}

// change makes those of one configuration those of another; connections of TCP that
// came by one that goes stay. On error all are as before.
func (w *waysIn) change(was, is []usernet.Forward) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := slices.DeleteFunc(slices.Clone(is), func(f usernet.Forward) bool {
		return slices.Contains(was, f) || slices.Contains(w.removed, f) // this goes back to what was before
	})
	if err := w.clash(fresh); err != nil {
		return err
	}
	gone, err := w.drop(func(f usernet.Forward) bool { return slices.Contains(was, f) && !slices.Contains(is, f) })
	for i, f := range fresh {
		if err != nil {
			break
		}
		if _, err = w.open(f, false); err != nil {
			_, dropping := w.drop(func(f usernet.Forward) bool { return slices.Contains(fresh[:i], f) })
			err = errors.Join(err, dropping)
		}
	}
	if err == nil {
		return nil
	}
	for _, f := range gone {
		_, opening := w.open(f, false)
		err = errors.Join(err, opening)
	}
	return err
}

// settle forgets what was removed of earlier configurations, as list is the forwards
// of the one that was taken.
func (w *waysIn) settle(list []usernet.Forward) {
	if w == nil {
		return // removed by somebody else
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.removed = slices.DeleteFunc(w.removed, func(f usernet.Forward) bool { return !slices.Contains(list, f) })
}

// drop ends those of the configuration that which says. The caller holds mu.
func (w *waysIn) drop(which func(usernet.Forward) bool) (gone []usernet.Forward, err error) {
	for _, i := range w.n.Forwards() {
		if !which(i.Forward) || w.find(i.Network, i.Address) >= 0 {
			continue
		}
		if err := w.shut(i.Network, i.Address); err != nil {
			return gone, err
		}
		gone = append(gone, i.Forward)
	}
	return gone, nil
}

// clash refuses forwards of a configuration in whose place others were added at
// run time. The caller holds mu.
func (w *waysIn) clash(list []usernet.Forward) error {
	for _, f := range list {
		if w.find(f.Network, f.Listen) >= 0 {
			return fmt.Errorf("forward %v: one from %s/%s was added at run time; want that removed first (vhostnet forwards remove), or another address", f, f.Network, f.Listen)
		}
	}
	return nil
}

// restore adds again what was added to the network that was there before under the
// name, in whose place another may be; before is nil, or its ways in after its end. What
// is possible is there after an error.
func (w *waysIn) restore(before *waysIn) error {
	if before == nil {
		return nil
	}
	before.mu.Lock()
	added := before.added
	before.mu.Unlock()
	if w == nil {
		if len(added) == 0 {
			return nil
		}
		return fmt.Errorf("forward %v was added at run time, and the port is no user-mode network any more; want that removed first", added[0])
	}
	var err error
	for _, f := range added {
		if _, adding := w.add(f); adding != nil {
			err = errors.Join(err, fmt.Errorf("what was added at run time would end, want it removed first: %w", adding))
		}
	}
	return err
}

// removedOf are those of a configuration that were removed at run time; w may be nil.
func (w *waysIn) removedOf(list []usernet.Forward) (removed []usernet.Forward) {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.removed {
		if slices.Contains(list, f) {
			removed = append(removed, f)
		}
	}
	return removed
}

// waysIn are the ways in of a port, nil: it is no user-mode network.
func (d *daemon) waysIn(port string) *waysIn {
	p := d.ports.find(port)
	if p == nil {
		return nil
	}
	return waysInBehind(p)
}

func waysInBehind(p *port) *waysIn {
	u, ok := p.behind.(*uplink)
	if !ok {
		return nil
	}
	return u.waysIn
}
