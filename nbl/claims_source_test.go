package nbl

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
)

// Claims of docs/ndis.md about the receive side of a driver.

// newSource is a driver of n Lists that indicates to up, halted at the end.
func newSource(t testing.TB, p SourceParameters) (*Source, *sharedmem.Allocator) {
	t.Helper()
	a := arena(t, 1<<20)
	p.Tag, p.Memory = "tap0", a
	if p.DataSize == 0 {
		p.DataSize = 2048
	}
	if p.Indicate == nil {
		p.Indicate = func([]*List, IndicateFlags) {}
	}
	s, err := NewSource(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Halt(); err != nil {
			t.Error(err)
		}
	})
	return s, a
}

// draw is n Lists of s that hold frames.
func draw(t testing.TB, s *Source, n int) []*List {
	t.Helper()
	lists := make([]*List, n)
	if got := s.Get(lists); got != n {
		t.Fatalf("%d lists drawn, want %d", got, n)
	}
	for i, l := range lists {
		if r := l.Fill(ethernet(60+i), uint64(i+1)); r != metrics.ReasonNone {
			t.Fatal(r)
		}
	}
	return lists
}

// The pool, its Lists and their memory are there when the driver is, before
// any frame.
func TestClaim20_PoolAtInitialize(t *testing.T) {
	s, a := newSource(t, SourceParameters{Lists: 8, Queue: 3})
	if got := a.Bytes(3, sharedmem.Receive); got != 8*2048 {
		t.Errorf("%d bytes of receive memory after initialize, want %d", got, 8*2048)
	}
	if s.PoolOut() != 8 || s.Free() != 8 {
		t.Errorf("%d lists from the pool, %d free; want 8, 8", s.PoolOut(), s.Free())
	}
}

func TestClaim21_IndicationsCarryPoolLists(t *testing.T) {
	var got []*List
	s, _ := newSource(t, SourceParameters{Lists: 4, Indicate: func(b []*List, _ IndicateFlags) { got = append(got, b...) }})
	other, _ := newSource(t, SourceParameters{Lists: 1})
	foreign, lists := draw(t, other, 1), draw(t, s, 3)
	bare := new(List)
	bare.FromBytes(ethernet(60), 1)
	for name, batch := range map[string][]*List{"of another pool": {lists[0], foreign[0]}, "of none": {lists[0], bare}, "that is free": {lists[0], s.spare[0]}} {
		if err := s.Indicate(batch); !errors.Is(err, ErrParameter) || len(got) != 0 {
			t.Errorf("a list %s was indicated: %v", name, err)
		}
	}
	if err := s.Indicate(lists); err != nil || len(got) != 3 {
		t.Errorf("%d indicated, %v", len(got), err)
	}
	if err := s.Indicate(lists); !errors.Is(err, ErrParameter) {
		t.Errorf("lists that are out were indicated again: %v", err)
	}
	if err := errors.Join(s.Return(got), other.Put(foreign)); err != nil {
		t.Error(err)
	}
}

func TestClaim22_OneBuffer(t *testing.T) {
	s, _ := newSource(t, SourceParameters{Lists: 2, Backfill: 16, Indicate: func(b []*List, _ IndicateFlags) {
		for _, l := range b {
			if l.NumBuffers() != 1 || l.NetBuffer(0) != &l.Buffer || len(l.MDLs) != 1 || l.Length == 0 || l.Offset != 16 {
				t.Errorf("%d buffers, %d MDLs, %d bytes at %d", l.NumBuffers(), len(l.MDLs), l.Length, l.Offset)
			}
		}
	}})
	lists := draw(t, s, 2)
	if err := errors.Join(s.Indicate(lists), s.Return(lists)); err != nil {
		t.Error(err)
	}
}

func TestClaim26_SteadyStateAllocatesNothing(t *testing.T) {
	for _, lowWater := range []int{0, 40} { // indicated with Resources: 32 are left
		s, _ := newSource(t, SourceParameters{Lists: 64, LowWater: lowWater})
		frame := ethernet(1514)
		lists := make([]*List, 32)
		if n := testing.AllocsPerRun(100, func() {
			n := s.Get(lists)
			for i, l := range lists[:n] {
				l.Fill(frame, uint64(i))
			}
			err := s.Indicate(lists[:n])
			if lowWater == 0 {
				err = errors.Join(err, s.Return(lists[:n]))
			}
			if err != nil || s.PoolOut() != 64 || s.Free() != 64 {
				t.Errorf("%v, %d out of the pool, %d free", err, s.PoolOut(), s.Free())
			}
		}); n != 0 {
			t.Errorf("%v allocations per batch", n)
		}
	}
}

// The last List that was returned is the first to be drawn, and the length of
// the list is known at each step.
func TestClaim27_FreeList(t *testing.T) {
	s, _ := newSource(t, SourceParameters{Lists: 5})
	lists := draw(t, s, 4)
	if s.Free() != 1 {
		t.Errorf("%d free, want 1", s.Free())
	}
	if err := s.Indicate(lists); err != nil {
		t.Fatal(err)
	}
	for i, l := range []*List{lists[2], lists[0], lists[3]} {
		if err := s.Return([]*List{l}); err != nil || s.Free() != 2+i {
			t.Errorf("%v, %d free, want %d", err, s.Free(), 2+i)
		}
	}
	again := make([]*List, 6)
	if n := s.Get(again); n != 4 || again[0] != lists[3] || again[1] != lists[0] || again[2] != lists[2] {
		t.Errorf("%d drawn, in another order than last in, first out", n)
	}
	if err := errors.Join(s.Put(again[:4]), s.Return(lists[1:2])); err != nil {
		t.Error(err)
	}
}

// What was said of the packet before, and what was done to the List, is not
// seen by the next one.
func TestClaim28_ReturnedListIsReady(t *testing.T) {
	s, _ := newSource(t, SourceParameters{Lists: 1, Backfill: 32})
	l := draw(t, s, 1)[0]
	h := newHeadroom(t, 1, 64)
	if err := l.SetInfo(Info{
		Hash: Hash{Value: 7, Type: HashIPv4}, RSC: Coalesced{Segments: 2}, Filtering: Filtering{QueueID: 9},
		Send: SendChecksum{Needed: true, HeaderOffset: 20, Field: 6}, Received: ReceiveChecksum{Succeeded: true},
	}); err != nil {
		t.Fatal(err)
	}
	l.Drop(metrics.ReasonMTU)
	l.Since = 5
	if err := errors.Join(s.Indicate([]*List{l}), l.Retreat(10, 0, h), l.Advance(20, nil), s.Return([]*List{l})); err != nil {
		t.Fatal(err)
	}
	var one [1]*List
	if s.Get(one[:]) != 1 || one[0] != l {
		t.Fatal("the list did not come back")
	}
	if l.Info() != (Info{}) || l.Status != Pending || l.Reason != metrics.ReasonNone || l.Since != 0 || l.Length != 0 || l.Offset != 32 || len(l.Header()) != 0 {
		t.Errorf("%+v of %d bytes at %d, status %v, since %d", l.Info(), l.Length, l.Offset, l.Status, l.Since)
	}
	if r := l.Fill(ethernet(100), 2); r != metrics.ReasonNone || !bytes.Equal(flat(l), ethernet(100)) {
		t.Error("the next frame is not what was filled in")
	}
	if err := s.Put(one[:]); err != nil {
		t.Error(err)
	}
}

// Freeing to the pool works too: the pool's use goes down, and up again.
func TestClaim29_FreeToThePool(t *testing.T) {
	s, _ := newSource(t, SourceParameters{Lists: 3, ToPool: true})
	if s.PoolOut() != 0 || s.Free() != 3 {
		t.Errorf("%d out of the pool, %d free; want 0, 3", s.PoolOut(), s.Free())
	}
	lists := draw(t, s, 2)
	if s.PoolOut() != 2 {
		t.Errorf("%d out of the pool, want 2", s.PoolOut())
	}
	if err := errors.Join(s.Indicate(lists), s.Return(lists[:1])); err != nil {
		t.Error(err)
	}
	if s.PoolOut() != 1 || s.Free() != 2 {
		t.Errorf("%d out of the pool, %d free; want 1, 2", s.PoolOut(), s.Free())
	}
	if err := s.Return(lists); !errors.Is(err, ErrParameter) || s.PoolOut() != 0 {
		t.Errorf("one returned twice, one once: %v, %d out", err, s.PoolOut())
	}
}

// By default the pool is asked at initialize and at halt only.
func TestClaim30_ReuseIsTheDefault(t *testing.T) {
	s, _ := newSource(t, SourceParameters{Lists: 4})
	for range 5 {
		lists := draw(t, s, 4)
		if err := errors.Join(s.Indicate(lists), s.Return(lists)); err != nil {
			t.Error(err)
		}
		if s.PoolOut() != 4 {
			t.Fatalf("%d out of the pool: lists were freed to it", s.PoolOut())
		}
	}
}

// A packet's List by reuse, and by freeing it to the pool and allocating anew.
func BenchmarkClaim30(b *testing.B) {
	for name, p := range map[string]SourceParameters{"reuse": {Lists: 64}, "pool": {Lists: 64, ToPool: true}} {
		b.Run(name, func(b *testing.B) {
			s, _ := newSource(b, p)
			lists := make([]*List, 32)
			for b.Loop() {
				s.Get(lists)
				if s.Put(lists) != nil {
					b.Fatal("not taken back")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/32, "ns/list")
		})
	}
}

func TestClaim31_HaltFreesEverything(t *testing.T) {
	a := arena(t, 1<<20)
	for _, toPool := range []bool{false, true} {
		s, err := NewSource(SourceParameters{Tag: "tap0", Lists: 4, DataSize: 2048, Memory: a, ToPool: toPool, Indicate: func([]*List, IndicateFlags) {}})
		if err != nil {
			t.Fatal(err)
		}
		lists := draw(t, s, 3)
		if err := s.Indicate(lists); err != nil {
			t.Fatal(err)
		}
		if err := s.Halt(); err == nil || a.Bytes(0, sharedmem.Receive) == 0 {
			t.Errorf("halted with lists out: %v", err)
		}
		if err := errors.Join(s.Return(lists), s.Halt(), s.Halt()); err != nil {
			t.Error(err)
		}
		if got := a.Accounts(); len(got) != 0 || s.PoolOut() != 0 {
			t.Errorf("halt left %v, %d lists out of the pool", got, s.PoolOut())
		}
	}
}

// An indication's memory is named by handle and offset, one segment for each
// MDL, in the same order.
func TestClaim59_SharedMemoryInfo(t *testing.T) {
	s, a := newSource(t, SourceParameters{Lists: 4, Backfill: 64, Queue: 5})
	lists := draw(t, s, 3)
	var flags IndicateFlags
	s.params.Indicate = func(_ []*List, f IndicateFlags) { flags = f }
	for _, l := range lists {
		l.QueueID = 5
	}
	if err := s.Indicate(lists); err != nil {
		t.Fatal(err)
	}
	if flags != SharedMemoryInfoValid|SingleQueue {
		t.Errorf("flags %#x", flags)
	}
	for i, l := range lists {
		got, ok := l.SharedMemory(nil, s.Memory())
		want := SharedMemory{Handle: s.Memory().Handle, Offset: uint64(3-i) * 2048, Length: 2048}
		if !ok || len(got) != 1 || got[0].Handle != want.Handle || got[0].Length != want.Length || got[0].Offset%2048 != 0 {
			t.Errorf("list %d: %+v, %v; want %+v", i, got, ok, want)
		}
		// The offset is that of the memory itself.
		l.MDLs[0].Store8(64, byte(0xc0+i))
		if b := s.Memory().Bytes()[got[0].Offset+64]; b != byte(0xc0+i) {
			t.Errorf("list %d: at offset %d is %#x", i, got[0].Offset, b)
		}
		if f := l.Info().Filtering; f != (Filtering{QueueID: 5}) {
			t.Errorf("list %d: %+v", i, f)
		}
	}
	// With headers in front there are two MDLs, of two allocations.
	h := newHeadroom(t, 1, 128)
	if err := lists[0].Buffer.Retreat(100, 0, h); err != nil {
		t.Fatal(err)
	}
	got, ok := lists[0].SharedMemory(nil, s.Memory(), h.mem)
	if !ok || len(got) != 2 || got[0].Handle != h.mem.Handle || got[1].Handle != s.Memory().Handle {
		t.Errorf("%+v, %v", got, ok)
	}
	if _, ok := lists[0].SharedMemory(nil, s.Memory()); ok {
		t.Error("memory of nobody was named")
	}
	if err := errors.Join(lists[0].Buffer.Advance(100, h), s.Return(lists)); err != nil {
		t.Error(err)
	}
	// Lists of two queues are not said to be of one.
	lists = draw(t, s, 2)
	lists[1].QueueID = 1
	if err := s.Indicate(lists); err != nil || flags&SingleQueue != 0 {
		t.Errorf("%v, flags %#x", err, flags)
	}
	if err := s.Return(lists); err != nil || a.Bytes(5, sharedmem.Receive) == 0 {
		t.Error(err)
	}
}

// With RESOURCES the Lists are free when the call returns, there is nothing to
// return, and who kept one is found.
func TestClaim69_Resources(t *testing.T) {
	var seen []IndicateFlags
	var kept []*List
	up := func(b []*List, f IndicateFlags) { seen, kept = append(seen, f), b }
	s, _ := newSource(t, SourceParameters{Lists: 4, LowWater: 2, Indicate: up})
	lists := draw(t, s, 2)
	if err := s.Indicate(lists); err != nil || seen[0]&Resources != 0 || s.Free() != 2 {
		t.Fatalf("%v, flags %#x, %d free", err, seen, s.Free())
	}
	low := draw(t, s, 1)
	if err := s.Indicate(low); err != nil || seen[1]&Resources == 0 || s.Free() != 2 {
		t.Fatalf("%v, flags %#x, %d free", err, seen, s.Free())
	}
	if err := s.Return(kept); !errors.Is(err, ErrParameter) || s.Free() != 2 {
		t.Errorf("a borrowed list was returned: %v, %d free", err, s.Free())
	}
	if s.Violations() != 0 {
		t.Errorf("%d violations of a receiver that kept to the rules", s.Violations())
	}
	again := draw(t, s, 1)
	if again[0] != low[0] || !bytes.Equal(flat(again[0]), ethernet(60)) {
		t.Error("the list is not reusable at once")
	}
	if err := errors.Join(s.Put(again), s.Return(lists)); err != nil {
		t.Error(err)
	}
}

func TestClaim69_KeptListIsFound(t *testing.T) {
	for name, misuse := range map[string]struct {
		during, after func(t *testing.T, d *Deriver, l *List)
		violations    uint64
		report        string
	}{
		"writes later":  {nil, func(_ *testing.T, _ *Deriver, l *List) { l.QueueID = 3 }, 0, "1 lists were written to"},
		"frame written": {nil, func(_ *testing.T, _ *Deriver, l *List) { l.more.data[0].Store8(100, 1) }, 0, "1 lists were written to"},
		"keeps a clone": {func(t *testing.T, d *Deriver, l *List) {
			if _, err := d.Clone(l, false); err != nil {
				t.Error(err)
			}
		}, nil, 1, "1 were kept"},
		"changes the chain": {func(_ *testing.T, _ *Deriver, l *List) { l.Offset++ }, nil, 1, ""},
	} {
		a := arena(t, 1<<16)
		d := &Deriver{Lists: newPool(t, PoolParameters{Tag: "clones", Size: 1})}
		var borrowed *List
		s, err := NewSource(SourceParameters{Tag: "low", Lists: 1, DataSize: 200, Memory: a, LowWater: 1, Verify: true, Indicate: func(b []*List, _ IndicateFlags) {
			borrowed = b[0]
			if misuse.during != nil {
				misuse.during(t, d, borrowed)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Indicate(draw(t, s, 1)); err != nil {
			t.Fatal(err)
		}
		if misuse.after != nil {
			misuse.after(t, d, borrowed)
		}
		if s.Violations() != misuse.violations {
			t.Errorf("%s: %d violations, want %d", name, s.Violations(), misuse.violations)
		}
		err = s.Halt()
		if misuse.report == "" && err != nil || misuse.report != "" && (err == nil || !strings.Contains(err.Error(), misuse.report) || !strings.Contains(err.Error(), `"low"`)) {
			t.Errorf("%s: the report is %v, want %q", name, err, misuse.report)
		}
	}
}
