package vswitch

import (
	"runtime"
	"testing"
	"time"

	"vhostnet/nbl"
)

// model is the table as a map, without windows, tags and tricks.
type model map[uint64]modelEntry

type modelEntry struct {
	port int
	seen uint32
}

// model answers what lookup should, -1 for nothing.
func (m model) lookup(key uint64, now uint32) int {
	if e, ok := m[key]; ok && now-e.seen <= ageTicks {
		return e.port
	}
	return -1
}

// newTestTable is a table for so many addresses, with tags for ports 0 to
// ports-1.
func newTestTable(addresses, ports int) *table {
	t := new(table)
	t.init(addresses)
	for i := range ports {
		t.retag(i)
	}
	return t
}

func TestTableAgainstAMap(t *testing.T) {
	const ports, keys, steps = 5, 400, 200_000 / raceSlow
	rng := seeded(t)
	tb := newTestTable(1000*keys, ports) // so wide that no window is ever full
	learnedBy, fixedTo := model{}, map[uint64]int{}
	now := uint32(1<<32 - 2*ageTicks) // the clock wraps on the way
	newKey := func() uint64 {
		vlan := uint64(rng.IntN(3))
		if rng.IntN(8) == 0 {
			vlan = uint64(AnyVLAN)
		}
		return vlan<<macBits | station(rng.IntN(keys))
	}
	expect := func(key uint64) int {
		if p, ok := fixedTo[key]; ok {
			return p
		}
		if p, ok := fixedTo[key&macMask|anyVLAN]; ok {
			return p
		}
		return learnedBy.lookup(key, now)
	}
	for step := range steps {
		key := newKey()
		frames := key&^macMask != anyVLAN // keys that frames can have
		switch op := rng.IntN(100); {
		case op < 40 && frames:
			got, want := tb.lookup(key, now), expect(key)
			if want < 0 && got != 0 || want >= 0 && (got == 0 || got.tag().index() != want) {
				t.Fatalf("step %d: key %#x is %#x, want port %d", step, key, got, want)
			}
		case op < 80 && frames:
			if tb.lookup(key, now).isFixed() {
				break // as the caller of learn does
			}
			port := rng.IntN(ports)
			was := learnedBy.lookup(key, now)
			want := added
			if was == port {
				want = renewed
			} else if was >= 0 {
				want = moved
			}
			if got := tb.learn(key, tb.tagOf(port), now); got != want {
				t.Fatalf("step %d: learning %#x at port %d came to %d, want %d", step, key, port, got, want)
			}
			learnedBy[key] = modelEntry{port, now}
		case op < 88:
			port, k := rng.IntN(ports), static+kind(rng.IntN(2))
			tb.install(key, makeEntry(k, tb.tagOf(port), 0))
			fixedTo[key] = port
			delete(learnedBy, key)
		case op < 96:
			tb.remove(key)
			delete(fixedTo, key)
		case op < 97:
			port := rng.IntN(ports)
			tb.retag(port)
			for k, e := range learnedBy {
				if e.port == port {
					delete(learnedBy, k)
				}
			}
		default:
			now += uint32(rng.IntN(ageTicks / 4))
		}
	}
	wild := 0
	for key := range fixedTo {
		if key&^macMask == anyVLAN {
			wild++
		}
	}
	if got := int(tb.anyFilters.Load()); got != wild {
		t.Errorf("anyFilters is %d, want %d", got, wild)
	}
}

// A table that is far too small still tells no lies: what it answers is what
// the map says, or nothing; fixed entries are always there.
func TestFullTableForgetsButNeverLies(t *testing.T) {
	const ports, keys, steps = 3, 200, 200_000 / raceSlow
	rng := seeded(t)
	tb := newTestTable(4, ports) // two windows
	learnedBy, fixedTo := model{}, map[uint64]int{}
	now := uint32(1)
	hits := 0
	for step := range steps {
		key := station(rng.IntN(keys))
		switch op := rng.IntN(100); {
		case op < 45:
			got := tb.lookup(key, now)
			if port, ok := fixedTo[key]; ok {
				if !got.isFixed() || got.tag().index() != port {
					t.Fatalf("step %d: fixed key %#x is %#x, want port %d", step, key, got, port)
				}
				break
			}
			if got == 0 {
				break
			}
			hits++
			if want := learnedBy.lookup(key, now); got.tag().index() != want {
				t.Fatalf("step %d: key %#x is %#x, want port %d", step, key, got, want)
			}
		case op < 90:
			if tb.lookup(key, now).isFixed() {
				break
			}
			port := rng.IntN(ports)
			if tb.learn(key, tb.tagOf(port), now) == full {
				delete(learnedBy, key)
			} else {
				learnedBy[key] = modelEntry{port, now}
			}
		case op < 94 && len(fixedTo) < 40: // more than there are slots
			port := rng.IntN(ports)
			tb.install(key, makeEntry(filter, tb.tagOf(port), 0))
			fixedTo[key] = port
			delete(learnedBy, key)
		case op < 99:
			tb.remove(key)
			delete(fixedTo, key)
		default:
			now += uint32(rng.IntN(8))
		}
	}
	if hits == 0 {
		t.Error("nothing learned was ever found; the test tests nothing")
	}
	for key := range fixedTo {
		tb.remove(key)
	}
	if o := tb.overflow.Load(); o != nil {
		t.Errorf("%d entries are left in the overflow", len(*o))
	}
}

// probes is how many keys find reads for key, by the same walk.
func probes(tb *table, key uint64) int {
	if i := tb.window(key).slot(key); i >= 0 {
		return i + 1
	}
	return slots
}

// A lookup reads the same few slots whatever is in the table.
func TestV81_LookupCostIsFlat(t *testing.T) {
	const addresses = 100_000
	rng := seeded(t)
	for _, hostile := range []int{0, 1_000_000 / raceSlow} {
		for _, n := range []int{10, addresses / raceSlow} {
			tb := newTestTable(addresses, 2)
			for i := range n {
				tb.learn(station(i), tb.tagOf(0), 1)
			}
			for range hostile {
				tb.learn(rng.Uint64()&macMask&^groupBit, tb.tagOf(1), 1)
			}
			sum, most := 0, 0
			for i := range n {
				p := probes(tb, station(i))
				sum += p
				most = max(most, p)
			}
			miss := 0
			for i := range 1000 {
				miss = max(miss, probes(tb, station(addresses+i)))
			}
			if most > slots || miss > slots {
				t.Errorf("%d entries, %d hostile: a hit reads up to %d keys, a miss %d; want at most %d", n, hostile, most, miss, slots)
			}
			if mean := float64(sum) / float64(n); hostile == 0 && mean > slots/2 {
				t.Errorf("%d entries: a hit reads %.1f keys on average", n, mean)
			}
		}
	}
}

// A million invented addresses cost no memory, and displace their own port's
// addresses before a neighbour's.
func TestV81_HostileSourcesDisplaceTheirOwn(t *testing.T) {
	const honest = 2000
	l := newLab(t, 3, Options{MaxEntries: 4096}, PortOptions{})
	for i := range honest {
		l.teach(1, station(i))
	}
	rng := seeded(t)
	batch := []*nbl.List{frame(station(0), 0)}
	forge := func(n int) {
		for range n {
			batch[0].Status, batch[0].Src = nbl.Pending, 2<<40|rng.Uint64()&(1<<40-1)
			l.forward(0, batch...)
			for _, p := range l.ports {
				p.got = p.got[:0]
			}
		}
	}
	forge(1000) // the first ones may make room for themselves
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	forge(1_000_000 / raceSlow)
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("V69: a million hostile frames allocated %d bytes", grown)
	}
	kept := 0
	for i := range honest {
		if e := l.s.table.lookup(station(i), uint32(l.c.Now()/l.s.tick)); e.tag().index() == tag(l.ids[1]).index() && e != 0 {
			kept++
		}
	}
	// Mean load is 1 honest address in 7 slots: hardly any window has more
	// honest addresses than half of it.
	if kept < honest*99/100 {
		t.Errorf("of %d honest addresses %d are left", honest, kept)
	}
	live := 0
	for i := range l.s.table.windows {
		for j := range slots {
			if l.s.table.windows[i].entries[j].Load() != 0 {
				live++
			}
		}
	}
	if room := len(l.s.table.windows) * slots; live > room || room > 5*4096 {
		t.Errorf("%d entries in %d slots of a table for 4096", live, room)
	}
}

func TestTableFullIsCounted(t *testing.T) {
	l := newLab(t, 9, Options{MaxEntries: 1}, PortOptions{})
	for i := range slots {
		l.teach(i, station(i))
	}
	l.teach(7, station(7))
	l.forward(7, frame(broadcast, station(7)), frame(broadcast, station(7)))
	if got := l.ports[7].counters.TableFull.Value(); got != 3 {
		t.Errorf("3 frames found the table full, counted %d", got)
	}
	l.wait(2 * time.Second) // a tick later the oldest gives way
	l.teach(7, station(7))
	l.reaches(frame(station(7), station(0)), 0, 7)
}
