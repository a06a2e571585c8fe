package sharedmem

import (
	"sync/atomic"
	"unsafe"
)

// Pairs is a Block as an array of pairs of 64-bit words: a table of
// descriptors. What is true of a Block is true of it; an access costs one
// check, because the alignment was checked when it was made.
type Pairs struct {
	p unsafe.Pointer
	n uint64 // pairs
}

const pairSize = 16

// Pairs is the Block as pairs; bytes behind the last whole pair are left out.
// It panics when the Block is not aligned to 8 bytes.
func (b Block) Pairs() Pairs {
	if uintptr(b.p)&7 != 0 {
		panic(errAlign)
	}
	return Pairs{b.p, b.n / pairSize}
}

// Len is how many pairs there are. A loop up to it pays for no check.
func (a Pairs) Len() uint64 { return a.n }

// Run is the n pairs from pair i on. It panics when one of them is not in a.
func (a Pairs) Run(i uint32, n int) Pairs {
	if uint64(i) > a.n || uint64(n) > a.n-uint64(i) {
		panic(errBounds)
	}
	if n == 0 {
		i = 0 // see Block.Sub
	}
	return Pairs{unsafe.Add(a.p, pairSize*uintptr(i)), uint64(n)}
}

// LoadFirst reads the first word of pair i in one access.
func (a Pairs) LoadFirst(i uint64) uint64 {
	if i >= a.n {
		panic(errBounds)
	}
	if watching {
		Block{a.p, pairSize * a.n}.note(pairSize*i, 8)
	}
	return *(*uint64)(unsafe.Add(a.p, pairSize*i))
}

// LoadSecond reads the second word of pair i in one access.
func (a Pairs) LoadSecond(i uint64) uint64 {
	if i >= a.n {
		panic(errBounds)
	}
	if watching {
		Block{a.p, pairSize * a.n}.note(pairSize*i+8, 8)
	}
	return *(*uint64)(unsafe.Add(a.p, pairSize*i+8))
}

// AcquireSecond reads the second word of pair i in one access; reads that
// follow in program order are not done before it.
func (a Pairs) AcquireSecond(i uint64) uint64 {
	if i >= a.n {
		panic(errBounds)
	}
	if watching {
		Block{a.p, pairSize * a.n}.note(pairSize*i+8, 8)
	}
	return atomic.LoadUint64((*uint64)(unsafe.Add(a.p, pairSize*i+8)))
}

// StoreSecond writes the second word of pair i in one access.
func (a Pairs) StoreSecond(i, v uint64) {
	if i >= a.n {
		panic(errBounds)
	}
	if watching {
		Block{}.noteStore()
	}
	*(*uint64)(unsafe.Add(a.p, pairSize*i+8)) = v
}
