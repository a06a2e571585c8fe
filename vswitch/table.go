package vswitch

import (
	"math/bits"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"
)

// Theory of operation.
//
// The table maps a key (VLAN<<48 | MAC) to an entry. It is an array of windows
// of two cache lines; a key lives in the one window that its keyed hash names,
// or nowhere. So a lookup, hit or miss, reads at most the seven keys of one
// line and one entry of the next, whatever guests have put into the table, and
// its memory is taken once.
//
//	window   line 0  | seq | key 0 | key 1 | key 2 | key 3 | key 4 | key 5 | key 6 |
//	         line 1  | entry 0 | ...                                     entry 6 | - |
//
// Readers take no lock and are held up by nobody, not even by a writer that
// lost its CPU half-way. Writers own a window by making seq odd with a compare
// and swap, change at most one slot, and make seq even again. A slot gets
// another key in three steps: entry 0, the new key, its entry. A reader that
// saw its key before and after it read the entry, with the same seq around
// both, has an entry of that key (or 0, a miss): within one ownership a key
// that has left a slot does not come back.
//
// Nothing scans the table. A learned entry carries the tick in which its
// source was last seen, and its port's tag of that time. It is dead once the
// tick is too long ago or the tag is not the port's current one: forgetting a
// port is one store of another tag, and cannot remove what has moved to
// another port meanwhile. A dead entry is no entry to a lookup and an empty
// slot to the next address that needs one.
//
// A window that is full of live entries gives a new address the slot of the
// port that holds most of the window, that port's longest unseen address
// first. A guest that invents addresses therefore displaces its own.
const (
	slots      = 7   // per window
	ageTicks   = 256 // ticks that a learned entry lives unseen
	readTries  = 64  // before a lookup amid that many changes of its window is a miss
	learnTries = 32  // to own a window, before an address is left to its next frame
	maxEntries = 1 << 24

	defaultEntries = 1 << 16
	defaultAge     = 300 * time.Second
	shortestAge    = time.Second
)

// window is one bucket of the table. seq is odd while a writer owns it.
type window struct {
	seq     atomic.Uint64
	keys    [slots]atomic.Uint64 // 0: the slot is empty
	entries [slots]atomic.Uint64
	_       uint64
}

// slot is where key is, -1 when it is not in the window.
func (w *window) slot(key uint64) int {
	for i := range w.keys {
		if w.keys[i].Load() == key {
			return i
		}
	}
	return -1
}

// read is the entry of slot i, where key was found after seq was read. It
// answers false when that may have changed meanwhile.
func (w *window) read(i int, key, seq uint64) (entry, bool) {
	e := entry(w.entries[i].Load())
	return e, w.keys[i].Load() == key && w.seq.Load() == seq
}

// own makes the caller the window's only writer. It tries a few times and does
// not wait for another writer.
func (w *window) own(tries int) bool {
	for range tries {
		if seq := w.seq.Load(); seq&1 == 0 && w.seq.CompareAndSwap(seq, seq+1) {
			return true
		}
	}
	return false
}

// ownSoon is own for callers that may wait. Owners hold a window for some
// nanoseconds, unless they lose their CPU.
func (w *window) ownSoon() {
	for !w.own(learnTries) {
		runtime.Gosched()
	}
}

func (w *window) disown() { w.seq.Add(1) }

// put gives slot i to key. The order of the stores is what readers rely on.
func (w *window) put(i int, key uint64, e entry) {
	w.entries[i].Store(0)
	w.keys[i].Store(key)
	w.entries[i].Store(uint64(e))
}

// table is the forwarding table. lookup and learn may be called by any number
// of workers at once; install and remove by one goroutine at a time beside
// them.
type table struct {
	windows []window // a power of two of them
	seed    uint64   // keys the hash: guests cannot aim at a window

	// tags holds each port index's current tag for learned entries.
	tags [MaxPorts]atomic.Uint32

	// anyFilters counts the entries of AnyVLAN: without one there is no
	// second probe.
	anyFilters atomic.Int32

	// overflow holds the fixed entries whose windows are full of fixed ones.
	// It is nil but in tables with very many filters; copied on each change.
	overflow atomic.Pointer[map[uint64]entry]
}

// init takes the memory for so many addresses: twice as many slots and more.
func (t *table) init(addresses int) {
	n := 1
	for n*slots < 2*addresses {
		n *= 2
	}
	t.windows, t.seed = make([]window, n), rand.Uint64()
}

// retag gives a port index its next tag: what was learned by the last one is
// dead. One goroutine at a time calls it.
func (t *table) retag(index int) tag {
	next := (t.tagOf(index)&^(MaxPorts-1) | tag(index)).next()
	t.tags[index].Store(uint32(next))
	return next
}

func (t *table) tagOf(index int) tag { return tag(t.tags[index].Load()) }

func (t *table) window(key uint64) *window {
	hi, lo := bits.Mul64(key^t.seed, 0x9e3779b97f4a7c15)
	return &t.windows[(hi^lo)&uint64(len(t.windows)-1)]
}

// live reports whether a learned entry still counts at tick now. It may come
// from a worker whose clock was read a little later, so its tick is looked for
// on both sides of now, modulo 2^32.
func (t *table) live(e entry, now uint32) bool {
	of := e.tag()
	return t.tagOf(of.index()) == of && now-e.low()+ageTicks <= 2*ageTicks
}

// lookup is the entry that a frame with this key goes by at tick now: the
// fixed entry of its VLAN, else that of any VLAN, else a live learned one, else
// 0.
func (t *table) lookup(key uint64, now uint32) entry {
	e := t.find(key)
	if e.isFixed() {
		return e
	}
	if t.anyFilters.Load() != 0 {
		if other := t.find(anyKey(key)); other != 0 {
			return other
		}
	}
	if e != 0 && !t.live(e, now) {
		return 0
	}
	return e
}

// find is the entry under key, dead or alive.
func (t *table) find(key uint64) entry {
	if o := t.overflow.Load(); o != nil {
		if e, ok := (*o)[key]; ok {
			return e
		}
	}
	w := t.window(key)
	for range readTries {
		seq := w.seq.Load() // may be odd: see the theory
		i := w.slot(key)
		if i < 0 {
			return 0
		}
		if e, ok := w.read(i, key, seq); ok {
			return e
		}
	}
	return 0
}

// lesson is what came of learning a source.
type lesson uint8

const (
	known   lesson = iota // before, or left to its next frame because others were writing
	added                 // was unknown or dead
	renewed               // was last seen in an earlier tick
	moved                 // was alive at another port
	foreign               // is fixed to another port
	full                  // found no slot
)

// learn notes at tick now that key was seen as a source of the port with tag
// from. The caller has looked key up and found nothing fixed.
func (t *table) learn(key uint64, from tag, now uint32) lesson {
	w := t.window(key)
	if !w.own(learnTries) {
		return known
	}
	outcome := t.learnIn(w, key, from, now)
	w.disown()
	return outcome
}

func (t *table) learnIn(w *window, key uint64, from tag, now uint32) lesson {
	e := makeEntry(learned, from, now)
	i := w.slot(key)
	if i < 0 {
		if i = t.place(w, from, now); i < 0 {
			return full
		}
		w.put(i, key, e)
		return added
	}
	old := entry(w.entries[i].Load())
	if old.isFixed() {
		return known // since the caller's lookup
	}
	w.entries[i].Store(uint64(e))
	switch {
	case !t.live(old, now):
		return added
	case old.tag() != from:
		return moved
	}
	return renewed
}

// place is the slot of w that a new address of from gets: an empty or dead
// one, else the one that crowded names, else -1.
func (t *table) place(w *window, from tag, now uint32) int {
	var held [slots]entry
	for i := range w.entries {
		e := entry(w.entries[i].Load())
		if e == 0 || !e.isFixed() && !t.live(e, now) {
			return i
		}
		held[i] = e
	}
	return crowded(&held, from, now)
}

// crowded chooses among live entries the one that a new address of from may
// displace: of the port that would hold most of the window, from first among
// equals, the address unseen for longest. Ports with equal shares do not
// displace what was seen in this tick; fixed entries stay. -1: none.
func crowded(held *[slots]entry, from tag, now uint32) int {
	best, bestRank := -1, uint64(0)
	for i, e := range held {
		if e.isFixed() {
			continue
		}
		share := uint64(0)
		for _, other := range held {
			if !other.isFixed() && other.tag() == e.tag() {
				share++
			}
		}
		unseen := uint64(max(int32(now-e.low()), 0))
		own := uint64(0)
		if e.tag() == from {
			share++
			own = 1
		}
		if share == 1 && unseen == 0 {
			continue
		}
		// By share, then own, then unseen, which is at most ageTicks.
		if rank := share<<32 | own<<31 | unseen; rank > bestRank {
			best, bestRank = i, rank
		}
	}
	return best
}
