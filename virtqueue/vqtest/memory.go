package vqtest

import (
	"fmt"
	"math/bits"
)

// minBuffer is the smallest piece that the allocator hands out, bytes.
const minBuffer = 16

// memory hands out pieces of a range of guest addresses. Sizes are rounded up
// to powers of two, and freed pieces are kept by size.
type memory struct {
	next, end uint64
	fence     uint32       // for [sharedmem.Fence]
	free      [64][]uint64 // by the logarithm of the size
}

// sizeClass is the logarithm of the piece that holds n bytes.
func sizeClass(n uint64) int { return bits.Len64(max(n, minBuffer) - 1) }

// alloc finds n bytes, aligned to 16.
func (m *memory) alloc(n uint64) (gpa uint64, err error) {
	class := sizeClass(n)
	if list := m.free[class]; len(list) > 0 {
		m.free[class] = list[:len(list)-1]
		return list[len(list)-1], nil
	}
	if size := uint64(1) << class; m.end-m.next >= size {
		m.next += size
		return m.next - size, nil
	}
	return 0, fmt.Errorf("vqtest: no %d bytes of guest memory are left", n)
}

func (m *memory) release(gpa, n uint64) {
	class := sizeClass(n)
	m.free[class] = append(m.free[class], gpa)
}
