package sharedmem

import "unsafe"

// Window is one region of a Map as a value, for a caller that looks up many
// addresses and finds most of them in the same region. The zero Window holds
// nothing. Like a Block it does not keep its Map alive.
type Window struct {
	p    unsafe.Pointer // the byte at base
	n    uint64         // bytes
	base uint64         // address of the first byte
}

// Find is the window of n bytes at guest address gpa, empty when n is 0 or a
// byte lies outside the region.
func (w Window) Find(gpa, n uint64) Block {
	if !w.Holds(gpa, n) {
		return Block{}
	}
	return w.At(gpa, n)
}

// Holds reports whether the n bytes at guest address gpa, at least one, lie in
// the region.
func (w Window) Holds(gpa, n uint64) bool {
	// Below base, off wraps and is no less than w.n. n-1 makes 0 the largest
	// length of all.
	off := gpa - w.base
	return off < w.n && n-1 < w.n-off
}

// At is the window of n bytes at guest address gpa. It panics when the region
// does not hold them; behind a Holds of the same the compiler leaves that
// question out, which makes the two the cheapest way in a loop.
func (w Window) At(gpa, n uint64) Block {
	if !w.Holds(gpa, n) {
		panic(errBounds)
	}
	return Block{unsafe.Add(w.p, gpa-w.base), n}
}

// windowAt makes the Window of block for addresses from base on.
func windowAt(base uint64, b Block) Window { return Window{b.p, b.n, base} }
