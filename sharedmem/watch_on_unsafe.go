//go:build doubleread

package sharedmem

import (
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"unsafe"
)

// watching makes the accessors of a Block ask for notes.
const watching = true

// Watch finds words of shared memory that are read twice for one decision. It
// notes every load through a Block of the memory that it watches, and changes
// the word behind the load, so that a second one finds another value: whoever
// asks twice decides wrongly, and is reported with both places in the program.
//
// Only the goroutine that is in [Watch.Do] may touch the memory.
type Watch struct {
	areas  []watched
	skip   []Block
	fields []Block
	store  func()
	reads  []watchedRead
	found  []DoubleRead
	total  int
}

type watched struct {
	Block
	name func(off uint64) string
}

// watchedRead is one load.
type watchedRead struct {
	Block
	site    string
	was     []byte // the bytes that the load found
	changed bool   // they are the complement of was now
}

// DoubleRead is a byte that was read twice between two Marks.
type DoubleRead struct {
	Address       uintptr
	Field         string
	First, Second string // call sites, the innermost first
}

func (d DoubleRead) String() string {
	return fmt.Sprintf("%s at %#x is read twice:\n  first  %s\n  second %s", d.Field, d.Address, d.First, d.Second)
}

// current is the Watch inside of Do.
var current *Watch

// Add has the loads from b noted; name says what lies at an offset in it.
func (w *Watch) Add(b Block, name func(off uint64) string) {
	w.areas = append(w.areas, watched{b, name})
}

// Skip leaves out the loads that start in b: words that are polled, where
// each load is a question of its own.
func (w *Watch) Skip(b Block) { w.skip = append(w.skip, b) }

// Narrow has a load that starts with b and reaches further count as one of b:
// the rest of the word is not looked at.
func (w *Watch) Narrow(b Block) { w.fields = append(w.fields, b) }

// BeforeStore has f called before each store of a word through any Block. f may
// panic: the memory is then what a process leaves that is killed there.
func (w *Watch) BeforeStore(f func()) { w.store = f }

// Do runs f and notes its loads. Behind it the memory is as f left it, for the
// other side to use.
func (w *Watch) Do(f func()) {
	for i := range w.reads {
		w.reads[i].change()
	}
	current = w
	defer func() {
		current = nil
		for i := range w.reads {
			w.reads[i].restore()
		}
	}()
	f()
}

// Mark forgets all loads: what comes now is another decision. The words are
// again what they were.
func (w *Watch) Mark() {
	for _, a := range w.areas {
		w.Forget(a.Block)
	}
}

// Forget is Mark for the loads of b.
func (w *Watch) Forget(b Block) {
	w.reads = slices.DeleteFunc(w.reads, func(r watchedRead) bool {
		if !overlap(r.Block, b) {
			return false
		}
		r.restore()
		return true
	})
}

// Found are the double reads so far.
func (w *Watch) Found() []DoubleRead { return w.found }

// Loads is how many loads were noted in all.
func (w *Watch) Loads() int { return w.total }

// note is asked before a load of n bytes at off.
func (b Block) note(off, n uint64) {
	w := current
	if w == nil || n == 0 {
		return
	}
	b = Block{unsafe.Add(b.p, off), n}
	for _, f := range w.fields {
		if f.p == b.p && b.n > f.n {
			b.n = f.n
		}
	}
	if slices.ContainsFunc(w.skip, func(s Block) bool { return overlap(s, Block{b.p, 1}) }) {
		return
	}
	for _, a := range w.areas {
		if overlap(a.Block, b) {
			w.load(a, b)
			return
		}
	}
}

// noteStore is asked before a store.
func (b Block) noteStore() {
	if w := current; w != nil && w.store != nil {
		w.store()
	}
}

// load notes a load from area a. The words of earlier loads change first.
func (w *Watch) load(a watched, b Block) {
	w.total++
	site := callSite()
	for i := range w.reads {
		r := &w.reads[i]
		r.change()
		if overlap(r.Block, b) {
			at := max(r.addr(), b.addr())
			w.found = append(w.found, DoubleRead{at, a.name(uint64(at - a.addr())), r.site, site})
		}
	}
	w.reads = append(w.reads, watchedRead{Block: b, site: site, was: slices.Clone(b.bytes())})
}

func overlap(a, b Block) bool {
	return a.addr() < b.addr()+uintptr(b.n) && b.addr() < a.addr()+uintptr(a.n)
}

func (b Block) bytes() []byte { return unsafe.Slice((*byte)(b.p), b.n) }

// change makes the word another one, unless somebody wrote to it meanwhile.
func (r *watchedRead) change() { r.exchange(false) }

// restore makes it what it was, with the same exception.
func (r *watchedRead) restore() { r.exchange(true) }

func (r *watchedRead) exchange(back bool) {
	if r.changed != back {
		return
	}
	var mask byte
	if back {
		mask = 0xff
	}
	now := r.bytes()
	for i, was := range r.was {
		if now[i] != was^mask {
			return
		}
	}
	for i, was := range r.was {
		now[i] = was ^ mask ^ 0xff
	}
	r.changed = !back
}

// callSite are the innermost callers outside of this package.
func callSite() string {
	var pcs [12]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	var sites []string
	for len(sites) < 4 {
		f, more := frames.Next()
		if name := path.Base(f.Function); !strings.HasPrefix(name, "sharedmem.") {
			sites = append(sites, fmt.Sprintf("%s %s:%d", name, path.Base(f.File), f.Line))
		}
		if !more {
			break
		}
	}
	return strings.Join(sites, " < ")
}
