package sharedmem

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
)

// inside is a Block of n bytes with canaries on both sides.
func inside(n int) (b Block, all []byte) {
	all = bytes.Repeat([]byte{0xee}, n+64)
	return BytesBlock(all[32 : 32+n]), all
}

func canaries(t *testing.T, all []byte) {
	t.Helper()
	for i, v := range all {
		if (i < 32 || i >= len(all)-32) && v != 0xee {
			t.Fatalf("byte %d outside the Block was written", i-32)
		}
	}
}

// Every access at every offset near the end either lies inside or panics.
func TestBlockBounds(t *testing.T) {
	accesses := map[string]struct {
		width uint64
		do    func(b Block, off uint32)
	}{
		"Load8":          {1, func(b Block, off uint32) { b.Load8(off) }},
		"Load16":         {2, func(b Block, off uint32) { b.Load16(off) }},
		"Load32":         {4, func(b Block, off uint32) { b.Load32(off) }},
		"Load64":         {8, func(b Block, off uint32) { b.Load64(off) }},
		"Store8":         {1, func(b Block, off uint32) { b.Store8(off, 1) }},
		"Store16":        {2, func(b Block, off uint32) { b.Store16(off, 1) }},
		"Store32":        {4, func(b Block, off uint32) { b.Store32(off, 1) }},
		"Store64":        {8, func(b Block, off uint32) { b.Store64(off, 1) }},
		"LoadAcquire32":  {4, func(b Block, off uint32) { b.LoadAcquire32(off) }},
		"StoreRelease32": {4, func(b Block, off uint32) { b.StoreRelease32(off, 1) }},
		"CopyTo":         {5, func(b Block, off uint32) { b.CopyTo(make([]byte, 5), uint64(off)) }},
		"CopyFrom":       {5, func(b Block, off uint32) { b.CopyFrom(make([]byte, 5), uint64(off)) }},
		"Sub":            {3, func(b Block, off uint32) { b.Sub(uint64(off), 3) }},
	}
	for name, a := range accesses {
		for _, n := range []int{0, 1, 3, 8, 17, 32} {
			b, all := inside(n)
			for _, off := range []uint32{0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 1, 3, 7, 15, 30, 31, 1<<31 - 1, 1 << 31, 1<<32 - 8, 1<<32 - 4, 1<<32 - 1} {
				got := panics(func() { a.do(b, off) })
				fits := uint64(off)+a.width <= uint64(n)
				aligned := off%4 == 0 || (name != "LoadAcquire32" && name != "StoreRelease32")
				var want any
				if !fits {
					want = errBounds
				} else if !aligned {
					want = errAlign
				}
				if got != want {
					t.Errorf("%s at %d of %d bytes: panic %v, want %v", name, off, n, got, want)
				}
			}
			canaries(t, all)
		}
	}
}

func TestBlockWidths(t *testing.T) {
	b, all := inside(32)
	b.Store8(0, 0x11)
	b.Store16(2, 0x2233)
	b.Store32(4, 0x44556677)
	b.Store64(8, 0x8899aabbccddeeff)
	b.StoreRelease32(16, 0x01020304)
	order := binary.NativeEndian
	if b.Load8(0) != 0x11 || order.Uint16(all[34:]) != 0x2233 || order.Uint32(all[36:]) != 0x44556677 ||
		order.Uint64(all[40:]) != 0x8899aabbccddeeff || order.Uint32(all[48:]) != 0x01020304 {
		t.Errorf("stored: % x", all[32:64])
	}
	if b.Load16(2) != 0x2233 || b.Load32(4) != 0x44556677 || b.Load64(8) != 0x8899aabbccddeeff || b.LoadAcquire32(16) != 0x01020304 {
		t.Error("a load does not return what was stored")
	}
	canaries(t, all)
}

func TestBlockCopies(t *testing.T) {
	b, all := inside(16)
	b.CopyFrom([]byte("0123456789abcdef"), 0)
	b.CopyFrom([]byte("XY"), 14)
	b.CopyFrom(nil, 16) // nothing, at the very end
	got := make([]byte, 6)
	b.CopyTo(got, 10)
	if string(got) != "abcdXY" {
		t.Errorf("copied out %q", got)
	}
	for _, off := range []uint64{17, 1 << 32, 1<<64 - 1} {
		if !panicsWith(errBounds, func() { b.CopyTo(nil, off) }) || !panicsWith(errBounds, func() { b.CopyFrom(nil, off) }) {
			t.Errorf("a copy of nothing at %d was allowed", off)
		}
	}
	d, other := inside(9)
	if n := Copy(d, b); n != 9 || string(other[32:41]) != "012345678" {
		t.Errorf("copied %d bytes: %q", n, other[32:41])
	}
	if n := Copy(b, d.Sub(0, 3)); n != 3 {
		t.Errorf("copied %d bytes, want 3", n)
	}
	if n := Copy(Block{}, b) + Copy(b, Block{}); n != 0 {
		t.Errorf("copied %d bytes with an empty Block", n)
	}
	d.Zero()
	if !bytes.Equal(other[32:41], make([]byte, 9)) {
		t.Errorf("after Zero: % x", other[32:41])
	}
	Block{}.Zero()
	canaries(t, all)
	canaries(t, other)
}

func TestBlockSub(t *testing.T) {
	b, _ := inside(16)
	exact := BytesBlock(make([]byte, 16)) // nothing is behind it that a pointer could be in
	if end := exact.Sub(16, 0); end.Len() != 0 {
		t.Errorf("an empty window of %d bytes", end.Len())
	}
	exact.CopyTo(nil, 16)
	exact.CopyFrom(nil, 16)
	if s := b.Sub(4, 8).Sub(8, 0); s.Len() != 0 {
		t.Errorf("an empty window of %d bytes", s.Len())
	}
	for _, c := range []struct{ off, n uint64 }{{0, 17}, {17, 0}, {1, 16}, {1<<64 - 1, 1}, {1, 1<<64 - 1}, {1<<64 - 1, 1<<64 - 1}} {
		if !panicsWith(errBounds, func() { b.Sub(c.off, c.n) }) {
			t.Errorf("window of %d bytes at %d of 16", c.n, c.off)
		}
	}
}

// V35: misaligned rings are told from aligned ones by their real address.
func TestV35_Aligned(t *testing.T) {
	m := mapped(t, "web", Region{Size: page, File: sealed(t, page)})
	for shift := range uint64(17) {
		b := block(t, m, shift, 64)
		for _, align := range []uintptr{1, 2, 4, 16} {
			if got, want := b.Aligned(16, align), (shift+16)%uint64(align) == 0; got != want {
				t.Errorf("address %d, alignment %d: %v", shift+16, align, got)
			}
		}
	}
	if !BytesBlock(nil).Aligned(0, 16) {
		t.Error("an empty Block is not aligned")
	}
}

func TestBlockAllocatesNothing(t *testing.T) {
	b, _ := inside(32)
	buf := make([]byte, 16)
	var word uint32
	if n := testing.AllocsPerRun(100, func() {
		b.Store32(0, b.Load32(4))
		b.StoreRelease32(8, b.LoadAcquire32(12))
		Fence(&word)
		b.CopyTo(buf, 0)
		b.CopyFrom(buf, 16)
		Copy(b.Sub(0, 8), b.Sub(8, 8))
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBlockLoad64(b *testing.B) {
	blk, _ := inside(64)
	var sum uint64
	for i := 0; b.Loop(); i++ {
		sum += blk.Load64(uint32(i & 48))
	}
	_ = sum
}

// panicsWith reports whether f panics with the error want.
func panicsWith(want error, f func()) bool {
	err, ok := panics(f).(error)
	return ok && errors.Is(err, want)
}
