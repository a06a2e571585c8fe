package nbl

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

func newHeadroom(t testing.TB, rooms int, size uint32) *Headroom {
	t.Helper()
	h, err := NewHeadroom(HeadroomParameters{Tag: "test", Rooms: rooms, Size: size, Memory: arena(t, 1<<20)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// content is the frame of b, read through its MDLs.
func content(b *Buffer) []byte {
	out := make([]byte, b.Length)
	c := b.At(0)
	return out[:c.Read(out)]
}

// randomChain is data cut into MDLs, some of them empty.
func randomChain(rng *rand.Rand, data []byte) []MDL {
	var mdls []MDL
	for len(data) > 0 {
		n := min(rng.IntN(9), len(data))
		mdls = append(mdls, bytesMDL(data[:n:n]))
		data = data[n:]
	}
	return mdls
}

// model is a Buffer as a slice of bytes: what it holds, and how much room was
// in front of it when it was last known.
type model struct {
	frame []byte
	front int // bytes before the frame
	back  int // bytes behind it
}

// Any sequence of retreats, advances, writes, views and copies gives what the
// same sequence gives on a slice of bytes.
func TestClaim67_FlatModel(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 67))
		h := newHeadroom(t, 6, 64)
		memory := make([]byte, 1+rng.IntN(60))
		for i := range memory {
			memory[i] = byte(rng.Uint32())
		}
		off := rng.IntN(len(memory))
		n := rng.IntN(len(memory) - off + 1)
		var b Buffer
		if err := b.SetChain(randomChain(rng, memory), uint32(off), uint32(n)); err != nil {
			t.Fatal(err)
		}
		m := &model{frame: bytes.Clone(memory[off : off+n]), front: off, back: len(memory) - off - n}
		for step := range 60 {
			m.step(t, rng, &b, h)
			if err := b.Check(); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
			if got := content(&b); !bytes.Equal(got, m.frame) {
				t.Fatalf("seed %d step %d: the frame is %x, want %x", seed, step, got, m.frame)
			}
			if int(b.Offset) != m.front || b.Capacity() != uint64(m.front+len(m.frame)+m.back) {
				t.Fatalf("seed %d step %d: offset %d of %d bytes; want %d of %d", seed, step, b.Offset, b.Capacity(), m.front, m.front+len(m.frame)+m.back)
			}
			if i, at := b.Current(); i < len(b.MDLs) && b.Length > 0 && b.MDLs[i].Load8(uint32(at)) != m.frame[0] {
				t.Fatalf("seed %d step %d: the frame does not begin in MDL %d at %d", seed, step, i, at)
			}
		}
		h.takeBack(&b, true)
		if h.Out() != 0 {
			t.Fatalf("seed %d: %d MDLs are still out", seed, h.Out())
		}
	}
}

func (m *model) step(t *testing.T, rng *rand.Rand, b *Buffer, h *Headroom) {
	t.Helper()
	switch rng.IntN(6) {
	case 0, 1:
		m.retreat(t, rng, b, h)
	case 2:
		m.advance(t, rng, b, h)
	case 3:
		m.view(t, rng, b)
	case 4:
		m.copyOut(t, rng, b)
	case 5:
		m.copyIn(t, rng, b)
	}
}

func (m *model) retreat(t *testing.T, rng *rand.Rand, b *Buffer, h *Headroom) {
	t.Helper()
	delta, backfill := rng.IntN(30), rng.IntN(40)
	free, before := h.Out() < len(h.rooms), *b
	err := b.Retreat(uint32(delta), uint32(backfill), h)
	switch fits := delta <= m.front; {
	case fits && err == nil:
		m.front -= delta
	case !fits && free && delta+backfill <= 64 && err == nil:
		m.front += backfill
		if b.MDLs[0].Len() != uint64(delta+backfill) {
			t.Fatalf("retreat by %d with backfill %d made an MDL of %d bytes", delta, backfill, b.MDLs[0].Len())
		}
	case !fits && (!free || delta+backfill > 64) && errors.Is(err, ErrResources):
		if b.Offset != before.Offset || b.Length != before.Length || len(b.MDLs) != len(before.MDLs) {
			t.Fatal("a failed retreat changed the buffer")
		}
		return
	default:
		t.Fatalf("retreat by %d where %d are free, and rooms %v: %v", delta, m.front, free, err)
	}
	header := make([]byte, delta)
	for i := range header {
		header[i] = byte(rng.Uint32())
	}
	c := b.At(0)
	c.Write(header)
	m.frame = append(header, m.frame...)
}

func (m *model) advance(t *testing.T, rng *rand.Rand, b *Buffer, h *Headroom) {
	t.Helper()
	delta := rng.IntN(len(m.frame) + 5)
	to, out, capacity := h, h.Out(), b.Capacity()
	if rng.IntN(2) == 0 {
		to = nil
	}
	err := b.Advance(uint32(delta), to)
	if delta > len(m.frame) {
		if !errors.Is(err, ErrParameter) {
			t.Fatalf("advance by %d of %d bytes: %v", delta, len(m.frame), err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if to == nil && (h.Out() != out || b.Capacity() != capacity) {
		t.Fatal("an advance that should free nothing did")
	}
	m.front += delta - int(capacity-b.Capacity())
	m.frame = m.frame[delta:]
}

func (m *model) view(t *testing.T, rng *rand.Rand, b *Buffer) {
	t.Helper()
	n := rng.IntN(len(m.frame) + 3)
	var storage []byte
	if rng.IntN(3) > 0 {
		storage = make([]byte, n)
	}
	v, ok := b.Data(uint32(n), storage, 1, 0)
	i, at := b.Current()
	contiguous := n == 0 && i < len(b.MDLs) || i < len(b.MDLs) && b.MDLs[i].Len()-at >= uint64(n)
	if want := n <= len(m.frame) && (contiguous || storage != nil || n == 0); ok != want {
		t.Fatalf("view of %d of %d bytes, contiguous %v, storage %v: %v", n, len(m.frame), contiguous, storage != nil, ok)
	}
	if ok {
		got := make([]byte, n)
		v.CopyTo(got, 0)
		if !bytes.Equal(got, m.frame[:n]) || v.Len() != uint64(n) {
			t.Fatalf("view of %d bytes is %x, want %x", n, got, m.frame[:n])
		}
	}
}

func (m *model) copyOut(t *testing.T, rng *rand.Rand, b *Buffer) {
	t.Helper()
	memory := make([]byte, rng.IntN(80))
	dst := Buffer{MDLs: randomChain(rng, memory), Offset: uint32(rng.IntN(10))}
	dstOff, srcOff, n := rng.IntN(20), rng.IntN(len(m.frame)+3), rng.IntN(90)
	got := CopyBuffer(&dst, uint32(dstOff), b, uint32(srcOff), uint32(n))
	at := int(dst.Offset) + dstOff
	want := max(0, min(n, len(m.frame)-srcOff, len(memory)-at))
	if int(got) != want || dst.Length != 0 {
		t.Fatalf("copied %d bytes, want %d", got, want)
	}
	expected := make([]byte, len(memory))
	if want > 0 {
		copy(expected[at:at+want], m.frame[srcOff:])
	}
	if !bytes.Equal(memory, expected) {
		t.Fatalf("copied %x, want %x", memory, expected)
	}
}

func (m *model) copyIn(t *testing.T, rng *rand.Rand, b *Buffer) {
	t.Helper()
	data := make([]byte, rng.IntN(50))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	src := Buffer{MDLs: randomChain(rng, data), Length: uint32(len(data))}
	at := rng.IntN(len(m.frame) + 1)
	n := min(rng.IntN(60), len(m.frame)-at)
	got := CopyBuffer(b, uint32(at), &src, 0, uint32(n))
	if want := min(n, len(data)); int(got) != want {
		t.Fatalf("copied %d bytes, want %d", got, want)
	}
	copy(m.frame[at:at+int(got)], data)
}

func TestDataAlignment(t *testing.T) {
	memory := make([]byte, 64)
	whole := bytesMDL(memory)
	base := uint64(0)
	for !whole.Aligned(uint32(base), 16) {
		base++
	}
	storage := make([]byte, 8)
	for shift := range uint32(16) {
		b := Buffer{MDLs: []MDL{whole}, Offset: uint32(base) + shift, Length: 8}
		for _, multiple := range []uint32{1, 2, 4, 8, 16} {
			for offset := range multiple {
				_, direct := b.Data(8, nil, multiple, offset)
				if direct != (shift%multiple == offset) {
					t.Errorf("address %d mod 16, wanted %d mod %d: direct %v", shift, offset, multiple, direct)
				}
				if v, ok := b.Data(8, storage, multiple, offset); !ok || !direct && v != bytesMDL(storage) {
					t.Errorf("address %d mod 16, wanted %d mod %d: not copied", shift, offset, multiple)
				}
			}
		}
	}
}

func TestSetChainRefuses(t *testing.T) {
	b := Buffer{MDLs: pieces(make([]byte, 10), 4), Offset: 3, Length: 5}
	for _, c := range [][2]uint32{{0, 11}, {11, 0}, {5, 6}, {math.MaxUint32, math.MaxUint32}} {
		if err := b.SetChain(b.MDLs, c[0], c[1]); !errors.Is(err, ErrParameter) || b.Offset != 3 || b.Length != 5 {
			t.Errorf("%d bytes at %d of 10: %v, buffer %d at %d", c[1], c[0], err, b.Length, b.Offset)
		}
	}
	if err := (&Buffer{Length: 1, Offset: 5, MDLs: b.MDLs}).Retreat(math.MaxUint32, 0, nil); !errors.Is(err, ErrParameter) {
		t.Errorf("a frame longer than a length can say: %v", err)
	}
}

// Headers are put on and taken off without allocating, however long the chain.
func TestRetreatDoesNotAllocate(t *testing.T) {
	h := newHeadroom(t, 2, 64)
	mdls := pieces(make([]byte, 100), 1, 2, 3, 4, 5, 6, 7, 8, 9)
	if n := testing.AllocsPerRun(100, func() {
		b := Buffer{MDLs: mdls, Length: 100}
		if b.Retreat(50, 0, h) != nil || b.Advance(50, h) != nil || len(b.MDLs) != len(mdls) {
			t.Error("not as before")
		}
	}); n != 0 {
		t.Errorf("%v allocations per header", n)
	}
}

func TestHeadroomCloses(t *testing.T) {
	a := arena(t, 1<<16)
	h, err := NewHeadroom(HeadroomParameters{Tag: "vxlan", Rooms: 1, Size: 50, Memory: a, Queue: 4})
	if err != nil {
		t.Fatal(err)
	}
	b := Buffer{MDLs: pieces(make([]byte, 10)), Length: 10}
	if err := b.Retreat(50, 0, h); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err == nil || a.Accounts()[0].Queue != 4 {
		t.Errorf("closed with an MDL out: %v", err)
	}
	if err := b.Advance(50, h); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil || len(a.Accounts()) != 0 {
		t.Errorf("%v, %v left", err, a.Accounts())
	}
	for _, p := range []HeadroomParameters{{}, {Rooms: 1, Size: 1}, {Rooms: 1, Memory: a}, {Size: 1, Memory: a}} {
		if _, err := NewHeadroom(p); !errors.Is(err, ErrParameter) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}
