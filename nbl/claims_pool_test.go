package nbl

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// Claims of docs/ndis.md about pools.

func newPool(t testing.TB, p PoolParameters) *Pool {
	t.Helper()
	pool, err := NewPoolWith(p)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func closePool(t testing.TB, p interface{ Close() error }) {
	t.Helper()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// The default pool has a NET_BUFFER in each List, so drawing one is one step;
// without, it is three, each of which can fail.
func TestClaim23_PreallocatedIsTheDefault(t *testing.T) {
	p := newPool(t, PoolParameters{Tag: "x", Size: 1})
	l, err := p.AllocateList()
	if err != nil || l.NumBuffers() != 1 {
		t.Fatalf("%v, %d buffers", err, l.NumBuffers())
	}
	without := newPool(t, PoolParameters{Tag: "y", Size: 1, NoBuffer: true})
	buffers, err := NewBufferPool(BufferPoolParameters{Tag: "z", Size: 1})
	if err != nil {
		t.Fatal(err)
	}
	m, err := without.AllocateList()
	if err != nil || m.NumBuffers() != 0 {
		t.Fatalf("%v, %d buffers", err, m.NumBuffers())
	}
	b, err := buffers.Allocate()
	if err == nil {
		err = m.Chain(b)
	}
	if err != nil || m.NumBuffers() != 1 || m.NetBuffer(0) != &b.Buffer {
		t.Errorf("%v, %d buffers", err, m.NumBuffers())
	}
	if err := without.Free(m); !errors.Is(err, ErrParameter) {
		t.Errorf("freed with a buffer chained: %v", err)
	}
	if err := buffers.Free(b); !errors.Is(err, ErrParameter) {
		t.Errorf("a chained buffer was freed: %v", err)
	}
	if m.Unchain() != b || m.Unchain() != nil {
		t.Error("not the buffer that was chained")
	}
	if err := errors.Join(buffers.Free(b), without.Free(m), p.Free(l)); err != nil {
		t.Error(err)
	}
	if err := buffers.Free(b); !errors.Is(err, ErrParameter) {
		t.Errorf("freed twice: %v", err)
	}
	for _, c := range []interface{ Close() error }{p, without, buffers} {
		closePool(t, c)
	}
}

// Drawing a List with its NET_BUFFER against drawing both and joining them.
func BenchmarkClaim23(b *testing.B) {
	b.Run("preallocated", func(b *testing.B) {
		p := newPool(b, PoolParameters{Tag: "x", Size: 1})
		for b.Loop() {
			l, _ := p.AllocateList()
			_ = p.Free(l)
		}
	})
	b.Run("separate", func(b *testing.B) {
		p := newPool(b, PoolParameters{Tag: "x", Size: 1, NoBuffer: true})
		buffers, err := NewBufferPool(BufferPoolParameters{Tag: "z", Size: 1})
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			l, _ := p.AllocateList()
			nb, _ := buffers.Allocate()
			_ = l.Chain(nb)
			_ = buffers.Free(l.Unchain())
			_ = p.Free(l)
		}
	})
}

// Every List of such a pool has its NET_BUFFER, also the second time.
func TestClaim24_EveryListHasItsBuffer(t *testing.T) {
	a := arena(t, 1<<16)
	for _, q := range []PoolParameters{{Tag: "no data", Size: 3}, {Tag: "data", Size: 3, DataSize: 100, Backfill: 10, Memory: a}} {
		p := newPool(t, q)
		for range 3 {
			var all []*List
			for range 3 {
				l, err := p.AllocateList()
				if err != nil {
					t.Fatal(err)
				}
				if l.NumBuffers() != 1 || l.Capacity() != uint64(q.DataSize) || l.Offset != q.Backfill || l.Length != 0 {
					t.Errorf("%s: %d buffers of %d bytes, frame of %d at %d", q.Tag, l.NumBuffers(), l.Capacity(), l.Length, l.Offset)
				}
				l.MDLs, l.Offset, l.Length = nil, 7, 7 // whatever its user leaves
				all = append(all, l)
			}
			for _, l := range all {
				if err := p.Free(l); err != nil {
					t.Error(err)
				}
			}
		}
		closePool(t, p)
	}
}

// Both ways to draw are defined for each kind of pool (ndis.md, section 8: the
// pages contradict each other; both are accepted where both make sense).
func TestClaim25_BothWaysToDraw(t *testing.T) {
	a := arena(t, 1<<16)
	chain := pieces(make([]byte, 100), 30)
	for _, c := range []struct {
		q             PoolParameters
		plain, joined error
	}{
		{PoolParameters{Tag: "no data", Size: 1}, nil, nil},
		{PoolParameters{Tag: "data", Size: 1, DataSize: 10, Memory: a}, nil, ErrParameter},
		{PoolParameters{Tag: "no buffer", Size: 1, NoBuffer: true}, nil, ErrParameter},
	} {
		p := newPool(t, c.q)
		l, err := p.AllocateList()
		if !errors.Is(err, c.plain) {
			t.Errorf("%s: plain: %v", c.q.Tag, err)
		}
		if _, err := p.AllocateList(); !errors.Is(err, ErrResources) {
			t.Errorf("%s: from an empty pool: %v", c.q.Tag, err)
		}
		if err := p.Free(l); err != nil {
			t.Error(err)
		}
		l, err = p.AllocateBufferAndList(chain, 10, 80)
		if !errors.Is(err, c.joined) {
			t.Errorf("%s: with a chain: %v, want %v", c.q.Tag, err, c.joined)
		}
		if err == nil {
			if l.Offset != 10 || l.Length != 80 || len(l.MDLs) != 2 {
				t.Errorf("%s: %d bytes at %d of %d MDLs", c.q.Tag, l.Length, l.Offset, len(l.MDLs))
			}
			if err := p.Free(l); err != nil {
				t.Error(err)
			}
		}
		closePool(t, p)
	}
	p := newPool(t, PoolParameters{Tag: "no data", Size: 1})
	for _, bad := range [][2]uint32{{0, 1}, {1, 0}} {
		if _, err := p.AllocateBufferAndList(nil, bad[0], bad[1]); !errors.Is(err, ErrParameter) {
			t.Errorf("%d bytes at %d of no chain: %v", bad[1], bad[0], err)
		}
	}
	for _, q := range []PoolParameters{{}, {Size: 1, NoBuffer: true, DataSize: 1, Memory: a}, {Size: 1, DataSize: 1}, {Size: 1, DataSize: 1, Backfill: 2, Memory: a}} {
		if _, err := NewPoolWith(q); !errors.Is(err, ErrParameter) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}

// A pool is closed after its Lists were freed; one that is not names its owner
// and stays as it is.
func TestClaim32_ListsBeforePool(t *testing.T) {
	a := arena(t, 1<<16)
	p := newPool(t, PoolParameters{Tag: "NVMr", Size: 3, DataSize: 64, Memory: a})
	var out []*List
	for range 2 {
		l, err := p.AllocateList()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	if err := p.Close(); err == nil || !strings.Contains(err.Error(), `"NVMr"`) || !strings.Contains(err.Error(), "2 of 3") {
		t.Errorf("leak report: %v", err)
	}
	out[0].MDLs[0].Store8(0, 1) // still there
	if err := errors.Join(p.Free(out[0]), p.Free(out[1]), p.Close()); err != nil {
		t.Error(err)
	}
	if len(a.Accounts()) != 0 {
		t.Errorf("memory left: %v", a.Accounts())
	}
}

// A pool that verifies finds double frees, gives the List that was freed first,
// and has nothing to say of a user who keeps to the rules.
func TestVerifyPool(t *testing.T) {
	p := newPool(t, PoolParameters{Tag: "v", Size: 3, DataSize: 300, Memory: arena(t, 1<<16), Verify: true})
	var first *List
	for i := range 6 {
		l, err := p.AllocateList()
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = l
		} else if (l == first) != (i == 3) {
			t.Errorf("the list comes back after %d others", i)
		}
		l.Fill(ethernet(200), 1)
		if err := p.Free(l); err != nil {
			t.Error(err)
		}
		if err := p.Free(l); !errors.Is(err, ErrParameter) {
			t.Errorf("freed twice: %v", err)
		}
	}
	closePool(t, p)
	p = newPool(t, PoolParameters{Tag: "v", Size: 2, Verify: true})
	var two [2]*List
	p.Get(two[:])
	p.Put(two[:])
	p.Put(two[:1])
	if p.Out() != 0 {
		t.Errorf("%d lists out after a double return", p.Out())
	}
	if err := p.Close(); err == nil || !strings.Contains(err.Error(), "1 were returned that were not out") {
		t.Errorf("report: %v", err)
	}
}

func TestContext(t *testing.T) {
	p := newPool(t, PoolParameters{Tag: "c", Size: 2, ContextSize: 32})
	l, err := p.AllocateList()
	if err != nil {
		t.Fatal(err)
	}
	lower, err := l.TakeContext(8)
	if err != nil {
		t.Fatal(err)
	}
	copy(lower, "lower   ")
	upper, err := l.TakeContext(24)
	if err != nil {
		t.Fatal(err)
	}
	copy(upper, "upper")
	if string(lower) != "lower   " || !bytes.HasPrefix(l.Context(), []byte("upper")) || len(l.Context()) != 32 {
		t.Errorf("context %q", l.Context())
	}
	if _, err := l.TakeContext(1); !errors.Is(err, ErrResources) {
		t.Errorf("more than there is: %v", err)
	}
	if err := p.Free(l); !errors.Is(err, ErrParameter) {
		t.Errorf("freed with context taken: %v", err)
	}
	if err := l.ReturnContext(33); !errors.Is(err, ErrParameter) {
		t.Errorf("more than was taken: %v", err)
	}
	if err := errors.Join(l.ReturnContext(24), l.ReturnContext(8), p.Free(l)); err != nil {
		t.Error(err)
	}
	closePool(t, p)
}
