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

// LoadFirst reads the first word of pair i in one access.
func (a Pairs) LoadFirst(i uint32) uint64 {
	if uint64(i) >= a.n {
		panic(errBounds)
	}
	if watching {
		Block{a.p, pairSize * a.n}.note(pairSize*uint64(i), 8)
	}
	return *(*uint64)(unsafe.Add(a.p, pairSize*uintptr(i)))
}

// LoadSecond reads the second word of pair i in one access.
func (a Pairs) LoadSecond(i uint32) uint64 {
	if uint64(i) >= a.n {
		panic(errBounds)
	}
	if watching {
		Block{a.p, pairSize * a.n}.note(pairSize*uint64(i)+8, 8)
	}
	return *(*uint64)(unsafe.Add(a.p, pairSize*uintptr(i)+8))
}

// AcquireSecond reads the second word of pair i in one access; reads that
// follow in program order are not done before it.
func (a Pairs) AcquireSecond(i uint32) uint64 {
	if uint64(i) >= a.n {
		panic(errBounds)
	}
	if watching {
		Block{a.p, pairSize * a.n}.note(pairSize*uint64(i)+8, 8)
	}
	return atomic.LoadUint64((*uint64)(unsafe.Add(a.p, pairSize*uintptr(i)+8)))
}

// StoreSecond writes the second word of pair i in one access.
func (a Pairs) StoreSecond(i uint32, v uint64) {
	if uint64(i) >= a.n {
		panic(errBounds)
	}
	if watching {
		Block{}.noteStore()
	}
	*(*uint64)(unsafe.Add(a.p, pairSize*uintptr(i)+8)) = v
}
