package virtqueue_test

import (
	"fmt"
	"math"
	"testing"

	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// The entries of the catalogue in docs/security.md that are about chains, for
// both formats. chain_test.go and packed_test.go have what is peculiar to one.

// formats runs f for a split and for a packed ring of size entries, with
// indirect tables of up to 32.
func formats(t *testing.T, size int, f func(t *testing.T, p *vqtest.Pair)) {
	t.Helper()
	for _, packed := range []virtio.Features{0, virtio.RingPacked | virtio.Version1} {
		t.Run(fmt.Sprintf("packed %t", packed != 0), func(t *testing.T) {
			f(t, newPair(t, vqtest.Options{Size: size, MaxChain: 32, Features: packed | virtio.IndirectDesc}))
		})
	}
}

// raw is a chain of these descriptors; in a packed ring the last has the id 3.
func raw(p *vqtest.Pair, list ...rawDesc) {
	chain := make([]vqtest.RawDesc, len(list))
	for i, d := range list {
		chain[i] = vqtest.RawDesc{Addr: d.addr, Len: d.len, Flags: d.flags, Next: d.next}
	}
	p.Driver.PutRaw(chain)
}

// wantChain wants one chain of so many bytes.
func wantChain(t *testing.T, p *vqtest.Pair, readable, writable uint32) {
	t.Helper()
	got := popAll(t, p.Queue, 4)
	if len(got) != 1 || got[0].Readable != readable || got[0].Writable != writable {
		t.Fatalf("%d chains, want one of %d and %d bytes: %+v", len(got), readable, writable, got)
	}
}

// V37, V39: a chain as long as the ring is served; one that leads on from
// there breaks the ring, whatever its buffers hold.
func TestV37_V39_ChainAsLongAsTheRing(t *testing.T) {
	const size = 8
	formats(t, size, func(t *testing.T, p *vqtest.Pair) {
		raw(p, line(size)...)
		wantChain(t, p, size, 0)
	})
	for _, length := range []uint32{0, 1} {
		formats(t, size, func(t *testing.T, p *vqtest.Pair) {
			list := line(size)
			for i := range list {
				list[i].len = length
			}
			list[size-1].flags, list[size-1].next = flagNext, 0
			raw(p, list...)
			wantBroken(t, p, virtqueue.ReasonLoop)
		})
	}
}

// V41: an indirect table is a whole number of descriptors, one at least, as
// many as a chain may have at most.
func TestV41_TableLengths(t *testing.T) {
	for _, length := range []uint32{0, 1, 15, 17, 16*33 - 1, 16 * 33, math.MaxUint32 - 15, math.MaxUint32} {
		formats(t, 8, func(t *testing.T, p *vqtest.Pair) {
			p.Driver.SetTableDesc(tableAt, 0, data, 5, 0, 0)
			raw(p, rawDesc{tableAt, length, flagIndirect, 0})
			wantBroken(t, p, virtqueue.ReasonTable)
		})
	}
	formats(t, 8, func(t *testing.T, p *vqtest.Pair) {
		p.Driver.SetTableDesc(tableAt, 0, data, 5, 0, 0)
		raw(p, rawDesc{tableAt, 16, flagIndirect, 0})
		wantChain(t, p, 5, 0)
	})
}

// V45: the address of an empty buffer means nothing.
func TestV45_EmptyBufferAnywhere(t *testing.T) {
	for _, at := range []uint64{0, vqtest.PairGPA - 1, vqtest.PairGPA + 4<<20, math.MaxUint64} {
		formats(t, 8, func(t *testing.T, p *vqtest.Pair) {
			raw(p, rawDesc{at, 0, flagNext, 1}, rawDesc{data, 3, flagNext, 2}, rawDesc{at, 0, flagWrite | flagNext, 3}, rawDesc{data, 4, flagWrite, 3})
			wantChain(t, p, 3, 4)
		})
		formats(t, 8, func(t *testing.T, p *vqtest.Pair) {
			raw(p, rawDesc{at, 0, flagWrite, 0})
			wantChain(t, p, 0, 0)
		})
	}
}

// V47, V48: a length is never more than the memory that it is about, and an
// address does not wrap.
func TestV47_V48_LongBuffers(t *testing.T) {
	for _, d := range []rawDesc{
		{data, math.MaxUint32, 0, 0},
		{data, math.MaxUint32, flagWrite, 0},
		{vqtest.PairGPA, 4<<20 + 1, flagWrite, 0},
		{math.MaxUint64 - 7, 16, 0, 0},
		{math.MaxUint64, 1, 0, 0},
	} {
		formats(t, 8, func(t *testing.T, p *vqtest.Pair) {
			raw(p, d)
			wantBroken(t, p, virtqueue.ReasonUnmapped)
		})
	}
	formats(t, 8, func(t *testing.T, p *vqtest.Pair) {
		raw(p, rawDesc{vqtest.PairGPA, 4 << 20, 0, 0})
		wantChain(t, p, 4<<20, 0)
	})
}

// V49: what is to be read stands before what is to be written.
func TestV49_DirectionInAChain(t *testing.T) {
	for _, length := range []uint32{0, 1} {
		formats(t, 8, func(t *testing.T, p *vqtest.Pair) {
			raw(p, rawDesc{data, 1, flagWrite | flagNext, 1}, rawDesc{data, length, 0, 3})
			wantBroken(t, p, virtqueue.ReasonDirection)
		})
	}
}

// V56: nothing is divided by a size of 0; it is refused.
func TestV56_ZeroSizes(t *testing.T) {
	formats(t, 8, func(t *testing.T, p *vqtest.Pair) {
		c, err := p.Config()
		if err != nil {
			t.Fatal(err)
		}
		c.Size = 0
		for _, empty := range []bool{false, true} {
			if empty {
				c.Desc = c.Desc.Sub(0, 0)
			}
			if q, err := virtqueue.New(c, p.Mem); err == nil {
				q.Close()
				t.Error("a ring of size 0 was made")
			}
		}
		if n, err := p.Queue.Pop(nil); n != 0 || err != nil {
			t.Errorf("Pop into no room: %d, %v", n, err)
		}
		if p.Queue.Push(nil) {
			t.Error("Push of nothing asks for a call")
		}
	})
}

// V59: INDIRECT with NEXT ends the ring at once; nothing is tried again
// (CVE-2026-16457).
func TestV59_IndirectWithNext(t *testing.T) {
	formats(t, 8, func(t *testing.T, p *vqtest.Pair) {
		p.Driver.SetTableDesc(tableAt, 0, data, 5, 0, 0)
		raw(p, rawDesc{tableAt, 16, flagIndirect | flagNext, 1}, rawDesc{data, 1, 0, 3})
		wantBroken(t, p, virtqueue.ReasonIndirectNext)
	})
}
