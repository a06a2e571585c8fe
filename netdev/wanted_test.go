package netdev_test

import (
	"slices"
	"testing"

	"vhostnet/netdev"
	"vhostnet/queues"
	"vhostnet/vhostuser/vutest"
)

// set are the filters of a port's queue by their addresses' last bytes, in the
// order of their ids.
func (r *rig) set(port string) (list []byte) {
	r.t.Helper()
	id := r.devices[port].QueueID()
	if id == 0 {
		return nil
	}
	filters, err := r.adapter.EnumFilters(id)
	r.must(err)
	for _, f := range filters {
		list = append(list, f.MAC[5])
	}
	return list
}

func (r *rig) wantSet(port string, want ...byte) {
	r.t.Helper()
	if got := r.set(port); !slices.Equal(got, want) {
		r.t.Errorf("port %s has filters of %x, want %x", port, got, want)
	}
}

// A port keeps what filters it is to have, by who wants them, and sets them at
// each start of its VM.
func TestWantedFilters(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, by := r.devices["a"], r.adapter.Bind("control API")
	filter := func(n byte) queues.Filter { return queues.Filter{MAC: [6]byte{0x52, 0x54, 0, 0, 1, n}} }
	early, err := a.Want(netdev.OriginControl, filter(1), by)
	r.must(err)
	if early.ID != 0 {
		t.Errorf("a filter is set where there is no queue: %+v", early)
	}
	fe := r.connect("a", vutest.Options{})
	b := r.connect("b", vutest.Options{})
	r.wantSet("a", macA[5], 1)
	late, err := a.Want(netdev.OriginControl, filter(2), by)
	r.must(err)
	if late.ID == 0 {
		t.Error("a filter is not set on a queue that runs")
	}
	r.wantSet("a", macA[5], 1, 2)
	exchange(t, b, fe, 0, frame(filter(2).MAC, macB, 60, 1))

	for _, refused := range []struct {
		what string
		err  error
		want queues.Status
	}{
		{"again", second(a.Want(netdev.OriginControl, filter(1), by)), queues.StatusInvalidParameter},
		{"own again", second(a.Want(netdev.OriginControl, queues.Filter{MAC: macA}, by)), queues.StatusInvalidParameter},
		{"a group", second(a.Want(netdev.OriginControl, queues.Filter{MAC: [6]byte{1}}, by)), queues.StatusInvalidParameter},
		{"of another origin", a.Unwant(netdev.OriginGuest, filter(2)), queues.StatusInvalidParameter},
		{"of the configuration", a.Unwant(netdev.OriginControl, queues.Filter{MAC: macA}), queues.StatusInvalidParameter},
		{"unknown", a.Unwant(netdev.OriginControl, filter(9)), queues.StatusFileNotFound},
	} {
		if queues.StatusOf(refused.err) != refused.want {
			t.Errorf("%s: %v, want %s", refused.what, refused.err, refused.want)
		}
	}
	r.wantSet("a", macA[5], 1, 2)

	fe.Disconnect()
	r.waitFor("the queue to be freed", func() bool { return len(r.adapter.EnumQueues()) == 2 })
	for _, w := range a.Wanted() {
		if w.ID != 0 {
			t.Errorf("without a VM %+v counts as set", w)
		}
	}
	r.must(a.Unwant(netdev.OriginControl, filter(1)))
	fe = r.connect("a", vutest.Options{})
	r.wantSet("a", macA[5], 2)
	r.must(a.Unwant(netdev.OriginControl, filter(2)))
	r.wantSet("a", macA[5])
	exchange(t, b, fe, 0, frame(macA, macB, 60, 2))
}

// What a guest wants is set again when its driver starts again, and forgotten
// when its front-end leaves: the next guest may be another.
func TestGuestsFilters(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA})
	a, by := r.devices["a"], r.adapter.Bind("guests")
	filter := func(n byte) queues.Filter { return queues.Filter{MAC: [6]byte{0x52, 0x54, 0, 0, 1, n}} }
	if _, err := a.Want(netdev.OriginGuest, filter(1), by); queues.StatusOf(err) != queues.StatusInvalidParameter {
		t.Errorf("a guest that is not there wants a filter: %v", err)
	}
	fe := r.connect("a", vutest.Options{})
	for n := range byte(3) {
		_, err := a.Want(netdev.OriginGuest, filter(n+1), by)
		r.must(err)
	}
	_, err := a.Want(netdev.OriginControl, filter(9), by)
	r.must(err)
	r.must(a.Unwant(netdev.OriginGuest, filter(1)))
	r.must(a.Unwant(netdev.OriginControl, filter(2))) // the host may take it back, too
	r.wantSet("a", macA[5], 3, 9)
	r.must(fe.Stop(t.Context()))
	r.wantSet("a")
	_, err = fe.Start(t.Context())
	r.must(err)
	r.wantSet("a", macA[5], 3, 9)
	fe.Disconnect()
	r.waitFor("the queue to be freed", func() bool { return len(r.adapter.EnumQueues()) == 1 })
	if _, err := a.Want(netdev.OriginGuest, filter(1), by); queues.StatusOf(err) != queues.StatusInvalidParameter {
		t.Errorf("a guest that has gone wants a filter: %v", err)
	}
	r.connect("a", vutest.Options{})
	r.wantSet("a", macA[5], 9)
}

func second[T any](_ T, err error) error { return err }

// A filter that moves to another port's queue is that port's from then on.
func TestWantedFilterMoves(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b, by := r.devices["a"], r.devices["b"], r.adapter.Bind("control API")
	fa, fb := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	f := queues.Filter{MAC: [6]byte{0x52, 0x54, 0, 0, 1, 7}}
	w, err := a.Want(netdev.OriginControl, f, by)
	r.must(err)
	exchange(t, fb, fa, 0, frame(f.MAC, macB, 60, 1))
	r.must(by.MoveFilter(t.Context(), w.ID, a.QueueID(), b.QueueID()))
	moved, ok := a.GiveUp(w.ID)
	if !ok || moved != w {
		t.Errorf("given up is %+v, %v", moved, ok)
	}
	r.must(b.Adopt(moved, b.QueueID(), by))
	exchange(t, fa, fb, 0, frame(f.MAC, macA, 60, 2))
	if _, ok := a.GiveUp(w.ID); ok {
		t.Error("a filter is given up twice")
	}
	fb.Disconnect()
	r.waitFor("the queue to be freed", func() bool { return len(r.adapter.EnumQueues()) == 2 })
	fb = r.connect("b", vutest.Options{})
	r.wantSet("a", macA[5])
	r.wantSet("b", macB[5], 7)

	// It moves while the rings of its new port stop: it is set when they start.
	late, err := a.Want(netdev.OriginControl, queues.Filter{MAC: [6]byte{0x52, 0x54, 0, 0, 1, 8}}, by)
	r.must(err)
	old := b.QueueID()
	r.must(by.MoveFilter(t.Context(), late.ID, a.QueueID(), old))
	moved, _ = a.GiveUp(late.ID)
	fb.Disconnect()
	r.waitFor("the queue to be freed", func() bool { return len(r.adapter.EnumQueues()) == 2 })
	r.must(b.Adopt(moved, old, by))
	fb = r.connect("b", vutest.Options{})
	r.wantSet("b", macB[5], 7, 8)
	exchange(t, fa, fb, 0, frame([6]byte{0x52, 0x54, 0, 0, 1, 8}, macA, 60, 3))
}
