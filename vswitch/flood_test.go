package vswitch

import (
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/worker"
)

func broadcasts(n int, length uint32) []*nbl.List {
	batch := make([]*nbl.List, n)
	for i := range batch {
		batch[i] = frame(broadcast, station(0))
		batch[i].Length = length
	}
	return batch
}

// One guest's broadcasts take a bounded part of each visit (V74).
func TestV74_FloodBudget(t *testing.T) {
	for _, c := range []struct {
		name   string
		storm  Storm
		sent   int
		length uint32
		passed int
	}{
		{"128 frames by default", Storm{}, 200, 60, 128},
		{"4 MiB by default, over two ports", Storm{}, 64, 65536, 32},
		{"frames", Storm{Frames: 3}, 10, 60, 3},
		{"bytes, to the byte", Storm{Bytes: 1200}, 64, 60, 10},
		{"bytes, one short", Storm{Bytes: 1199}, 64, 60, 9},
		{"less than one frame", Storm{Bytes: 100}, 3, 60, 0},
	} {
		l := newLab(t, 3, Options{}, PortOptions{Storm: c.storm})
		for range 2 { // each Forward has its own budget
			batch := broadcasts(c.sent, c.length)
			l.forward(0, batch...)
			for i := 1; i < 3; i++ {
				if got := len(l.ports[i].take()); got != c.passed {
					t.Errorf("%s: port %d got %d of %d frames, want %d", c.name, i, got, c.sent, c.passed)
				}
			}
			for i, f := range batch {
				if i < c.passed {
					l.status(f, nbl.Done, metrics.ReasonNone)
				} else {
					l.status(f, nbl.Dropped, metrics.ReasonStorm)
				}
			}
		}
		if got, want := l.ports[0].drops(metrics.ReasonStorm), uint64(2*(c.sent-c.passed)); got != want {
			t.Errorf("%s: %d frames over the budget, counted %d", c.name, want, got)
		}
	}
}

func TestUnicastIsOutsideTheBudget(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{Storm: Storm{Frames: 1}})
	l.teach(1, station(1))
	batch := broadcasts(2, 60)
	for range 10 {
		batch = append(batch, frame(station(1), station(0)))
	}
	l.forward(0, batch...)
	if got := len(l.ports[1].take()); got != 11 {
		t.Errorf("port 1 got %d frames, want 1 flooded and 10 of its own", got)
	}
}

func TestFloodToNobody(t *testing.T) {
	l := newLab(t, 1, Options{}, PortOptions{})
	f := frame(broadcast, station(0))
	l.forward(0, f)
	l.status(f, nbl.Dropped, metrics.ReasonNoPort)
	if got := l.ports[0].drops(metrics.ReasonNoPort); got != 1 {
		t.Errorf("1 frame for nobody, counted %d", got)
	}
}

func TestFloodedFramesNeverWait(t *testing.T) {
	l := newLab(t, 4, Options{}, PortOptions{})
	l.ports[1].room = 0
	l.ports[2].room = 1 // accepts one each time it is asked
	batch := broadcasts(4, 60)
	l.forward(0, batch...)
	for _, f := range batch {
		l.status(f, nbl.Done, metrics.ReasonNone)
	}
	for i, want := range []int{0, 0, 2, 4} {
		if got := len(l.ports[i].take()); got != want {
			t.Errorf("port %d got %d frames, want %d", i, got, want)
		}
	}
	if got := l.ports[0].drops(metrics.ReasonBusyFlood); got != 6 {
		t.Errorf("6 copies were lost, counted %d", got)
	}
	for i, want := range []int{0, 2, 2, 1} {
		if got := l.ports[i].calls; got != want {
			t.Errorf("port %d was called %d times, want %d", i, got, want)
		}
	}
	if l.s.ports.Load().find(l.ids[1]).stalled.Load() {
		t.Error("a port for which nothing waited counts as stalled")
	}
}

func TestAFloodedFrameThatNobodyTakesIsDropped(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	l.ports[1].room, l.ports[2].room = 1, 0
	batch := broadcasts(4, 60)
	l.forward(0, batch...)
	for i, f := range batch {
		if i < 2 { // one in each of two tries
			l.status(f, nbl.Done, metrics.ReasonNone)
		} else {
			l.status(f, nbl.Dropped, metrics.ReasonBusyFlood)
		}
	}
}

// The order of what one port gets by flooding is the order of sending, also
// over the second try.
func TestFloodedFramesStayInOrder(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	l.ports[1].room = 5
	batch := broadcasts(20, 60)
	l.forward(0, batch...)
	got := l.ports[1].take()
	if len(got) != 10 {
		t.Fatalf("port 1 got %d frames, want 10", len(got))
	}
	for i := range got {
		if got[i] != batch[i] {
			t.Fatalf("frame %d is out of order", i)
		}
	}
}

// watcher is a Port that looks whether the Lists it is given are untouched.
type watcher struct {
	t    *testing.T
	seen int
}

func (w *watcher) Deliver(_ *worker.Context, batch []*nbl.List) (int, bool) {
	for _, l := range batch {
		w.seen++
		if l.Status != nbl.Pending || l.QueueID != 0 || l.Reason != metrics.ReasonNone {
			w.t.Errorf("a flooded frame comes with status %d, queue %d, reason %v", l.Status, l.QueueID, l.Reason)
		}
	}
	return len(batch), false
}

func TestOneListGoesToManyPorts(t *testing.T) {
	l := newLab(t, 1, Options{}, PortOptions{})
	w := &watcher{t: t}
	for range 10 {
		if _, err := l.s.Attach(w, PortOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	batch := broadcasts(8, 60)
	for _, f := range batch {
		f.QueueID = 4
	}
	l.forward(0, batch...)
	if w.seen != 80 {
		t.Errorf("10 ports saw %d frames, want 80", w.seen)
	}
	if got := len(l.ports[0].got); got != 0 {
		t.Errorf("the sender got %d of its own frames back", got)
	}
}
