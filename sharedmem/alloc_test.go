package sharedmem

import (
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// guest is an allocator over a PC's memory with three ring areas.
func guest(t *testing.T) (*Allocator, *Map, []Block) {
	t.Helper()
	m := mapped(t, "web", pc(sealed(t, 128*page))...)
	areas := []Block{block(t, m, 0x1000, 4096), block(t, m, 4<<30+64, 518), block(t, m, 0x4000, 4096)}
	a, err := NewGuestAllocator(m, areas)
	if err != nil {
		t.Fatal(err)
	}
	return a, m, areas
}

func host(t *testing.T, size uint64) *Allocator {
	t.Helper()
	a, err := NewHostAllocator(size)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func allocate(t *testing.T, a *Allocator, p Parameters) *Allocation {
	t.Helper()
	l, err := a.Allocate(p)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func free(t *testing.T, a *Allocator, list ...*Allocation) {
	t.Helper()
	for _, l := range list {
		if err := a.Free(l.AllocationHandle); err != nil {
			t.Error(err)
		}
	}
}

// Views of a guest's memory: the whole Map, its regions as the list.
func TestGuestViews(t *testing.T) {
	baseline(t)
	a, m, _ := guest(t)
	var all []*Allocation
	for _, u := range []Usage{Receive, Xmit} {
		l := allocate(t, a, Parameters{Queue: 3, Usage: u, Length: m.Size(), Node: AnyNode})
		want := []Segment{{Address: 0, Length: 64 * page}, {Address: 4 << 30, Length: 64 * page}}
		if diff := cmp.Diff(want, l.SG); diff != "" {
			t.Error(diff)
		}
		if len(l.VA) != 2 || l.VA[0] != block(t, m, 0, 64*page) || l.VA[1] != block(t, m, 4<<30, 64*page) {
			t.Errorf("%s: %v", u, l.VA)
		}
		if off, ok := l.Offset(block(t, m, 4<<30+100, 50)); !ok || off != 64*page+100 {
			t.Errorf("offset %d, %v", off, ok)
		}
		if l.Bytes() != nil {
			t.Error("a slice over guest memory")
		}
		all = append(all, l)
	}
	// Both views hold the same bytes, and each counts.
	want := []Account{{3, Xmit, 128 * page, 1}, {3, Receive, 128 * page, 1}}
	if diff := cmp.Diff(want, a.Accounts()); diff != "" {
		t.Error(diff)
	}
	free(t, a, all...)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestGuestRefusals(t *testing.T) {
	a, m, _ := guest(t)
	for name, c := range map[string]struct {
		p    Parameters
		want error
	}{
		"short view":      {Parameters{Usage: Receive, Length: m.Size() - 1}, ErrParameter},
		"long view":       {Parameters{Usage: Xmit, Length: m.Size() + 1}, ErrParameter},
		"contiguous":      {Parameters{Usage: Receive, Length: m.Size(), Flags: Contiguous}, ErrResources},
		"no such area":    {Parameters{Usage: Other, Length: 4095}, ErrResources},
		"other usage":     {Parameters{Usage: ReceiveHeader, Length: m.Size()}, ErrParameter},
		"length 0":        {Parameters{Usage: Other}, ErrParameter},
		"undefined":       {Parameters{Length: 1}, ErrParameter},
		"unknown usage":   {Parameters{Usage: numUsages, Length: 1}, ErrParameter},
		"unknown flag":    {Parameters{Usage: Other, Length: 518, Flags: 2}, ErrParameter},
		"impossible node": {Parameters{Usage: Other, Length: 518, Node: -2}, ErrParameter},
	} {
		if _, err := a.Allocate(c.p); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if l := a.Accounts(); len(l) != 0 {
		t.Errorf("refusals left %v", l)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	one := mapped(t, "one", Region{Size: page, File: sealed(t, page)})
	if a, err := NewGuestAllocator(one, []Block{block(t, m, 0, 8)}); err == nil {
		_ = a.Close()
		t.Error("a ring area of another guest was accepted")
	}
	b, err := NewGuestAllocator(one, nil)
	if err != nil {
		t.Fatal(err)
	}
	free(t, b, allocate(t, b, Parameters{Usage: Receive, Length: page, Flags: Contiguous})) // one region is contiguous
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// Each ring area is handed out once at a time.
func TestGuestAreas(t *testing.T) {
	a, _, areas := guest(t)
	p := Parameters{Queue: 1, Usage: Other, Length: 4096}
	first, second := allocate(t, a, p), allocate(t, a, p)
	if first.VA[0] != areas[0] || second.VA[0] != areas[2] || second.SG[0] != (Segment{0x4000, 4096}) {
		t.Errorf("areas %v and %v", first.SG, second.SG)
	}
	if _, err := a.Allocate(p); !errors.Is(err, ErrResources) {
		t.Errorf("a third area of two: %v", err)
	}
	free(t, a, first)
	if again := allocate(t, a, p); again.VA[0] != areas[0] {
		t.Errorf("area %v", again.SG)
	} else {
		free(t, a, again)
	}
	if got := a.Bytes(1, Other); got != 4096 {
		t.Errorf("%d bytes accounted, want 4096", got)
	}
	free(t, a, second)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// The allocator keeps its Map mapped, until Close.
func TestGuestAllocatorKeepsItsMap(t *testing.T) {
	baseline(t)
	f := sealed(t, page)
	m, err := NewMap([]Region{{Size: page, File: f}}, MapOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewGuestAllocator(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := allocate(t, a, Parameters{Usage: Receive, Length: page})
	m.Unref()
	l.VA[0].Store64(0, 1)
	if err := a.Close(); err == nil {
		t.Fatal("closed while a view is in use")
	}
	l.VA[0].Store64(0, 2)
	free(t, a, l)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if panics(func() { m.Ref() }) == nil {
		t.Error("the Map outlives its last user")
	}
}

func TestHandles(t *testing.T) {
	baseline(t)
	a, b := host(t, page), host(t, page)
	p := Parameters{Usage: Receive, Length: 100}
	x, y := allocate(t, a, p), allocate(t, b, p)
	if x.Handle == y.Handle || x.Handle == 0 {
		t.Errorf("handles %d and %d", x.Handle, y.Handle)
	}
	for name, h := range map[string]AllocationHandle{"foreign": y.AllocationHandle, "none": {}} {
		if err := a.Free(h); !errors.Is(err, ErrHandle) {
			t.Errorf("%s handle: %v", name, err)
		}
	}
	if a.Bytes(0, Receive) != 100 || b.Bytes(0, Receive) != 100 {
		t.Error("a wrong handle freed something")
	}
	free(t, a, x)
	free(t, b, y)
	if err := a.Free(x.AllocationHandle); !errors.Is(err, ErrHandle) {
		t.Errorf("double free: %v", err)
	}
	// A stale handle does not name what came after it.
	z := allocate(t, a, p)
	if err := a.Free(x.AllocationHandle); !errors.Is(err, ErrHandle) {
		t.Errorf("stale handle: %v", err)
	}
	free(t, a, z)
	for _, c := range []*Allocator{a, b, a} {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := a.Allocate(p); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := a.Free(z.AllocationHandle); !errors.Is(err, ErrHandle) {
		t.Errorf("free after Close: %v", err)
	}
}

// The provider sees the caller's parameters unchanged, and its status is the
// caller's (NDIS: one structure is the single input).
func TestProviderGetsParameters(t *testing.T) {
	p := &recorder{}
	a := NewAllocator(p, AllocatorOptions{})
	want := Parameters{Queue: 7, Usage: ReceiveData, Length: 6, Flags: Contiguous, Node: OnNode(3)}
	l := allocate(t, a, want)
	if l.Node != OnNode(2) {
		t.Errorf("on node %s, the provider said 2", l.Node)
	}
	l.SG[0], l.VA[0] = Segment{}, Block{} // the caller's copy
	free(t, a, l)
	if p.asked != want || p.freed != want || p.mem.SG[0] != (Segment{5, 6}) || p.mem.VA[0].n != 6 {
		t.Errorf("asked %+v, freed %+v %+v", p.asked, p.freed, p.mem)
	}
	p.err = ErrResources
	if _, err := a.Allocate(want); !errors.Is(err, ErrResources) {
		t.Errorf("status %v", err)
	}
	if l := a.Accounts(); len(l) != 0 {
		t.Errorf("a failed allocation is accounted: %v", l)
	}
	if err := errors.Join(a.Close(), a.Close()); err != nil || p.closed != 1 {
		t.Errorf("closed %d times, %v", p.closed, err)
	}
}

// recorder is a provider of six bytes that remembers what it was asked.
type recorder struct {
	asked, freed Parameters
	mem          Memory // freed
	allocated    int
	closed       int
	err          error
	answer       *Memory // instead of the six bytes
}

func (r *recorder) Allocate(p Parameters) (Memory, error) {
	r.asked = p
	if r.err != nil {
		return Memory{}, r.err
	}
	r.allocated++
	if r.answer != nil {
		return *r.answer, nil
	}
	return Memory{VA: []Block{BytesBlock(make([]byte, 6))}, SG: []Segment{{5, 6}}, Node: OnNode(2)}, nil
}

func (r *recorder) Free(p Parameters, m Memory) {
	r.freed, r.mem = p, m
	r.allocated--
}

func (r *recorder) Close() { r.closed++ }

func TestAllocatorConcurrent(t *testing.T) {
	baseline(t)
	a := host(t, 64*page)
	var wg sync.WaitGroup
	for q := range QueueID(4) {
		wg.Go(func() {
			for range 500 {
				l, err := a.Allocate(Parameters{Queue: q, Usage: Xmit, Length: page})
				if err != nil {
					t.Error(err)
					return
				}
				l.Bytes()[0] = byte(q)
				if err := a.Free(l.AllocationHandle); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestAllocationOffset(t *testing.T) {
	b := BytesBlock(make([]byte, 100))
	l := &Allocation{VA: []Block{b.Sub(50, 30), b.Sub(0, 20)}}
	for _, c := range []struct {
		off, n, want uint64
		ok           bool
	}{
		{50, 30, 0, true},
		{60, 20, 10, true},
		{79, 1, 29, true},
		{60, 21, 0, false},
		{0, 20, 30, true},
		{5, 1, 35, true},
		{19, 2, 0, false},
		{30, 1, 0, false},
		{90, 1, 0, false},
		{49, 2, 0, false},
	} {
		if got, ok := l.Offset(b.Sub(c.off, c.n)); ok != c.ok || ok && got != c.want {
			t.Errorf("%d bytes at %d: offset %d, %v; want %d, %v", c.n, c.off, got, ok, c.want, c.ok)
		}
	}
}

func TestUsageNames(t *testing.T) {
	for u, want := range map[Usage]string{Undefined: "undefined", Xmit: "xmit", Receive: "receive", Other: "other", 77: "usage-77"} {
		if got := u.String(); got != want {
			t.Errorf("usage %d is called %q, want %q", uint8(u), got, want)
		}
	}
	// The values are NDIS's.
	if Xmit != 1 || Receive != 4 || Other != 9 || numUsages != 10 {
		t.Error("usages are numbered otherwise than NDIS_SHARED_MEMORY_USAGE")
	}
}
