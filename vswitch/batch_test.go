package vswitch

import (
	"testing"

	"vhostnet/nbl"
)

// A frame goes the way of the one before it, by the same queue, only if all that
// decided on that one is the same. Each counts by itself.
func TestFollowersAreAlike(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	l.s.Steering(l.ids[1]).Set(5, mac(station(1)), 7, 1) // VLAN 5: port 1, queue 7
	l.s.Steering(l.ids[2]).Set(6, mac(station(1)), 8, 2) // VLAN 6: port 2, queue 8
	l.s.Steering(l.ids[2]).Set(5, mac(station(2)), 8, 3) // another station behind it
	// Only behind a source that is known do others follow.
	l.forward(0, tagged(5, broadcast, station(0)), tagged(6, broadcast, station(0)))
	for _, p := range l.ports {
		p.take()
	}
	l.forward(0,
		tagged(5, station(1), station(0)), tagged(5, station(1), station(0)), tagged(5, station(1), station(0)),
		tagged(6, station(1), station(0)), tagged(6, station(1), station(0)), tagged(5, station(2), station(0)),
		tagged(5, station(1), station(0)), tagged(5, station(1), station(9)),
	)
	for port, want := range map[int]int{1: 5, 2: 3} {
		got := l.ports[port].take()
		if len(got) != want {
			t.Errorf("port %d got %d frames, want %d", port, len(got), want)
		}
		for _, f := range got {
			if want := port + 6; int(f.QueueID) != want {
				t.Errorf("a frame to port %d goes by queue %d, want %d", port, f.QueueID, want)
			}
		}
	}
	if c := &l.ports[0].counters; c.TxFrames.Value() != 10 || c.TxBytes.Value() != 10*60 {
		t.Errorf("%d frames and %d bytes are counted, want 10 and %d", c.TxFrames.Value(), c.TxBytes.Value(), 10*60)
	}
	l.reaches(tagged(5, station(9), station(1)), 1, 0) // a source in the middle of a batch is learned
}

// Frames behind one that claims the address of another port are counted each.
func TestForeignSourcesInABatch(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	l.s.Steering(l.ids[1]).Set(5, mac(station(1)), 7, 1)
	batch := make([]*nbl.List, 3)
	for i := range batch {
		batch[i] = tagged(5, station(1), station(1))
	}
	l.forward(0, batch...)
	if n := l.ports[0].counters.ForeignSource.Value(); n != 3 {
		t.Errorf("%d frames with a foreign source are counted, want 3", n)
	}
}
