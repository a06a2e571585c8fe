package sharedmem

import (
	"errors"
	"sync/atomic"
	"unsafe"
)

// Theory of operation.
//
// The peer writes guest memory while we read it, so a read is a question that
// may be asked once: copy a word into a local, decide on the local. A Block is
// the only way to such memory. It carries its bounds; every accessor checks
// them with one compare that cannot overflow (offsets are uint32, the length
// is uint64) and panics with a ready value when our own code errs: a guest
// cannot reach that panic, because addresses from a guest become Blocks only
// through [Map.Block], [Map.Append] and [Window.Find], which answer instead of
// panicking, and through [Window.At] behind a [Window.Holds] of the same.
//
// Go has no 16-bit atomics and its race detector does not see mapped memory.
// The rules that follow (docs/memory-model.md gives the reasons):
//
//   - A plain aligned 16, 32 or 64-bit access is one instruction on amd64 and
//     arm64 and does not tear. It orders nothing on arm64.
//   - LoadAcquire32 is MOVL on amd64, LDARW on arm64: later reads stay behind it.
//   - StoreRelease32 is XCHGL on amd64 (a full fence), STLRW on arm64: earlier
//     writes stay before it. On both machines a LoadAcquire32 that follows it
//     in program order is not done before it (amd64: XCHG; arm64: STLR then
//     LDAR are ordered), which is the store-then-load edge of notification
//     suppression.
//   - Fence does the same where the store was a plain 16-bit one.

// errBounds is the value of the panic for an access outside a Block. It is a
// defect of the caller, never of the guest.
var errBounds = errors.New("sharedmem: access outside its Block")

// errAlign is the value of the panic for an atomic access that is not aligned.
var errAlign = errors.New("sharedmem: unaligned atomic access")

// Block is a bounded window on memory that somebody else may write at any
// time. It is a value: copying it copies the window, not the bytes. The zero
// Block is empty. A Block does not keep its Map alive: whoever holds Blocks
// holds a reference to the Map.
//
// Reads and writes through one Block from several goroutines are as safe as
// the machine's plain accesses; ordering is the caller's, by LoadAcquire32,
// StoreRelease32 and Fence.
type Block struct {
	p unsafe.Pointer
	n uint64
}

// blockAt makes the Block of n bytes at p.
func blockAt(p unsafe.Pointer, n uint64) Block { return Block{p, n} }

// BytesBlock is a Block over private memory of this process: host buffers and
// tests. The slice stays alive as long as the Block.
func BytesBlock(b []byte) Block {
	return Block{unsafe.Pointer(unsafe.SliceData(b)), uint64(len(b))}
}

// Len is the length in bytes.
func (b Block) Len() uint64 { return b.n }

// addr is the virtual address of the first byte.
func (b Block) addr() uintptr { return uintptr(b.p) }

// Aligned reports whether the byte at off lies on a multiple of align, a power
// of two.
func (b Block) Aligned(off uint32, align uintptr) bool {
	return (uintptr(b.p)+uintptr(off))&(align-1) == 0
}

// Sub is the window of n bytes at off. It panics when the window would leave b.
func (b Block) Sub(off, n uint64) Block {
	if off > b.n || n > b.n-off {
		panic(errBounds)
	}
	if n == 0 {
		off = 0 // a pointer behind b could be one into other memory of the Go heap
	}
	return Block{unsafe.Add(b.p, off), n}
}

// Load8 reads one byte.
func (b Block) Load8(off uint32) uint8 {
	if uint64(off)+1 > b.n {
		panic(errBounds)
	}
	if watching {
		b.note(uint64(off), 1)
	}
	return *(*uint8)(unsafe.Add(b.p, off))
}

// Load16 reads a 16-bit word in one access when off is even, in machine order.
func (b Block) Load16(off uint32) uint16 {
	if uint64(off)+2 > b.n {
		panic(errBounds)
	}
	if watching {
		b.note(uint64(off), 2)
	}
	return *(*uint16)(unsafe.Add(b.p, off))
}

// Load32 reads a 32-bit word in one access when aligned, in machine order.
func (b Block) Load32(off uint32) uint32 {
	if uint64(off)+4 > b.n {
		panic(errBounds)
	}
	if watching {
		b.note(uint64(off), 4)
	}
	return *(*uint32)(unsafe.Add(b.p, off))
}

// Load64 reads a 64-bit word in one access when aligned, in machine order.
func (b Block) Load64(off uint32) uint64 {
	if uint64(off)+8 > b.n {
		panic(errBounds)
	}
	if watching {
		b.note(uint64(off), 8)
	}
	return *(*uint64)(unsafe.Add(b.p, off))
}

// Store8 writes one byte.
func (b Block) Store8(off uint32, v uint8) {
	if uint64(off)+1 > b.n {
		panic(errBounds)
	}
	if watching {
		b.noteStore()
	}
	*(*uint8)(unsafe.Add(b.p, off)) = v
}

// Store16 writes a 16-bit word in one access when off is even.
func (b Block) Store16(off uint32, v uint16) {
	if uint64(off)+2 > b.n {
		panic(errBounds)
	}
	if watching {
		b.noteStore()
	}
	*(*uint16)(unsafe.Add(b.p, off)) = v
}

// Store32 writes a 32-bit word in one access when aligned.
func (b Block) Store32(off, v uint32) {
	if uint64(off)+4 > b.n {
		panic(errBounds)
	}
	if watching {
		b.noteStore()
	}
	*(*uint32)(unsafe.Add(b.p, off)) = v
}

// Store64 writes a 64-bit word in one access when aligned.
func (b Block) Store64(off uint32, v uint64) {
	if uint64(off)+8 > b.n {
		panic(errBounds)
	}
	if watching {
		b.noteStore()
	}
	*(*uint64)(unsafe.Add(b.p, off)) = v
}

// LoadAcquire32 reads an aligned 32-bit word; reads that follow in program
// order are not done before it.
func (b Block) LoadAcquire32(off uint32) uint32 {
	if uint64(off)+4 > b.n {
		panic(errBounds)
	}
	p := unsafe.Add(b.p, off)
	if uintptr(p)&3 != 0 {
		panic(errAlign)
	}
	if watching {
		b.note(uint64(off), 4)
	}
	return atomic.LoadUint32((*uint32)(p))
}

// StoreRelease32 writes an aligned 32-bit word after all writes that precede
// it in program order; a LoadAcquire32 that follows is not done before it.
func (b Block) StoreRelease32(off, v uint32) {
	if uint64(off)+4 > b.n {
		panic(errBounds)
	}
	p := unsafe.Add(b.p, off)
	if uintptr(p)&3 != 0 {
		panic(errAlign)
	}
	if watching {
		b.noteStore()
	}
	atomic.StoreUint32((*uint32)(p), v)
}

// Or32 sets the bits of v in an aligned 32-bit word, atomically, after all writes
// that precede it in program order. On the machines that this runs on, bit n
// of the word is bit n&7 of its byte n>>3.
func (b Block) Or32(off, v uint32) {
	if uint64(off)+4 > b.n {
		panic(errBounds)
	}
	p := unsafe.Add(b.p, off)
	if uintptr(p)&3 != 0 {
		panic(errAlign)
	}
	atomic.OrUint32((*uint32)(p), v)
}

// Swap32 replaces an aligned 32-bit word atomically and answers what it was.
func (b Block) Swap32(off, v uint32) uint32 {
	if uint64(off)+4 > b.n {
		panic(errBounds)
	}
	p := unsafe.Add(b.p, off)
	if uintptr(p)&3 != 0 {
		panic(errAlign)
	}
	return atomic.SwapUint32((*uint32)(p), v)
}

// Fence orders plain stores made through any Block before it against a
// LoadAcquire32 after it. word is private to the caller, so that fences of
// different workers do not share a cache line.
func Fence(word *uint32) { atomic.StoreUint32(word, 0) }

// CopyTo copies from the Block at off into dst and panics when dst reaches
// past the end. The bytes may be changed by the peer while they are copied:
// treat the result as chosen by it, byte for byte.
func (b Block) CopyTo(dst []byte, off uint64) {
	if off > b.n || uint64(len(dst)) > b.n-off {
		panic(errBounds)
	}
	if len(dst) == 0 {
		return // see Sub
	}
	if watching {
		b.note(off, uint64(len(dst)))
	}
	copy(dst, unsafe.Slice((*byte)(unsafe.Add(b.p, off)), len(dst)))
}

// CopyFrom copies src into the Block at off and panics when src reaches past
// the end.
func (b Block) CopyFrom(src []byte, off uint64) {
	if off > b.n || uint64(len(src)) > b.n-off {
		panic(errBounds)
	}
	if len(src) == 0 {
		return // see Sub
	}
	copy(unsafe.Slice((*byte)(unsafe.Add(b.p, off)), len(src)), src)
}

// CopyTo64 is CopyTo for 64 bytes, without a call: the head of a packet. dst is
// private memory.
func (b Block) CopyTo64(dst *[64]byte, off uint64) {
	if off > b.n || b.n-off < 64 {
		panic(errBounds)
	}
	if watching {
		b.note(off, 64)
	}
	copy64(unsafe.Pointer(dst), unsafe.Add(b.p, off))
}

// CopyFrom64 is CopyFrom for 64 bytes of private memory, without a call.
func (b Block) CopyFrom64(src *[64]byte, off uint64) {
	if off > b.n || b.n-off < 64 {
		panic(errBounds)
	}
	copy64(unsafe.Add(b.p, off), unsafe.Pointer(src))
}

// copy64 copies 64 bytes between places that do not overlap, each byte once. Of
// two arrays, which might overlap, the compiler would make a call.
func copy64(dst, src unsafe.Pointer) { *(*eightWords)(dst) = *(*eightWords)(src) }

type eightWords struct{ _, _, _, _, _, _, _, _ uint64 }

// Copy copies min(dst.Len(), src.Len()) bytes from src to dst and returns how
// many. The Blocks may lie in different guests' memory; this is the one copy
// of a frame's payload.
func Copy(dst, src Block) uint64 {
	n := min(dst.n, src.n)
	if watching {
		src.note(0, n)
	}
	copy(unsafe.Slice((*byte)(dst.p), n), unsafe.Slice((*byte)(src.p), n))
	return n
}

// CopyRange copies the n bytes of src at from to dst at to, as Copy does, and
// panics when they reach past the end of either.
func CopyRange(dst Block, to uint64, src Block, from, n uint64) {
	if to > dst.n || n > dst.n-to || from > src.n || n > src.n-from {
		panic(errBounds)
	}
	if n == 0 {
		return // see Sub
	}
	if watching {
		src.note(from, n)
	}
	copy(unsafe.Slice((*byte)(unsafe.Add(dst.p, to)), n), unsafe.Slice((*byte)(unsafe.Add(src.p, from)), n))
}

// Zero clears every byte of the Block.
func (b Block) Zero() { clear(unsafe.Slice((*byte)(b.p), b.n)) }
