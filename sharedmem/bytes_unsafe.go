package sharedmem

import "unsafe"

// Bytes is an allocation of the host's arena as a slice: memory that no guest
// can write. It is nil for guest memory, over which no slice leaves this
// package. It is good until the allocation is freed.
func (l *Allocation) Bytes() []byte {
	a := l.AllocationHandle.owner
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, host := a.provider.(*hostProvider); !host || len(l.VA) != 1 {
		return nil
	}
	return unsafe.Slice((*byte)(l.VA[0].p), l.VA[0].n)
}
