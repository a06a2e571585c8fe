package nbl

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"vhostnet/metrics"
	"vhostnet/virtio"
)

// newDeriver has room for lists children of buffers NET_BUFFERs and headers of
// 64 bytes, and nothing out at the end.
func newDeriver(t testing.TB, lists, buffers int) *Deriver {
	t.Helper()
	b, err := NewBufferPool(BufferPoolParameters{Tag: "nb", Size: buffers})
	if err != nil {
		t.Fatal(err)
	}
	d := &Deriver{Lists: newPool(t, PoolParameters{Tag: "children", Size: lists}), Buffers: b, Headroom: newHeadroom(t, buffers, 64)}
	t.Cleanup(func() {
		closePool(t, d.Lists)
		closePool(t, d.Buffers)
	})
	return d
}

// several is a List of a pool whose NET_BUFFERs are chunks, each over MDLs of
// its own, and a function that takes it apart.
func several(t testing.TB, rng *rand.Rand, chunks ...[]byte) (*List, func()) {
	t.Helper()
	p := newPool(t, PoolParameters{Tag: "parents", Size: 1})
	buffers, err := NewBufferPool(BufferPoolParameters{Tag: "nb", Size: len(chunks)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := p.AllocateList()
	if err != nil {
		t.Fatal(err)
	}
	for i, data := range chunks {
		b := &l.Buffer
		if i > 0 {
			extra, err := buffers.Allocate()
			if err == nil {
				err = l.Chain(extra)
			}
			if err != nil {
				t.Fatal(err)
			}
			b = &extra.Buffer
		}
		// Five bytes in front and three behind are not the frame's.
		memory := append(append(make([]byte, 5), data...), 1, 2, 3)
		if err := b.SetChain(randomChain(rng, memory), 5, uint32(len(data))); err != nil {
			t.Fatal(err)
		}
	}
	return l, func() {
		for b := l.Unchain(); b != nil; b = l.Unchain() {
			if err := buffers.Free(b); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(p.Free(l), p.Close(), buffers.Close()); err != nil {
			t.Error(err)
		}
	}
}

func contents(l *List) [][]byte {
	var all [][]byte
	for i := range l.NumBuffers() {
		all = append(all, content(l.NetBuffer(i)))
	}
	return all
}

func randomBytes(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// A clone is the same packet over the same bytes: what is written to one is
// read from the other.
func TestClaim68_Clone(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 68))
	d := newDeriver(t, 3, 8)
	for range 100 {
		chunks := [][]byte{randomBytes(rng, 20+rng.IntN(60)), randomBytes(rng, rng.IntN(40)), randomBytes(rng, 1+rng.IntN(40))}
		parent, end := several(t, rng, chunks[:1+rng.IntN(3)]...)
		if r := parent.Parse(7); r != metrics.ReasonNone {
			t.Fatal(r)
		}
		for _, original := range []bool{false, true} {
			child, err := d.Clone(parent, original)
			if err != nil {
				t.Fatal(err)
			}
			if child.Parent() != parent || parent.Children() != 1 || child.NumBuffers() != parent.NumBuffers() || child.Serial() != 7 {
				t.Fatalf("child of %v, %d children, %d buffers", child.Parent(), parent.Children(), child.NumBuffers())
			}
			for i, want := range contents(parent) {
				if got := contents(child)[i]; !bytes.Equal(got, want) {
					t.Fatalf("buffer %d is %x, want %x", i, got, want)
				}
			}
			if child.Dst != parent.Dst || !bytes.Equal(flat(child), flat(parent)) {
				t.Error("the clone would be delivered otherwise than its parent")
			}
			if want := map[bool]uint32{true: 5}[original]; child.Offset != want {
				t.Errorf("original %v: %d bytes in front of the clone", original, child.Offset)
			}
			last := child.NumBuffers() - 1
			if n := child.NetBuffer(last).Length; last > 0 && n > 0 || n > plainHeader { // not of the private header
				c := child.NetBuffer(last).At(n - 1)
				c.Write([]byte{0xee})
				if content(parent.NetBuffer(last))[n-1] != 0xee {
					t.Error("a byte was copied")
				}
			}
			if err := d.Free(child); err != nil {
				t.Error(err)
			}
		}
		if parent.Children() != 0 {
			t.Errorf("%d children after all were freed", parent.Children())
		}
		end()
	}
}

// A parent with children is not freed; children have children of their own.
func TestClaim68_ParentOutlivesChildren(t *testing.T) {
	d := newDeriver(t, 3, 2)
	p := newPool(t, PoolParameters{Tag: "parents", Size: 1})
	parent, err := p.AllocateBufferAndList(pieces(ethernet(100), 33), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	a, err := d.Clone(parent, false)
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.Clone(parent, true)
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := d.Clone(a, false)
	if err != nil {
		t.Fatal(err)
	}
	if parent.Children() != 2 || a.Children() != 1 || b.Children() != 0 {
		t.Errorf("%d, %d and %d children", parent.Children(), a.Children(), b.Children())
	}
	for i, free := range []func() error{
		func() error { return p.Free(parent) },
		func() error { return d.Free(a) },
		func() error { return d.Free(parent) },
	} {
		if err := free(); !errors.Is(err, ErrParameter) {
			t.Errorf("free %d too early: %v", i, err)
		}
	}
	if _, err := d.Clone(parent, false); !errors.Is(err, ErrResources) || parent.Children() != 2 {
		t.Errorf("a fourth of three: %v, %d children", err, parent.Children())
	}
	if err := errors.Join(d.Free(grandchild), d.Free(b), d.Free(a), p.Free(parent), p.Close()); err != nil {
		t.Error(err)
	}
	if err := d.Free(a); !errors.Is(err, ErrParameter) {
		t.Errorf("freed twice: %v", err)
	}
}

// Fragments are the parent's bytes in order, none longer than asked, none over
// the border of two NET_BUFFERs; put together again they are what was cut.
func TestClaim68_FragmentAndReassemble(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 68))
		d := newDeriver(t, 2, 64)
		var chunks [][]byte
		for range 1 + rng.IntN(3) {
			chunks = append(chunks, randomBytes(rng, rng.IntN(50)))
		}
		parent, end := several(t, rng, chunks...)
		p := FragmentParameters{Start: uint32(rng.IntN(10)), Maximum: uint32(5 + rng.IntN(20)), Delta: uint32(rng.IntN(30)), Backfill: uint32(rng.IntN(20))}
		var want, whole []byte
		var parts [][]byte
		for _, c := range chunks {
			c = c[min(int(p.Start), len(c)):]
			whole = append(whole, c...)
			for len(c) > 0 {
				n := min(len(c), int(p.Maximum))
				parts = append(parts, c[:n])
				c = c[n:]
			}
		}
		child, err := d.Fragment(parent, p)
		if (err != nil) != (len(parts) == 0) {
			t.Fatalf("seed %d: %v, %d parts", seed, err, len(parts))
		}
		if err != nil {
			if !errors.Is(err, ErrParameter) || parent.Children() != 0 {
				t.Errorf("seed %d: %v, %d children", seed, err, parent.Children())
			}
			end()
			continue
		}
		if child.NumBuffers() != len(parts) {
			t.Fatalf("seed %d: %d fragments, want %d", seed, child.NumBuffers(), len(parts))
		}
		for i := range parts {
			b := child.NetBuffer(i)
			header := bytes.Repeat([]byte{byte(i)}, int(p.Delta))
			c := b.At(0)
			c.Write(header)
			if got := content(b); !bytes.Equal(got, append(header, parts[i]...)) || b.Check() != nil {
				t.Fatalf("seed %d: fragment %d is %x, want %x behind %d bytes", seed, i, got, parts[i], p.Delta)
			}
			if p.Delta > 0 && b.Offset != p.Backfill {
				t.Errorf("seed %d: %d bytes in front of the headers, want %d", seed, b.Offset, p.Backfill)
			}
			want = append(want, parts[i]...)
		}
		again, err := d.Reassemble(child, p.Delta, 0, 0)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got := content(&again.Buffer); again.NumBuffers() != 1 || !bytes.Equal(got, want) || !bytes.Equal(got, whole) {
			t.Fatalf("seed %d: reassembled %x, want %x", seed, got, whole)
		}
		if err := errors.Join(d.Free(again), d.Free(child)); err != nil {
			t.Error(err)
		}
		if parent.Children() != 0 || d.Headroom.Out() != 0 || d.Buffers.Out() != 0 {
			t.Fatalf("seed %d: %d children, %d headers, %d buffers left", seed, parent.Children(), d.Headroom.Out(), d.Buffers.Out())
		}
		end()
	}
}

// What was checked is what children are made of, whatever the guest writes
// meanwhile.
func TestDerivedFromCheckedHeader(t *testing.T) {
	d := newDeriver(t, 1, 8)
	frame := ethernet(200)
	l, memory := sent(t, virtio.NetHeader{}, frame, 12, 50)
	for i := range memory[:12+plainHeader] {
		memory[i] ^= 0xff
	}
	for name, make := range map[string]func() (*List, error){
		"clone":      func() (*List, error) { return d.Clone(l, false) },
		"fragments":  func() (*List, error) { return d.Fragment(l, FragmentParameters{Maximum: 33}) },
		"reassembly": func() (*List, error) { return d.Reassemble(l, 0, 0, 0) },
	} {
		child, err := make()
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Join(contents(child), nil); !bytes.Equal(got, frame) {
			t.Errorf("%s: byte %d is what the guest wrote later", name, firstDifference(got, frame))
		}
		if err := d.Free(child); err != nil {
			t.Error(err)
		}
	}
	if err := l.Retreat(1, 0, d.Headroom); !errors.Is(err, ErrParameter) {
		t.Errorf("a guest's memory was written in front of: %v", err)
	}
	if err := l.Advance(1, nil); !errors.Is(err, ErrParameter) {
		t.Errorf("a guest's frame was cut: %v", err)
	}
}

// A derivation that finds no room for its last part leaves nothing behind.
func TestDeriveUndoes(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 68))
	d := newDeriver(t, 1, 3)
	parent, end := several(t, rng, randomBytes(rng, 100), randomBytes(rng, 100))
	for name, p := range map[string]FragmentParameters{
		"buffers":  {Maximum: 20},
		"headroom": {Maximum: 100, Delta: 65},
		"nothing":  {Maximum: 100, Start: 100},
		"zero":     {},
	} {
		if _, err := d.Fragment(parent, p); err == nil {
			t.Errorf("%s: made", name)
		}
	}
	if _, err := d.Reassemble(parent, 100, 0, 0); !errors.Is(err, ErrParameter) {
		t.Errorf("a List of nothing: %v", err)
	}
	if _, err := d.Reassemble(parent, 0, 100, 0); !errors.Is(err, ErrResources) {
		t.Errorf("no headroom: %v", err)
	}
	if parent.Children() != 0 || d.Lists.Out() != 0 || d.Buffers.Out() != 0 || d.Headroom.Out() != 0 {
		t.Errorf("%d children, %d lists, %d buffers, %d headers left", parent.Children(), d.Lists.Out(), d.Buffers.Out(), d.Headroom.Out())
	}
	end()
	plain, err := NewPool("plain", 1)
	if err != nil {
		t.Fatal(err)
	}
	l := new(List)
	l.FromBytes(ethernet(60), 1)
	if _, err := (&Deriver{Lists: plain}).Clone(l, false); !errors.Is(err, ErrParameter) || plain.Out() != 0 {
		t.Errorf("children of a pool whose lists cannot be: %v", err)
	}
	if _, err := (&Deriver{Lists: newPool(t, PoolParameters{Size: 1, NoBuffer: true})}).Clone(l, false); !errors.Is(err, ErrParameter) {
		t.Errorf("children without buffers: %v", err)
	}
}

// The list variants move every NET_BUFFER, or none.
func TestClaim67_ListVariants(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 67))
	h := newHeadroom(t, 2, 64)
	l, end := several(t, rng, ethernet(30), randomBytes(rng, 20), randomBytes(rng, 25))
	want := contents(l)
	if err := l.Retreat(3, 0, nil); err != nil { // five bytes are free in front of each
		t.Fatal(err)
	}
	if err := l.Advance(3, nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Retreat(10, 0, h); !errors.Is(err, ErrResources) { // three MDLs of two
		t.Errorf("a third MDL of two: %v", err)
	}
	if err := l.Advance(21, h); !errors.Is(err, ErrParameter) {
		t.Errorf("advance of a short one: %v", err)
	}
	if h.Out() != 0 {
		t.Errorf("%d MDLs left in front", h.Out())
	}
	for i, got := range contents(l) {
		if !bytes.Equal(got, want[i]) || l.NetBuffer(i).Offset != 5 {
			t.Errorf("buffer %d changed: %x at %d", i, got, l.NetBuffer(i).Offset)
		}
	}
	end()
}

// Headers are put in front of a clone and read, the parent stays as it is: an
// overlay's packet.
func TestEncapsulate(t *testing.T) {
	d := newDeriver(t, 1, 1)
	l, _ := sent(t, virtio.NetHeader{}, ethernet(300), 12, 100)
	child, err := d.Clone(l, false)
	if err != nil {
		t.Fatal(err)
	}
	outer := ethernet(50)
	outer[0] = 0x02
	if err := child.Retreat(50, 0, d.Headroom); err != nil {
		t.Fatal(err)
	}
	c := child.At(0)
	c.Write(outer)
	if r := child.Parse(99); r != metrics.ReasonNone {
		t.Fatal(r)
	}
	if got := flat(child); !bytes.Equal(got, append(outer, ethernet(300)...)) || child.Dst>>40 != 2 {
		t.Errorf("the packet on the wire differs at %d", firstDifference(got, append(outer, ethernet(300)...)))
	}
	if got := flat(l); !bytes.Equal(got, ethernet(300)) {
		t.Error("the parent changed")
	}
	if err := d.Free(child); err != nil {
		t.Error(err)
	}
}

func TestDeriveDoesNotAllocate(t *testing.T) {
	d := newDeriver(t, 2, 8)
	l, _ := sent(t, virtio.NetHeader{}, ethernet(1500), 12, 100, 200)
	if n := testing.AllocsPerRun(100, func() {
		child, err := d.Clone(l, false)
		if err != nil || d.Free(child) != nil {
			t.Error(err)
		}
		parts, err := d.Fragment(l, FragmentParameters{Start: 14, Maximum: 500, Delta: 14})
		if err != nil || d.Free(parts) != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}
