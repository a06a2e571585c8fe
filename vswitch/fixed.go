package vswitch

import "maps"

// install makes e, a fixed entry, the entry of key. What was learned about the
// key is gone at once. One goroutine at a time calls install and remove.
func (t *table) install(key uint64, e entry) {
	fresh := !t.find(key).isFixed()
	if !t.installInWindow(key, e) {
		t.setOverflow(key, e)
	}
	if fresh && isAny(key) {
		t.anyFilters.Add(1)
	}
}

// installInWindow reports false when key has to go to the overflow.
func (t *table) installInWindow(key uint64, e entry) bool {
	if t.overflows(key) {
		return false
	}
	w := t.window(key)
	w.ownSoon()
	defer w.disown()
	if i := w.slot(key); i >= 0 {
		w.entries[i].Store(uint64(e))
		return true
	}
	best, bestKind := -1, static
	for i := range w.entries {
		if k := entry(w.entries[i].Load()).kind(); k < bestKind {
			best, bestKind = i, k
		}
	}
	if best < 0 {
		return false
	}
	w.put(best, key, e)
	return true
}

// remove takes the fixed entry of key out of the table.
func (t *table) remove(key uint64) {
	if !t.find(key).isFixed() {
		return
	}
	if isAny(key) {
		t.anyFilters.Add(-1)
	}
	if t.overflows(key) {
		t.setOverflow(key, 0)
		return
	}
	w := t.window(key)
	w.ownSoon()
	if i := w.slot(key); i >= 0 {
		w.put(i, 0, 0)
	}
	w.disown()
}

func (t *table) overflows(key uint64) bool {
	o := t.overflow.Load()
	return o != nil && (*o)[key] != 0
}

// setOverflow publishes a copy of the overflow in which key has e, or nothing
// if e is 0.
func (t *table) setOverflow(key uint64, e entry) {
	next := map[uint64]entry{}
	if old := t.overflow.Load(); old != nil {
		maps.Copy(next, *old)
	}
	next[key] = e
	if e == 0 {
		delete(next, key)
	}
	if len(next) == 0 {
		t.overflow.Store(nil)
		return
	}
	t.overflow.Store(&next)
}
