package vswitch

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

func TestCrowdedWindow(t *testing.T) {
	held := func(es ...entry) *[slots]entry { return (*[slots]entry)(es) }
	at := func(port tag, seen uint32) entry { return makeEntry(learned, port, seen) }
	fixed := makeEntry(filter, 1, 0)
	const now = 100
	for _, c := range []struct {
		name string
		held *[slots]entry
		from tag
		want int
	}{
		{"the crowding port loses its oldest", held(at(1, 99), at(2, 50), at(2, 40), at(2, 60), at(3, 1), at(4, 99), at(5, 99)), 6, 2},
		{"a newcomer of the crowding port too", held(at(1, 99), at(2, 50), at(2, 40), at(2, 60), at(3, 1), at(4, 99), at(5, 99)), 2, 2},
		{"equal shares: its own first", held(at(1, 99), at(2, 50), at(2, 40), at(2, 60), at(3, 99), at(3, 98), at(5, 1)), 3, 5},
		{"all different: the oldest", held(at(1, 99), at(2, 50), at(3, 40), at(4, 60), at(5, 99), at(6, 98), at(7, 70)), 8, 2},
		{"all different and all seen now", held(at(1, now), at(2, now), at(3, now), at(4, now), at(5, now), at(6, now), at(7, now)), 8, -1},
		{"its own, even if seen now", held(at(1, now), at(2, now), at(3, now), at(4, now), at(5, now), at(6, now), at(7, now)), 7, 6},
		{"fixed entries stay", held(fixed, fixed, fixed, fixed, fixed, at(6, 99), fixed), 8, 5},
		{"only fixed entries", held(fixed, fixed, fixed, fixed, fixed, fixed, fixed), 8, -1},
		{"a clock that is ahead is not old", held(at(1, now+1), at(2, now+1), at(3, now+1), at(4, now+1), at(5, now+1), at(6, now+1), at(7, 99)), 8, 6},
	} {
		if got := crowded(c.held, c.from, now); got != c.want {
			t.Errorf("%s: slot %d, want %d", c.name, got, c.want)
		}
	}
}

// Readers and writers of one crowded window at once: what a reader gets for a
// key is an entry of that key. Neighbouring keys belong to different ports, so
// an entry that got under another key shows; there are more keys of each port
// than slots, so that they displace each other all the time.
func TestTableUnderConcurrentChange(t *testing.T) {
	const workers, keys, ports = 4, 32, 4
	const fixedKey = 0x02ffffffffff
	tb := newTestTable(1, ports)
	tb.install(fixedKey, makeEntry(filter, tb.tagOf(0), 1))
	var hits atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 0))
			// Longer if the installer lost its CPU while it owned the window.
			for n := 0; n < 30_000 || hits.Load() == 0 && n < 100_000_000; n++ {
				i := rng.IntN(keys)
				if rng.IntN(2) == 0 {
					tb.learn(station(i), tb.tagOf(i%ports), uint32(rng.IntN(3)))
					continue
				}
				e := tb.lookup(station(i), 2)
				if e != 0 {
					hits.Add(1)
				}
				if e != 0 && e.tag().index() != i%ports {
					t.Errorf("a key of port %d has an entry of port %d", i%ports, e.tag().index())
				}
				if e := tb.lookup(fixedKey, 2); !e.isFixed() || e.low() != 1 && e.low() != 2 {
					t.Errorf("the fixed entry is %#x", e)
				}
			}
		})
	}
	wg.Go(func() {
		rng := rand.New(rand.NewPCG(workers, 0))
		for i := range 5_000 {
			key := 0x02eeeeeeee00 + uint64(rng.IntN(4))
			tb.install(key, makeEntry(filter, tb.tagOf(1), 1))
			tb.install(fixedKey, makeEntry(filter, tb.tagOf(0), 1+uint32(i%2)))
			tb.remove(key)
		}
	})
	wg.Wait()
	if hits.Load() == 0 {
		t.Error("nothing learned was ever found; the test tests nothing")
	}
}

// The moments at which a slot can change between a reader's steps.
func TestReadNoticesAChange(t *testing.T) {
	const key, other = 0x020000000001, 0x020000000002
	mine, its := makeEntry(learned, 1<<indexBits, 1), makeEntry(learned, 2<<indexBits, 1)
	for _, c := range []struct {
		name   string
		owned  bool // by a writer when the reader begins
		change func(w *window)
		want   bool
	}{
		{"nothing", false, func(*window) {}, true},
		{"nothing, under a writer that stands still", true, func(*window) {}, true},
		{"another key", false, func(w *window) { w.own(1); w.put(0, other, its); w.disown() }, false},
		{"another key, by a writer under way", true, func(w *window) { w.put(0, other, its) }, false},
		{"another key and back", false, func(w *window) {
			w.own(1)
			w.put(0, other, its)
			w.disown()
			w.own(1)
			w.put(0, key, mine)
			w.disown()
		}, false},
		{"the entry, by a writer under way", true, func(w *window) { w.entries[0].Store(uint64(its)) }, true},
	} {
		w := new(window)
		w.put(0, key, mine)
		if c.owned {
			w.own(1)
		}
		seq := w.seq.Load()
		c.change(w)
		if _, ok := w.read(0, key, seq); ok != c.want {
			t.Errorf("%s changed: read answers %v", c.name, ok)
		}
	}
}

// A filter that is set between a worker's lookup and its learning stays.
func TestLearningDoesNotReplaceAFreshFilter(t *testing.T) {
	tb := newTestTable(1, 2)
	for _, k := range []kind{static, filter} {
		e := makeEntry(k, tb.tagOf(0), 7)
		tb.install(station(1), e)
		if got := tb.learn(station(1), tb.tagOf(1), 1); got != known {
			t.Errorf("learning came to %d", got)
		}
		if got := tb.lookup(station(1), 1); got != e {
			t.Errorf("the entry is %#x, want %#x", got, e)
		}
	}
}

// Fixed entries take the slots of learned ones, and only then overflow.
func TestFixedEntriesTakeTheirPlace(t *testing.T) {
	tb := newTestTable(1, 1)
	for i := range slots {
		tb.learn(station(i), tb.tagOf(0), 1)
	}
	for i := range slots {
		tb.install(station(100+i), makeEntry(filter, tb.tagOf(0), 7))
		if o := tb.overflow.Load(); o != nil {
			t.Errorf("fixed entry %d of %d went to the overflow", i+1, slots)
		}
	}
	tb.install(station(200), makeEntry(filter, tb.tagOf(0), 7))
	if o := tb.overflow.Load(); o == nil || len(*o) != 1 {
		t.Error("the entry that has no slot is not in the overflow")
	}
	for i := range slots {
		if e := tb.lookup(station(100+i), 1); !e.isFixed() {
			t.Errorf("fixed entry %d is gone", i)
		}
	}
}

// A writer that loses its CPU in the middle holds up nobody.
func TestTableWithAWriterThatStandsStill(t *testing.T) {
	tb := newTestTable(1, 2)
	tb.learn(station(1), tb.tagOf(0), 1)
	w := tb.window(station(1))
	if !w.own(1) {
		t.Fatal("the window is owned")
	}
	if e := tb.lookup(station(1), 1); e.tag() != tb.tagOf(0) {
		t.Errorf("a lookup gives %#x", e)
	}
	if got := tb.learn(station(2), tb.tagOf(1), 1); got != known {
		t.Errorf("learning came to %d, want to be left to the next frame", got)
	}
	i := w.slot(station(1)) // half-way through giving the slot away
	w.entries[i].Store(0)
	if e := tb.lookup(station(1), 1); e != 0 {
		t.Errorf("a lookup gives %#x, want nothing", e)
	}
	w.keys[i].Store(station(3))
	if e := tb.lookup(station(3), 1); e != 0 {
		t.Errorf("a lookup gives %#x, want nothing yet", e)
	}
	w.entries[i].Store(uint64(makeEntry(learned, tb.tagOf(1), 1)))
	if e := tb.lookup(station(3), 1); e.tag() != tb.tagOf(1) {
		t.Errorf("a lookup gives %#x", e)
	}
	w.disown()
	if got := tb.learn(station(2), tb.tagOf(1), 1); got != added {
		t.Errorf("learning came to %d, want added", got)
	}
}
