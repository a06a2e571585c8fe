package vswitch

import (
	"strings"
	"testing"
	"time"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/worker"
)

func TestLearnsAndForwards(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	l.reaches(frame(station(1), station(0)), 0, 1, 2) // unknown: flooded
	l.reaches(frame(station(0), station(1)), 1, 0)    // learned from the first
	l.reaches(frame(station(1), station(0)), 0, 1)
	l.reaches(tagged(7, station(1), station(0)), 0, 1, 2) // not known in this VLAN
	l.reaches(tagged(7, station(0), station(1)), 1, 0)
	if got := l.ports[0].counters.TxFrames.Value(); got != 3 {
		t.Errorf("port 0 sent 3 frames, counted %d", got)
	}
	if got := l.ports[0].counters.TxBytes.Value(); got != 180 {
		t.Errorf("port 0 sent 180 bytes, counted %d", got)
	}
	if got := l.ports[0].counters.Flooded.Value(); got != 2 {
		t.Errorf("port 0 had 2 frames flooded, counted %d", got)
	}
}

func TestFramesOfABatchReachTheirPortsInOrder(t *testing.T) {
	l := newLab(t, 5, Options{}, PortOptions{})
	rng := seeded(t)
	for i := 1; i < 5; i++ {
		l.teach(i, station(i))
	}
	for _, p := range l.ports {
		p.calls = 0
	}
	batch := make([]*nbl.List, 64)
	want := make([][]*nbl.List, 5)
	for i := range batch {
		to := 1 + rng.IntN(4)
		batch[i] = frame(station(to), station(0))
		want[to] = append(want[to], batch[i])
	}
	l.forward(0, batch...)
	for to := 1; to < 5; to++ {
		got := l.ports[to].take()
		if len(got) != len(want[to]) {
			t.Fatalf("port %d got %d frames, want %d", to, len(got), len(want[to]))
		}
		for i := range got {
			if got[i] != want[to][i] {
				t.Fatalf("port %d: frame %d is out of order", to, i)
			}
			l.status(got[i], nbl.Done, metrics.ReasonNone)
		}
		if l.ports[to].calls != 1 {
			t.Errorf("port %d was called %d times for one batch", to, l.ports[to].calls)
		}
	}
}

func TestALearnedAddressMovesAtOnce(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	l.teach(0, station(9))
	l.reaches(frame(station(9), station(1)), 1, 0)
	l.teach(2, station(9))
	l.reaches(frame(station(9), station(1)), 1, 2)
	if got := l.ports[2].counters.Moved.Value(); got != 1 {
		t.Errorf("one address moved to port 2, counted %d", got)
	}
}

func TestLearnedAddressesAge(t *testing.T) {
	l := newLab(t, 3, Options{Age: 10 * time.Second}, PortOptions{})
	l.teach(0, station(0))
	l.wait(10 * time.Second)
	l.reaches(frame(station(0), station(1)), 1, 0)
	l.wait(200 * time.Millisecond)
	l.reaches(frame(station(0), station(1)), 1, 0, 2)

	l.teach(0, station(0))
	for range 10 { // seen again and again, it stays
		l.wait(8 * time.Second)
		l.reaches(frame(station(0), station(1)), 1, 0)
		l.teach(0, station(0))
	}
	if got := l.ports[0].counters.Moved.Value(); got != 0 {
		t.Errorf("an address that ages or is renewed does not move, counted %d", got)
	}
}

func TestABusyFrameDoesNotTeachAgain(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	l.teach(1, station(1))
	l.ports[1].room = 0
	f := frame(station(1), station(0))
	l.forward(0, f)
	l.status(f, nbl.Busy, metrics.ReasonNone)
	l.teach(2, station(0)) // moved while the frame waits
	l.forward(0, f)
	l.reaches(frame(station(0), station(1)), 1, 2)
}

// A new frame behind a busy one of the same source teaches, as that source may
// have moved on since the busy one came: the lesson of an earlier batch says
// nothing of it.
func TestANewFrameBehindABusyOneTeaches(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	l.teach(1, station(1))
	l.ports[1].room = 0
	late := frame(station(1), station(0))
	l.forward(0, late)
	l.status(late, nbl.Busy, metrics.ReasonNone)
	l.teach(2, station(0)) // it has moved
	l.forward(2, frame(station(5), station(0)), frame(station(5), station(0)))
	l.ports[1].room = 10
	l.forward(0, late, frame(station(1), station(0)))
	for _, p := range l.ports {
		p.take()
	}
	l.reaches(frame(station(0), station(1)), 1, 0)
}

func TestDetachRemovesOnlyWhatStillPointsToThePort(t *testing.T) {
	l := newLab(t, 4, Options{}, PortOptions{})
	l.teach(0, station(0))
	l.teach(0, station(1))
	l.teach(1, station(1)) // moved away
	l.s.Steering(l.ids[0]).Set(0, mac(station(2)), 5, 1)
	if err := l.s.AddStatic(l.ids[0], 0, mac(station(3))); err != nil {
		t.Fatal(err)
	}
	l.s.Detach(l.ids[0])
	l.s.Detach(l.ids[0]) // the second time it is unknown

	if e := l.s.table.lookup(frameKey(0, station(0)), uint32(l.c.Now()/l.s.tick)); e != 0 {
		t.Errorf("a learned address of the port is still there: %#x", e)
	}
	l.reaches(frame(station(0), station(8)), 2, 1, 3)
	l.reaches(frame(station(1), station(8)), 2, 1)
	l.reaches(frame(station(2), station(8)), 2, 1, 3)
	l.reaches(frame(station(3), station(8)), 2, 1, 3)
	l.s.Steering(l.ids[0]).Set(0, mac(station(2)), 5, 1) // of a detached port: nothing
	l.reaches(frame(station(2), station(8)), 2, 1, 3)
	if err := l.s.AddStatic(l.ids[0], 0, mac(station(3))); err == nil {
		t.Error("a detached port got a static address")
	}

	f := frame(station(1), station(0))
	l.forward(0, f)
	l.status(f, nbl.Dropped, metrics.ReasonNoPort)
}

// A worker can meet an entry of a port that left, or came, after it read the
// ports.
func TestAnEntryOfAnotherAttachmentIsUnknown(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	other := tag(l.ids[1]).next()
	l.s.table.install(frameKey(0, station(1)), makeEntry(filter, other, 7))
	f := frame(station(1), station(0))
	l.reaches(f, 0, 1, 2)
	if f.QueueID != 0 {
		t.Errorf("queue %d, want 0", f.QueueID)
	}
}

func TestForgetKeepsFiltersAndWhatMoved(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	l.teach(0, station(0))
	l.teach(0, station(1))
	l.teach(1, station(1))
	l.s.Steering(l.ids[0]).Set(0, mac(station(2)), 5, 1)
	l.s.Forget(l.ids[0])
	l.s.Forget(PortID(1<<indexBits | 77)) // unknown
	l.reaches(frame(station(0), station(8)), 2, 0, 1)
	l.reaches(frame(station(1), station(8)), 2, 1)
	l.reaches(frame(station(2), station(8)), 2, 0)
	l.teach(0, station(0))
	l.reaches(frame(station(0), station(8)), 2, 0)
}

func TestPortIDsAreNotReused(t *testing.T) {
	l := newLab(t, 1, Options{}, PortOptions{})
	seen := map[PortID]bool{0: true}
	for range 2 * MaxPorts {
		id, err := l.s.Attach(l.ports[0], PortOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if seen[id] {
			t.Fatalf("port id %#x was given twice", id)
		}
		seen[id] = true
		l.s.Detach(id)
	}
	if got := len(l.s.ports.Load().all); got != 1 {
		t.Errorf("%d ports are attached, want 1", got)
	}
}

func TestTagsNeverBecomeZero(t *testing.T) {
	for _, index := range []int{0, 1, MaxPorts - 1} {
		first := tag(index).next()
		seen := 0
		for tg := first; ; tg = tg.next() {
			if tg.index() != index || tg < MaxPorts || tg >= 1<<30 {
				t.Fatalf("tag %#x of index %d", tg, index)
			}
			if seen++; tg.next() == first {
				break
			}
		}
		if seen != 1<<serialBits-1 {
			t.Errorf("index %d has %d tags, want %d", index, seen, 1<<serialBits-1)
		}
	}
}

func TestMaxPorts(t *testing.T) {
	l := newLab(t, MaxPorts, Options{}, PortOptions{})
	_, err := l.s.Attach(l.ports[0], PortOptions{Name: "surplus"})
	if err == nil || !strings.Contains(err.Error(), "surplus") {
		t.Errorf("port %d: error %v, want one that names it", MaxPorts+1, err)
	}
	l.s.Detach(l.ids[100])
	if _, err := l.s.Attach(l.ports[0], PortOptions{}); err != nil {
		t.Errorf("a place was free: %v", err)
	}
	l.teach(MaxPorts-1, station(1))
	l.reaches(frame(station(1), station(0)), 0, MaxPorts-1)
}

func TestV71_NoHairpin(t *testing.T) {
	l := newLab(t, 2, Options{}, PortOptions{})
	l.teach(0, station(0))
	l.s.Steering(l.ids[0]).Set(0, mac(station(1)), 3, 1)
	for i, f := range []*nbl.List{
		frame(station(0), station(0)), // its own address
		frame(station(0), station(5)), // a neighbour behind the same port
		frame(station(1), station(5)), // its own filter
	} {
		l.reaches(f, 0)
		l.status(f, nbl.Dropped, metrics.ReasonHairpin)
		if got := l.ports[0].drops(metrics.ReasonHairpin); got != uint64(i+1) {
			t.Errorf("%d hairpins, counted %d", i+1, got)
		}
	}
	l.reaches(frame(broadcast, station(0)), 0, 1)
}

func TestReservedAddresses(t *testing.T) {
	l := newLab(t, 2, Options{}, PortOptions{})
	bridge := l.attach(PortOptions{Transparent: true})
	for low := range uint64(0x12) {
		dst := 0x0180c2000000 + low
		f := frame(dst, station(0))
		if low < 0x10 {
			l.reaches(f, 0)
			l.status(f, nbl.Dropped, metrics.ReasonReserved)
		} else {
			l.reaches(f, 0, 1, 2)
		}
		l.reaches(frame(dst, station(2)), bridge, 0, 1)
	}
	if got := l.ports[0].drops(metrics.ReasonReserved); got != 16 {
		t.Errorf("16 reserved frames, counted %d", got)
	}
}

func TestSourcesThatNoStationHas(t *testing.T) {
	l := newLab(t, 2, Options{}, PortOptions{})
	for i, src := range []uint64{0, broadcast, 0x01005e000001} {
		f := frame(station(1), src)
		l.reaches(f, 0)
		l.status(f, nbl.Dropped, metrics.ReasonHeader)
		if got := l.ports[0].drops(metrics.ReasonHeader); got != uint64(i+1) {
			t.Errorf("%d bad sources, counted %d", i+1, got)
		}
		if e := l.s.table.find(frameKey(0, src)); e != 0 {
			t.Errorf("source %012x was learned: %#x", src, e)
		}
	}
	l.reaches(frame(0, station(0)), 0, 1) // as a destination zero is just unknown
}

func TestFilterGivesTheQueue(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	l.s.Steering(l.ids[1]).Set(0, mac(station(1)), 1<<32-1, 1)
	l.teach(2, station(2))
	for _, c := range []struct {
		dst  uint64
		port int
		want sharedmem.QueueID
	}{{station(1), 1, 1<<32 - 1}, {station(2), 2, 0}, {broadcast, 1, 0}, {station(1), 1, 1<<32 - 1}} {
		f := frame(c.dst, station(0))
		f.QueueID = 99 // what an earlier use left
		l.forward(0, f)
		if got := l.ports[c.port].take(); len(got) != 1 || got[0].QueueID != c.want {
			t.Errorf("frame to %012x: %d frames, queue %d; want queue %d", c.dst, len(got), f.QueueID, c.want)
		}
	}
}

func TestForeignSource(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	l.s.Steering(l.ids[1]).Set(0, mac(station(1)), 1, 1)
	l.teach(2, station(2))
	for range 3 {
		l.reaches(frame(station(2), station(1)), 0, 2) // forged, still forwarded
	}
	if got := l.ports[0].counters.ForeignSource.Value(); got != 3 {
		t.Errorf("3 forged sources, counted %d", got)
	}
	l.reaches(frame(station(1), station(2)), 2, 1)
	l.reaches(frame(station(2), station(1)), 1, 2) // its owner may use it
	if got := l.ports[1].counters.ForeignSource.Value(); got != 0 {
		t.Errorf("the owner's frame was counted as forged")
	}
}

func TestDecidedListsAreLeftAlone(t *testing.T) {
	l := newLab(t, 2, Options{}, PortOptions{})
	l.teach(1, station(1))
	bad, done, good := frame(station(1), station(0)), frame(station(1), station(0)), frame(station(1), station(0))
	bad.Drop(metrics.ReasonGSO)
	done.Status = nbl.Done
	l.forward(0, bad, done, good)
	if got := l.ports[1].take(); len(got) != 1 || got[0] != good {
		t.Errorf("port 1 got %d frames, want the undecided one", len(got))
	}
	l.status(bad, nbl.Dropped, metrics.ReasonGSO)
	l.s.Forward(l.c, 0, []*nbl.List{bad, done})
	l.status(bad, nbl.Dropped, metrics.ReasonGSO)
	l.status(done, nbl.Done, metrics.ReasonNone)
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{MaxEntries: -1}, {MaxEntries: maxEntries + 1}, {Age: -1}, {Age: time.Millisecond}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	l := newLab(t, 0, Options{}, PortOptions{})
	for _, o := range []PortOptions{{Storm: Storm{Frames: -1}}, {Storm: Storm{Bytes: -1}}} {
		if _, err := l.s.Attach(&sink{}, o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	if _, err := l.s.Attach(nil, PortOptions{Name: "web"}); err == nil || !strings.Contains(err.Error(), "web") {
		t.Errorf("a nil port: error %v, want one that names it", err)
	}
}

// miscounting is a Port that answers what none may.
type miscounting int

func (m miscounting) Deliver(*worker.Context, []*nbl.List) (int, bool) { return int(m), false }

func TestAPortThatMiscountsBreaksNothing(t *testing.T) {
	l := newLab(t, 2, Options{}, PortOptions{})
	for _, n := range []int{-5, 1000} {
		id, err := l.s.Attach(miscounting(n), PortOptions{})
		if err != nil {
			t.Fatal(err)
		}
		l.s.Steering(id).Set(0, mac(station(5)), 1, 1)
		f, b := frame(station(5), station(0)), frame(broadcast, station(0))
		l.forward(0, f, b)
		want := nbl.Busy
		if n > 0 {
			want = nbl.Done
		}
		l.status(f, want, metrics.ReasonNone)
		l.status(b, nbl.Done, metrics.ReasonNone)
		l.s.Detach(id)
	}
}
