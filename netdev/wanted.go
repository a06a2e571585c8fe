package netdev

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"vhostnet/queues"
)

// A port in QueueAuto keeps the filters that it is to have, whoever wants them,
// and sets them anew at each start of its VM: a front-end that comes back finds
// them, and QEMU never says which addresses its guest has.

// Origin says who wants a filter; only he takes it back.
type Origin uint8

// Origins of filters.
const (
	OriginConfiguration Origin = iota // the port's own address
	OriginControl                     // the control API
	OriginGuest                       // the guest itself, over its channel; they go with its front-end
)

// String is the origin in one word.
func (o Origin) String() string {
	switch o {
	case OriginControl:
		return "control"
	case OriginGuest:
		return "guest"
	default:
		return "configuration"
	}
}

// Wanted is a filter that a port is to have.
type Wanted struct {
	queues.Filter
	Origin Origin
	ID     queues.FilterID // that it is set under; 0: it is not set now
}

// maxWanted bounds the filters of one port.
const maxWanted = 1024

// wantedFilters are the filters that a port is to have. mu is held while they
// are set, which waits for nobody; it comes before the adapter's lock.
type wantedFilters struct {
	mu    sync.Mutex
	queue queues.QueueID // that they are set on; 0: none, as no ring runs
	guest bool           // there is one, with a driver
	list  []wanted
}

type wanted struct {
	Wanted
	by *queues.Binding // that sets it
}

// find is the place of a filter, -1: it is not wanted.
func (w *wantedFilters) find(f queues.Filter) int {
	return slices.IndexFunc(w.list, func(have wanted) bool { return have.Filter == f })
}

// set sets a filter if there is a queue to set it on.
func (w *wantedFilters) set(f *wanted) error {
	if w.queue == 0 || f.ID != 0 {
		return nil
	}
	id, err := f.by.SetFilter(w.queue, f.Filter)
	if err == nil {
		f.ID = id
	}
	return err
}

// Want makes a port in QueueAuto have a filter, now if its rings run and
// whenever they do. by sets it and is who clears it. It may be called
// concurrently with everything; errors carry a queues.Status.
func (d *Device) Want(origin Origin, f queues.Filter, by *queues.Binding) (Wanted, error) {
	if d.o.Queue != QueueAuto {
		return Wanted{}, fmt.Errorf("netdev: the queue of port %q is driven by hand; set the filter on the queue itself: %w", d.o.Name, queues.StatusInvalidParameter)
	}
	if err := f.Check(); err != nil {
		return Wanted{}, err
	}
	w := &d.wanted
	w.mu.Lock()
	defer w.mu.Unlock()
	if origin == OriginGuest && !w.guest {
		return Wanted{}, fmt.Errorf("netdev: port %q has no guest now whose filter it could be: %w", d.o.Name, queues.StatusInvalidParameter)
	}
	if at := w.find(f); at >= 0 {
		return Wanted{}, fmt.Errorf("netdev: port %q has the filter already (origin: %s): %w", d.o.Name, w.list[at].Origin, queues.StatusInvalidParameter)
	}
	if len(w.list) >= maxWanted {
		return Wanted{}, fmt.Errorf("netdev: port %q has %d filters, which is as many as a port can have: %w", d.o.Name, maxWanted, queues.StatusResources)
	}
	added := wanted{Wanted{Filter: f, Origin: origin}, by}
	if err := w.set(&added); err != nil {
		return Wanted{}, err
	}
	w.list = append(w.list, added)
	return added.Wanted, nil
}

// Unwant takes back a filter that Want was asked for by the same origin, or by a
// guest if it is the control API that asks, and clears it if it is set. It may be called concurrently with everything.
func (d *Device) Unwant(origin Origin, wish queues.Filter) error {
	w := &d.wanted
	w.mu.Lock()
	at := w.find(wish)
	if at < 0 {
		w.mu.Unlock()
		return fmt.Errorf("netdev: port %q has no such filter: %w", d.o.Name, queues.StatusFileNotFound)
	}
	f, queue := w.list[at], w.queue
	if f.Origin != origin && (origin != OriginControl || f.Origin != OriginGuest) {
		w.mu.Unlock()
		return fmt.Errorf("netdev: the filter of port %q is of the origin %s, not %s: %w", d.o.Name, f.Origin, origin, queues.StatusInvalidParameter)
	}
	w.list = slices.Delete(w.list, at, at+1)
	w.mu.Unlock()
	if f.ID == 0 {
		return nil
	}
	return gone(f.by.ClearFilter(queue, f.ID)) // it went with the rings if they stopped meanwhile
}

// Wanted lists the filters of a port in QueueAuto, set or not.
func (d *Device) Wanted() []Wanted {
	d.wanted.mu.Lock()
	defer d.wanted.mu.Unlock()
	list := make([]Wanted, len(d.wanted.list))
	for i, f := range d.wanted.list {
		list[i] = f.Wanted
	}
	return list
}

// GiveUp makes the port forget a filter that was moved to another queue, and
// answers it; ok is false when it is none of the port's.
func (d *Device) GiveUp(id queues.FilterID) (f Wanted, ok bool) {
	w := &d.wanted
	w.mu.Lock()
	defer w.mu.Unlock()
	at := slices.IndexFunc(w.list, func(have wanted) bool { return id != 0 && have.ID == id })
	if at < 0 {
		return Wanted{}, false
	}
	f = w.list[at].Wanted
	w.list = slices.Delete(w.list, at, at+1)
	return f, true
}

// Adopt takes over a filter that was moved to the port's queue by one of by's
// verbs. If the rings have stopped meanwhile it is set when they start again.
func (d *Device) Adopt(f Wanted, queue queues.QueueID, by *queues.Binding) error {
	w := &d.wanted
	w.mu.Lock()
	moved := f.ID
	if w.queue != queue {
		f.ID = 0
	}
	w.list = append(w.list, wanted{f, by})
	w.mu.Unlock()
	if f.ID == moved {
		return nil
	}
	return gone(by.ClearFilter(queue, moved))
}

// gone is err unless it says that the filter, or its queue, is not there.
func gone(err error) error {
	if s := queues.StatusOf(err); s == queues.StatusFileNotFound || s == queues.StatusInvalidParameter {
		return nil
	}
	return err
}

// setFilters sets the filters that the port is to have on its queue, unless they
// are set. Without those of the configuration it fails; others are missing then,
// and the log says so.
func (d *Device) setFilters() error {
	w := &d.wanted
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = d.queue
	var errs []error
	for i := range w.list {
		f := &w.list[i]
		err := w.set(f)
		if err != nil && f.Origin != OriginConfiguration {
			d.o.Log.Warn("filter not set", "queue", w.queue, "origin", f.Origin.String(), "error", err)
			err = nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// dropFilters notes that none is set any more.
func (d *Device) dropFilters() {
	w := &d.wanted
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = 0
	for i := range w.list {
		w.list[i].ID = 0
	}
}

// guestCame notes that a guest may have filters of its own.
func (d *Device) guestCame() {
	d.wanted.mu.Lock()
	defer d.wanted.mu.Unlock()
	d.wanted.guest = true
}

// guestLeft makes the port forget what its guest wanted: the next one may be
// another. The filters are not set any more, as the rings have stopped.
func (d *Device) guestLeft() {
	w := &d.wanted
	w.mu.Lock()
	defer w.mu.Unlock()
	w.guest = false
	w.list = slices.DeleteFunc(w.list, func(f wanted) bool { return f.Origin == OriginGuest })
}
