package vswitch

import (
	"testing"

	"vhostnet/sharedmem"
)

// goesTo fails unless a frame to station 1 in vlan reaches only this port, by
// this queue.
func (l *lab) goesTo(vlan uint16, port int, queue sharedmem.QueueID) {
	l.t.Helper()
	from := len(l.ports) - 1
	f := tagged(vlan, station(1), station(99))
	l.reaches(f, from, port)
	if f.QueueID != queue {
		l.t.Errorf("VLAN %d: queue %d, want %d", vlan, f.QueueID, queue)
	}
}

// isFlooded fails unless a frame to station 1 in vlan is flooded.
func (l *lab) isFlooded(vlan uint16) {
	l.t.Helper()
	from := len(l.ports) - 1
	var all []int
	for i := range from {
		all = append(all, i)
	}
	l.reaches(tagged(vlan, station(1), station(99)), from, all...)
}

func TestFilterBeatsLearned(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	st := l.s.Steering(l.ids[0])
	l.teach(1, station(1))
	l.goesTo(0, 1, 0)
	st.Set(0, mac(station(1)), 7, 1)
	l.goesTo(0, 0, 7)
	l.teach(1, station(1)) // a filter cannot be unlearned
	l.goesTo(0, 0, 7)
	st.Set(0, mac(station(1)), 8, 1)
	l.goesTo(0, 0, 8)
	st.Clear(0, mac(station(1)))
	l.isFlooded(0)
	st.Clear(0, mac(station(1)))
	l.teach(1, station(1))
	l.goesTo(0, 1, 0)
}

func TestAnyVLAN(t *testing.T) {
	l := newLab(t, 4, Options{}, PortOptions{})
	all, one := l.s.Steering(l.ids[0]), l.s.Steering(l.ids[1])
	l.teach(2, station(1))
	all.Set(AnyVLAN, mac(station(1)), 5, 1)
	l.goesTo(0, 0, 5)
	l.goesTo(7, 0, 5)
	one.Set(7, mac(station(1)), 6, 1)
	l.goesTo(7, 1, 6) // the frame's own VLAN goes before
	l.goesTo(8, 0, 5)

	l.reaches(tagged(3, station(1), station(1)), 2, 0) // foreign in every VLAN
	if got := l.ports[2].counters.ForeignSource.Value(); got != 1 {
		t.Errorf("1 forged source, counted %d", got)
	}
	all.Clear(AnyVLAN, mac(station(1)))
	l.goesTo(7, 1, 6)
	l.goesTo(0, 2, 0) // what had been learned before still counts
	l.isFlooded(8)
	if n := l.s.table.anyFilters.Load(); n != 0 {
		t.Errorf("%d filters of any VLAN are counted, want none", n)
	}
}

func TestTheFirstOfTwoFiltersCounts(t *testing.T) {
	l := newLab(t, 4, Options{}, PortOptions{})
	old, next := l.s.Steering(l.ids[0]), l.s.Steering(l.ids[1])
	m := mac(station(1))
	if err := l.s.AddStatic(l.ids[2], 0, m); err != nil {
		t.Fatal(err)
	}
	l.goesTo(0, 2, 0)
	old.Set(0, m, 1, 10)
	next.Set(0, m, 2, 11)
	l.goesTo(0, 0, 1)
	old.Set(0, m, 3, 10) // keeps its place
	l.goesTo(0, 0, 3)
	old.Clear(0, m)
	l.goesTo(0, 1, 2) // the second takes over
	old.Set(0, m, 4, 12)
	l.goesTo(0, 1, 2) // who comes back has a higher order
	old.Set(0, m, 4, 11)
	l.goesTo(0, 0, 4) // of equals the last
	old.Set(0, m, 4, 12)
	l.goesTo(0, 1, 2)
	l.s.Detach(l.ids[1])
	l.goesTo(0, 0, 4)
	old.Clear(0, m)
	l.goesTo(0, 2, 0)
	l.s.RemoveStatic(l.ids[2], 0, m)
	l.s.RemoveStatic(l.ids[2], 0, m)
	if n := len(l.s.claims); n != 0 {
		t.Errorf("%d claims are left", n)
	}
}

func TestStaticIsNotLearned(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	if err := l.s.AddStatic(l.ids[0], 0, mac(station(1))); err != nil {
		t.Fatal(err)
	}
	l.teach(1, station(1))
	l.goesTo(0, 0, 0)
	if got := l.ports[1].counters.ForeignSource.Value(); got != 1 {
		t.Errorf("1 forged source, counted %d", got)
	}
}

func TestSteeringRefusesGroupsAndZero(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	for _, m := range []uint64{0, broadcast, 0x01005e000001} {
		l.s.Steering(l.ids[0]).Set(0, mac(m), 1, 1)
		l.s.Steering(l.ids[0]).Clear(0, mac(m))
		if err := l.s.AddStatic(l.ids[0], 0, mac(m)); err == nil {
			t.Errorf("address %012x was made static", m)
		}
	}
	if n := len(l.s.claims); n != 0 {
		t.Errorf("%d claims of addresses that no station has", n)
	}
}
