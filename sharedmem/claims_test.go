package sharedmem

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vhostnet/internal/sys"
)

// Claims of docs/ndis.md about shared memory.

// usages are all ten of NDIS_SHARED_MEMORY_USAGE but Undefined.
var usages = []Usage{Xmit, XmitHeader, XmitData, Receive, ReceiveLookahead, ReceivePostLookahead, ReceiveHeader, ReceiveData, Other}

// A queue grows as often as it likes while it lives, each growth is accounted,
// and one that is gone cannot.
func TestClaim04_GrowthWhileTheQueueLives(t *testing.T) {
	h, err := newHostProvider(64 * page)
	if err != nil {
		t.Fatal(err)
	}
	lives := true
	a := NewAllocator(h, AllocatorOptions{Queue: func(id QueueID) bool { return id == 7 && lives }})
	p := Parameters{Queue: 7, Usage: Receive, Length: 3000}
	var held []*Allocation
	for i := range uint64(20) {
		held = append(held, allocate(t, a, p))
		if got := a.Bytes(7, Receive); got != (i+1)*3000 {
			t.Fatalf("%d bytes after %d allocations", got, i+1)
		}
	}
	lives = false
	if _, err := a.Allocate(p); !errors.Is(err, ErrParameter) {
		t.Errorf("a freed queue grew: %v", err)
	}
	if got := a.Bytes(7, Receive); got != 20*3000 {
		t.Errorf("the refusal left %d bytes accounted", got)
	}
	free(t, a, held...) // what a queue has is freed after its end, too
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// What the caller asks is what the provider is asked, to the last field, and
// what the provider answers is the caller's answer.
func TestClaim05_ProviderGetsTheCallersParameters(t *testing.T) {
	p := &recorder{}
	a := NewAllocator(p, AllocatorOptions{})
	for _, want := range []Parameters{
		{Queue: 1, Usage: Receive, Length: 6},
		{Queue: math.MaxUint32, Usage: XmitHeader, Length: 6, Flags: Contiguous},
		{Usage: Other, Length: 6, Node: OnNode(1023)},
	} {
		l := allocate(t, a, want)
		if p.asked != want || l.Parameters != want {
			t.Errorf("asked for %+v, the provider for %+v, answered %+v", want, p.asked, l.Parameters)
		}
		free(t, a, l)
		if p.freed != want {
			t.Errorf("freed %+v, want %+v", p.freed, want)
		}
	}
	for _, status := range []error{ErrResources, ErrParameter, errors.New("of its own")} {
		p.err = status
		if _, err := a.Allocate(Parameters{Usage: Receive, Length: 6}); !errors.Is(err, status) {
			t.Errorf("the provider said %v, the caller hears %v", status, err)
		}
	}
}

func TestClaim06_QueueIsKnown(t *testing.T) {
	p := &recorder{}
	a := NewAllocator(p, AllocatorOptions{Queue: func(id QueueID) bool { return id == 0 || id == 5 }})
	for id, want := range map[QueueID]error{0: nil, 5: nil, 1: ErrParameter, 6: ErrParameter, math.MaxUint32: ErrParameter} {
		p.asked = Parameters{}
		l, err := a.Allocate(Parameters{Queue: id, Usage: Receive, Length: 6})
		if !errors.Is(err, want) {
			t.Errorf("queue %d: %v, want %v", id, err, want)
		}
		if err == nil {
			free(t, a, l)
		} else if p.asked != (Parameters{}) {
			t.Errorf("queue %d: the provider was asked", id)
		}
	}
}

func TestClaim07_Length(t *testing.T) {
	a := host(t, 4*page)
	if _, err := a.Allocate(Parameters{Usage: Receive}); !errors.Is(err, ErrParameter) {
		t.Errorf("length 0: %v", err)
	}
	for _, n := range []uint64{1, 63, 64, 65, page - 1, page, page + 1, 4 * page} {
		l := allocate(t, a, Parameters{Usage: Receive, Length: n})
		var sum uint64
		for _, b := range l.VA {
			sum += b.Len()
		}
		if sum != n || a.Bytes(0, Receive) != n {
			t.Errorf("%d bytes asked, %d got, %d accounted", n, sum, a.Bytes(0, Receive))
		}
		free(t, a, l)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestClaim08_Usages(t *testing.T) {
	a := host(t, 16*page)
	for i, u := range usages {
		if int(u) != i+1 {
			t.Errorf("%s has the value %d, NDIS's is %d", u, u, i+1)
		}
		l := allocate(t, a, Parameters{Queue: 1, Usage: u, Length: 100})
		if diff := cmp.Diff([]Account{{Queue: 1, Usage: u, Bytes: 100, Count: 1}}, a.Accounts()); diff != "" {
			t.Error(diff)
		}
		free(t, a, l)
	}
	for _, u := range []Usage{Undefined, 10, 11, 255} {
		if _, err := a.Allocate(Parameters{Usage: u, Length: 100}); !errors.Is(err, ErrParameter) {
			t.Errorf("%s: %v", u, err)
		}
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// holed is an arena of six pages of which the first, third and fifth are taken.
func holed(t *testing.T) (*Allocator, []*Allocation) {
	t.Helper()
	a := host(t, 6*page)
	var all, kept []*Allocation
	for range 6 {
		all = append(all, allocate(t, a, Parameters{Usage: Other, Length: page}))
	}
	for i, l := range all {
		if i%2 == 0 {
			kept = append(kept, l)
		} else {
			free(t, a, l)
		}
	}
	return a, kept
}

// A block may lie in pieces; the list says where, in order, and each byte of
// it is one of ours alone.
func TestClaim09_Pieces(t *testing.T) {
	a, kept := holed(t)
	l := allocate(t, a, Parameters{Queue: 2, Usage: Receive, Length: 2*page + 100})
	if len(l.SG) != 3 || len(l.VA) != 3 {
		t.Fatalf("%d segments, %d Blocks; three holes hold it", len(l.SG), len(l.VA))
	}
	var sum, at uint64
	for i, s := range l.SG {
		if l.VA[i].Len() != s.Length {
			t.Errorf("segment %d of %d bytes is a Block of %d", i, s.Length, l.VA[i].Len())
		}
		if off, ok := l.Offset(l.VA[i]); !ok || off != at {
			t.Errorf("piece %d begins at %d, %v; want %d", i, off, ok, at)
		}
		at += s.Length
		sum += s.Length
		l.VA[i].CopyFrom(bytes.Repeat([]byte{0xaa}, int(s.Length)), 0)
	}
	if sum != l.Parameters.Length {
		t.Errorf("the segments sum to %d, want %d", sum, l.Parameters.Length)
	}
	for _, k := range kept {
		if bytes.IndexByte(k.Bytes(), 0xaa) >= 0 {
			t.Error("a piece lies over another allocation")
		}
	}
	free(t, a, l)
	// Freed in pieces, joined again: the next one sees zeros only.
	free(t, a, kept...)
	whole := allocate(t, a, Parameters{Usage: Receive, Length: 6 * page})
	if len(whole.VA) != 1 || bytes.IndexByte(whole.Bytes(), 0xaa) >= 0 {
		t.Errorf("the arena came back in %d pieces, or with what was in it", len(whole.VA))
	}
	free(t, a, whole)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestClaim10_Contiguous(t *testing.T) {
	a, kept := holed(t)
	holes := slices.Clone(a.provider.(*hostProvider).holes)
	p := Parameters{Queue: 2, Usage: Receive, Length: page + 1, Flags: Contiguous}
	if _, err := a.Allocate(p); !errors.Is(err, ErrResources) {
		t.Errorf("no hole holds it: %v", err)
	}
	if a.Bytes(2, Receive) != 0 || !slices.Equal(holes, a.provider.(*hostProvider).holes) {
		t.Errorf("the refusal left %d bytes and %v", a.Bytes(2, Receive), a.provider.(*hostProvider).holes)
	}
	p.Length = page
	l := allocate(t, a, p)
	if len(l.SG) != 1 || len(l.VA) != 1 || l.SG[0].Length != page {
		t.Errorf("%v", l.SG)
	}
	free(t, a, append(kept, l)...)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	// A provider that gives pieces is found out, and gets them back.
	r := &recorder{answer: &Memory{
		VA: []Block{BytesBlock(make([]byte, 3)), BytesBlock(make([]byte, 3))}, SG: []Segment{{0, 3}, {8, 3}},
	}}
	a = NewAllocator(r, AllocatorOptions{})
	if _, err := a.Allocate(Parameters{Usage: Receive, Length: 6, Flags: Contiguous}); !errors.Is(err, ErrProvider) {
		t.Errorf("two pieces: %v", err)
	}
	if r.allocated != 0 || len(a.Accounts()) != 0 {
		t.Errorf("%d pieces were not given back; accounted %v", r.allocated, a.Accounts())
	}
	free(t, a, allocate(t, a, Parameters{Usage: Receive, Length: 6}))
	for _, wrong := range []Memory{{}, {VA: r.answer.VA, SG: r.answer.SG[:1]}, {VA: r.answer.VA[:1], SG: r.answer.SG[:1]}, {VA: r.answer.VA, SG: []Segment{{0, 3}, {8, 4}}}} {
		r.answer = &wrong
		if _, err := a.Allocate(Parameters{Usage: Receive, Length: 6}); !errors.Is(err, ErrProvider) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
}

// The list of a part is asked for with the same usage that the memory was.
func TestClaim11_OneUsageType(t *testing.T) {
	a, kept := holed(t)
	l := allocate(t, a, Parameters{Usage: ReceiveData, Length: 3 * page})
	for _, c := range []struct {
		p    ListParameters
		want []Segment
		err  error
	}{
		{ListParameters{Usage: l.Parameters.Usage, Length: 3 * page}, l.SG, nil},
		{ListParameters{Usage: ReceiveData, Offset: 10, Length: 20}, []Segment{{l.SG[0].Address + 10, 20}}, nil},
		{ListParameters{Usage: ReceiveData, Offset: page, Length: page, Flags: Contiguous}, l.SG[1:2], nil},
		{ListParameters{Usage: ReceiveData, Offset: page - 1, Length: 2}, []Segment{{l.SG[0].Address + page - 1, 1}, {l.SG[1].Address, 1}}, nil},
		{ListParameters{Usage: ReceiveData, Offset: page - 1, Length: 2, Flags: Contiguous}, nil, ErrResources},
		{ListParameters{Usage: Receive, Length: 1}, nil, ErrParameter},
		{ListParameters{Usage: ReceiveData}, nil, ErrParameter},
		{ListParameters{Usage: ReceiveData, Offset: 3 * page, Length: 1}, nil, ErrParameter},
		{ListParameters{Usage: ReceiveData, Offset: 1, Length: math.MaxUint64}, nil, ErrParameter},
	} {
		got, err := l.List(c.p)
		if !errors.Is(err, c.err) || !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, %v; want %v, %v", c.p, got, err, c.want, c.err)
		}
	}
	free(t, a, append(kept, l)...)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// The address that is answered is the memory that the list says.
func TestClaim12_UsableAddress(t *testing.T) {
	g, m, _ := guest(t)
	view := allocate(t, g, Parameters{Usage: Receive, Length: m.Size()})
	for i, b := range view.VA {
		b.Store64(uint32(b.Len())-8, 0x1122334455667788)
		if got := block(t, m, view.SG[i].Address+view.SG[i].Length-8, 8).Load64(0); got != 0x1122334455667788 {
			t.Errorf("what is written at the end of piece %d reads as %#x in the guest", i, got)
		}
	}
	free(t, g, view)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	a := host(t, page)
	l := allocate(t, a, Parameters{Usage: Receive, Length: 100})
	l.VA[0].Store8(99, 7)
	if len(l.Bytes()) != 100 || l.Bytes()[99] != 7 {
		t.Error("the slice is not the memory")
	}
	free(t, a, l)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

func TestClaim13_List(t *testing.T) {
	g, m, areas := guest(t)
	view := allocate(t, g, Parameters{Usage: Xmit, Length: m.Size()})
	ring := allocate(t, g, Parameters{Usage: Other, Length: areas[1].Len()})
	if want := []Segment{{0, 64 * page}, {4 << 30, 64 * page}}; !slices.Equal(view.SG, want) {
		t.Errorf("view: %v, want %v", view.SG, want)
	}
	if want := []Segment{{4<<30 + 64, 518}}; !slices.Equal(ring.SG, want) {
		t.Errorf("ring area: %v, want %v", ring.SG, want)
	}
	free(t, g, view, ring)
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}

// Handles for indications name one allocation each, for ever.
func TestClaim14_Handle(t *testing.T) {
	a, b := host(t, page), host(t, page)
	seen := map[Handle]bool{0: true}
	for range 10 {
		for _, x := range []*Allocator{a, b} {
			l := allocate(t, x, Parameters{Usage: Receive, Length: 1})
			if seen[l.Handle] {
				t.Errorf("handle %d comes twice", l.Handle)
			}
			seen[l.Handle] = true
			free(t, x, l)
		}
	}
	for _, x := range []*Allocator{a, b} {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The handle that frees is another than the one that indications carry: who
// saw an indication cannot free its memory.
func TestClaim15_AllocationHandle(t *testing.T) {
	a := host(t, page)
	l := allocate(t, a, Parameters{Usage: Receive, Length: 1})
	if err := a.Free(AllocationHandle{id: l.Handle}); !errors.Is(err, ErrHandle) {
		t.Errorf("the indication's handle freed it: %v", err)
	}
	if a.Bytes(0, Receive) != 1 {
		t.Error("a refused free changed the account")
	}
	free(t, a, l)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// Memory is freed once, by its own allocator, and whoever errs is told.
func TestClaim16_FreedOnce(t *testing.T) {
	p, other := &recorder{}, &recorder{}
	a, b := NewAllocator(p, AllocatorOptions{}), NewAllocator(other, AllocatorOptions{})
	x, y := allocate(t, a, Parameters{Usage: Receive, Length: 6}), allocate(t, a, Parameters{Usage: Receive, Length: 6})
	if err := b.Free(x.AllocationHandle); !errors.Is(err, ErrHandle) {
		t.Errorf("foreign: %v", err)
	}
	free(t, a, x)
	for range 2 {
		if err := a.Free(x.AllocationHandle); !errors.Is(err, ErrHandle) {
			t.Errorf("double free: %v", err)
		}
	}
	if p.allocated != 1 || other.allocated != 0 || a.Bytes(0, Receive) != 6 {
		t.Errorf("the providers have %d and %d out, %d bytes accounted; want 1, 0, 6", p.allocated, other.allocated, a.Bytes(0, Receive))
	}
	if err := a.Close(); err == nil || p.closed != 0 {
		t.Error("closed with memory in use")
	}
	free(t, a, y)
	if err := errors.Join(a.Close(), b.Close()); err != nil {
		t.Error(err)
	}
}

// Memory for which a node is preferred comes from it, and what was freed has
// no preference any more. A node that is not there is no reason to fail.
func TestPreferredNode(t *testing.T) {
	nodes, err := sys.MemoryNodes()
	if err != nil {
		t.Fatal(err)
	}
	if sys.PreferNode(0, 0, nodes[0]) != nil {
		t.Skip("this machine or sandbox lets nobody choose")
	}
	a := host(t, 16*page)
	small := allocate(t, a, Parameters{Usage: Other, Length: 100})
	for _, number := range nodes {
		l := allocate(t, a, Parameters{Usage: Receive, Length: 2*page + 5, Node: OnNode(number)})
		if l.Node != OnNode(number) {
			t.Fatalf("asked for node %d, got %s", number, l.Node)
		}
		for off := uint64(0); off < l.VA[0].Len(); off += page {
			addr := l.VA[0].Sub(off, 1).addr()
			l.VA[0].Store8(uint32(off), 1)
			if got, err := sys.NodeOf(addr); err != nil || got != number {
				t.Errorf("byte %d lies on node %d, %v; want %d", off, got, err, number)
			}
			if got, ok, err := sys.PreferredNode(addr); err != nil || !ok || got != number {
				t.Errorf("byte %d prefers node %d, %v, %v; want %d", off, got, ok, err, number)
			}
		}
		addr := l.VA[0].addr()
		free(t, a, l)
		if got, ok, err := sys.PreferredNode(addr); err != nil || ok {
			t.Errorf("freed memory prefers node %d, %v", got, err)
		}
	}
	if got, ok, err := sys.PreferredNode(small.VA[0].addr()); err != nil || ok {
		t.Errorf("a neighbour prefers node %d, %v", got, err)
	}
	nowhere := allocate(t, a, Parameters{Usage: Receive, Length: page, Node: OnNode(1000)})
	if nowhere.Node != AnyNode {
		t.Errorf("memory of node 1000 is said to be of node %s", nowhere.Node)
	}
	free(t, a, small, nowhere)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
