package vswitch

import (
	"testing"

	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/worker"
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

// Claim 58: a port is handed frames of its own queue and of queue 0, and never
// of another's: batches do not mix queues.
func TestClaim58_BatchesDoNotMixQueues(t *testing.T) {
	l := newLab(t, 5, Options{}, PortOptions{})
	for i := range 4 {
		l.s.Steering(l.ids[i]).Set(0, mac(station(i)), sharedmem.QueueID(i+1), uint32(i+1))
		l.teach(i, station(10+i))
	}
	var batch []*nbl.List
	for n := range 60 {
		dst := station(n % 4)
		if n%3 == 0 {
			dst = station(10 + n%4) // learned: by queue 0
		}
		batch = append(batch, frame(dst, station(99)))
	}
	l.forward(4, batch...)
	for i := range 4 {
		own, zero := 0, 0
		for _, f := range l.ports[i].take() {
			switch f.QueueID {
			case sharedmem.QueueID(i + 1):
				own++
			case 0:
				zero++
			default:
				t.Errorf("port %d was handed a frame of queue %d", i, f.QueueID)
			}
		}
		if own != 10 || zero != 5 {
			t.Errorf("port %d got %d frames by its queue and %d by queue 0, want 10 and 5", i, own, zero)
		}
	}
}

// Claim 70: while a filter moves to and fro under traffic, each frame goes to
// the one port or to the other.
func TestClaim70_AnAddressMovesInOneStep(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	var ids [3]PortID
	var got [3]counting
	for i := range ids {
		got[i].t, got[i].mac = t, station(1)
		if ids[i], err = s.Attach(&got[i], PortOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.Steering(ids[0]).Set(0, mac(station(1)), 1, 7)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range 20_000 {
			from, to := n%2, 1-n%2
			s.Steering(ids[to]).Set(0, mac(station(1)), sharedmem.QueueID(to+1), 7)
			s.Steering(ids[from]).Clear(0, mac(station(1)))
		}
	}()
	c := worker.NewTestContext()
	sent := int64(0)
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		f := frame(station(1), station(2))
		s.Forward(c, ids[2], []*nbl.List{f})
		sent++
		if f.QueueID == 0 {
			t.Fatal("a frame found no filter")
		}
	}
	if a, b := got[0].n.Load(), got[1].n.Load(); a+b != sent || got[2].n.Load() != 0 {
		t.Errorf("%d frames were sent, %d and %d came", sent, a, b)
	}
}
