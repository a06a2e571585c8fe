package vswitch

import (
	"testing"
	"time"

	"vhostnet/metrics"
	"vhostnet/nbl"
)

func to(dst uint64, n int) []*nbl.List {
	batch := make([]*nbl.List, n)
	for i := range batch {
		batch[i] = frame(dst, station(0))
	}
	return batch
}

// busy is what of batch is to be handed to Forward again.
func busy(batch []*nbl.List) []*nbl.List {
	var rest []*nbl.List
	for _, l := range batch {
		if l.Status == nbl.Busy {
			rest = append(rest, l)
		}
	}
	return rest
}

// backLab has a sender at port 0 and stations 1 and 2 at ports 1 and 2.
func backLab(t *testing.T, o PortOptions) *lab {
	l := newLab(t, 3, Options{}, o)
	l.teach(1, station(1))
	l.teach(2, station(2))
	return l
}

func TestWhatAPortDoesNotAcceptIsBusy(t *testing.T) {
	l := backLab(t, PortOptions{})
	l.ports[1].room = 2
	var batch []*nbl.List
	for i := range 10 {
		batch = append(batch, frame(station(1+i%2), station(0)))
	}
	l.forward(0, batch...)
	if got := len(l.ports[2].take()); got != 5 {
		t.Errorf("the port with room got %d frames, want 5: others go on", got)
	}
	rest := busy(batch)
	if len(rest) != 3 {
		t.Fatalf("%d frames are busy, want 3", len(rest))
	}
	for i, f := range []*nbl.List{batch[4], batch[6], batch[8]} {
		if rest[i] != f || f.Since != l.c.Now() {
			t.Errorf("busy frame %d is not the next in order, or since %d, now %d", i, f.Since, l.c.Now())
		}
	}
	l.wait(time.Microsecond)
	l.forward(0, rest...)
	if rest[2].Status != nbl.Busy || rest[2].Since != l.c.Now()-1000 {
		t.Errorf("after the second try the last is in status %d since %d", rest[2].Status, rest[2].Since)
	}
	l.forward(0, busy(rest)...)
	got := l.ports[1].take()
	for i, f := range []*nbl.List{batch[0], batch[2], batch[4], batch[6], batch[8]} {
		if i >= len(got) || got[i] != f {
			t.Fatalf("port 1 got %d frames, or frame %d is out of order", len(got), i)
		}
		l.status(f, nbl.Done, metrics.ReasonNone)
	}
	if n := l.ports[0].counters.TxFrames.Value(); n != 10 {
		t.Errorf("10 frames in three tries, counted %d", n)
	}
}

func TestStall(t *testing.T) {
	l := backLab(t, PortOptions{Wait: time.Millisecond})
	l.ports[1].room = 0
	batch := to(station(1), 3)
	l.forward(0, batch...)
	l.wait(time.Millisecond - 1)
	l.forward(0, batch...)
	if len(busy(batch)) != 3 {
		t.Fatalf("before its time %d of 3 are busy", len(busy(batch)))
	}
	l.wait(1)
	l.forward(0, batch...)
	for _, f := range batch {
		l.status(f, nbl.Dropped, metrics.ReasonNoBuffer)
	}

	fresh := to(station(1), 2) // now the port is stalled
	l.forward(0, fresh...)
	for _, f := range fresh {
		l.status(f, nbl.Dropped, metrics.ReasonStalled)
	}
	l.reaches(frame(station(2), station(0)), 0, 2) // nobody else is

	l.ports[1].room = 1 // one accepted frame ends it
	fresh = to(station(1), 3)
	l.forward(0, fresh...)
	l.status(fresh[0], nbl.Done, metrics.ReasonNone)
	if len(busy(fresh)) != 2 {
		t.Errorf("after the stall %d of 2 are busy", len(busy(fresh)))
	}
	if got := l.ports[1].counters.Stalls.Value(); got != 1 {
		t.Errorf("one stall, counted %d", got)
	}
	if a, b := l.ports[0].drops(metrics.ReasonNoBuffer), l.ports[0].drops(metrics.ReasonStalled); a != 3 || b != 2 {
		t.Errorf("3 frames waited in vain and 2 did not wait, counted %d and %d", a, b)
	}
}

// When the oldest frame's time is over, younger ones behind it go with it: the
// port is stalled for all.
func TestAStallTakesTheYoungerFramesToo(t *testing.T) {
	l := backLab(t, PortOptions{Wait: time.Millisecond})
	l.ports[1].room = 0
	old, young := frame(station(1), station(0)), frame(station(1), station(0))
	l.forward(0, old)
	l.wait(time.Millisecond / 2)
	l.forward(0, old, young)
	l.wait(time.Millisecond / 2)
	l.forward(0, old, young)
	l.status(old, nbl.Dropped, metrics.ReasonNoBuffer)
	l.status(young, nbl.Dropped, metrics.ReasonStalled)
}

// A receiver that takes a frame now and then delays its senders by no more
// than one that takes none (V78).
func TestV78_ASlowReceiverDoesNotHoldItsSender(t *testing.T) {
	l := backLab(t, PortOptions{Wait: time.Millisecond})
	l.ports[1].room = 1
	batch := to(station(1), 64)
	rest := batch
	for range 10 {
		l.forward(0, rest...)
		rest = busy(rest)
		l.wait(time.Millisecond / 4)
	}
	if len(rest) != 0 {
		t.Errorf("%d of 64 frames still wait after more than twice their time", len(rest))
	}
	done := 0
	for _, f := range batch {
		if f.Status == nbl.Done {
			done++
		} else {
			l.status(f, nbl.Dropped, metrics.ReasonNoBuffer)
		}
	}
	if done != 5 || l.ports[0].drops(metrics.ReasonNoBuffer) != 59 {
		t.Errorf("%d frames were delivered in 5 tries, want 5; %d dropped", done, l.ports[0].drops(metrics.ReasonNoBuffer))
	}
	if got := l.ports[1].counters.Stalls.Value(); got != 0 {
		t.Errorf("a port that accepts frames stalled %d times", got)
	}
}

func TestNoWait(t *testing.T) {
	l := backLab(t, PortOptions{Wait: -1})
	l.ports[1].room = 1
	batch := to(station(1), 3)
	l.forward(0, batch...)
	l.status(batch[0], nbl.Done, metrics.ReasonNone)
	l.status(batch[1], nbl.Dropped, metrics.ReasonNoBuffer)
	l.status(batch[2], nbl.Dropped, metrics.ReasonNoBuffer)
}

func TestFloodEndsAStall(t *testing.T) {
	l := backLab(t, PortOptions{Wait: -1})
	l.ports[1].room = 0
	l.forward(0, to(station(1), 1)...)
	l.ports[1].calls = 0
	l.forward(0, broadcasts(1, 60)...)
	if got := l.ports[1].calls; got != 1 {
		t.Errorf("a stalled port was asked %d times for one flood, want once", got)
	}
	l.ports[1].room = -1
	l.forward(0, broadcasts(1, 60)...)
	if l.s.ports.Load().find(l.ids[1]).stalled.Load() {
		t.Error("the port accepted a frame and still counts as stalled")
	}
}

// Whatever the ports do, each frame is delivered at most once, in order for
// each port, and ends as Done or counted.
func TestEveryFrameEndsOnce(t *testing.T) {
	rng := seeded(t)
	l := newLab(t, 5, Options{}, PortOptions{Wait: 300 * time.Microsecond})
	for i := 1; i < 5; i++ {
		l.teach(i, station(i))
	}
	sent, decidedDone := 0, 0
	order := map[*nbl.List]int{}
	var last [5]int
	for range 2000 {
		var batch []*nbl.List
		for range 1 + rng.IntN(32) {
			f := frame(station(1+rng.IntN(4)), station(0))
			sent++
			order[f] = sent
			batch = append(batch, f)
		}
		for rest := batch; len(rest) > 0; rest = busy(rest) {
			for _, p := range l.ports {
				p.room = rng.IntN(8) - 1
				if p.room > 4 {
					p.room = 0
				}
			}
			l.forward(0, rest...)
			l.wait(time.Duration(rng.IntN(200)) * time.Microsecond)
		}
		for _, f := range batch {
			if f.Status == nbl.Done {
				decidedDone++
			} else if f.Status != nbl.Dropped {
				t.Fatalf("a frame ends in status %d", f.Status)
			}
		}
	}
	delivered := 0
	for i := 1; i < 5; i++ {
		for _, f := range l.ports[i].take() {
			delivered++
			if f.Dst != station(i) || order[f] <= last[i] {
				t.Fatalf("port %d got frame %d after %d, for %012x", i, order[f], last[i], f.Dst)
			}
			last[i] = order[f]
		}
	}
	dropped := int(l.ports[0].counters.Drops.Total())
	if delivered != decidedDone || delivered+dropped != sent || dropped == 0 {
		t.Errorf("%d sent = %d delivered (%d Done) + %d dropped?", sent, delivered, decidedDone, dropped)
	}
}

// A receiver that takes a packet in parts is moving: its stall ends, and the
// packet is waited for as long as its parts come, but not for ever.
func TestPartsOfAPacketAreProgress(t *testing.T) {
	l := backLab(t, PortOptions{Wait: time.Millisecond})
	p := l.ports[1]
	stall := func() {
		t.Helper()
		p.room, p.part = 0, false
		batch := to(station(1), 1)
		l.forward(0, batch...)
		l.wait(time.Millisecond)
		l.forward(0, batch...)
		l.status(batch[0], nbl.Dropped, metrics.ReasonNoBuffer)
	}
	stall()
	p.part = true
	batch := to(station(1), 2)
	l.forward(0, batch...)
	if len(busy(batch)) != 2 {
		t.Fatal("a part was taken, and yet the port counts as stalled")
	}
	for range maxRenewals {
		l.wait(time.Millisecond - 1)
		l.forward(0, batch...)
		l.status(batch[0], nbl.Busy, metrics.ReasonNone)
	}
	l.status(batch[1], nbl.Busy, metrics.ReasonNone) // behind it
	p.room, p.part = 1, false
	l.forward(0, batch...)
	l.status(batch[0], nbl.Done, metrics.ReasonNone)
	l.status(batch[1], nbl.Dropped, metrics.ReasonNoBuffer) // its own time was over long ago
	p.part = true

	// One that comes in more parts than that is given up; the port is not
	// stalled by it.
	p.room = 0
	batch = to(station(1), 1)
	l.forward(0, batch...)
	for range maxRenewals + 1 {
		l.wait(time.Millisecond - 1)
		l.forward(0, batch...)
	}
	l.status(batch[0], nbl.Busy, metrics.ReasonNone)
	l.wait(1)
	l.forward(0, batch...)
	l.status(batch[0], nbl.Dropped, metrics.ReasonNoBuffer)
	if l.s.ports.Load().find(l.ids[1]).stalled.Load() {
		t.Error("the port took a part of the packet in every visit and counts as stalled")
	}
	if n := len(p.take()); n != 1 || p.counters.Stalls.Value() != 1 {
		t.Errorf("%d frames were accepted, %d stalls", n, p.counters.Stalls.Value())
	}

	// A flood ends a stall by a part, too.
	stall()
	p.part = true
	l.forward(0, broadcasts(1, 60)...)
	if l.s.ports.Load().find(l.ids[1]).stalled.Load() {
		t.Error("the port took a part of a flood and counts as stalled")
	}
}
