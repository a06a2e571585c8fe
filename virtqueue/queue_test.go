package virtqueue_test

import (
	"errors"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"

	"github.com/google/go-cmp/cmp"
)

// TestRingBytes moves two chains through a ring that is written and read as
// bytes, so that nothing but the specification defines them.
func TestRingBytes(t *testing.T) {
	file, err := sharedmem.NewMemoryFile(1 << 16)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Unref()
	mem, err := sharedmem.NewMap([]sharedmem.Region{{GPA: 0x40000000, Size: 1 << 16, File: file}}, sharedmem.MapOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Unref()
	block := func(gpa, n uint64) sharedmem.Block {
		b, err := mem.Block(gpa, n)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	desc, avail, used := block(0x40000000, 64), block(0x40001000, 12), block(0x40002000, 36)
	desc.CopyFrom([]byte{
		// addr                 len          flags  next
		0, 0x80, 0, 0x40, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 2, 0, // 0: 3 bytes at 0x40008000, NEXT 2
		0, 0x90, 0, 0x40, 0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0, // 1: 256 bytes at 0x40009000, WRITE
		3, 0x80, 0, 0x40, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 3, 0, // 2: 2 bytes at 0x40008003, NEXT 3
		0, 0xa0, 0, 0x40, 0, 0, 0, 0, 4, 0, 0, 0, 2, 0, 9, 9, // 3: 4 bytes at 0x4000a000, WRITE, next without meaning
	}, 0)
	used.CopyFrom([]byte{
		0, 0, // flags
		0xff, 0xff, // idx: an earlier device returned 65535 chains
	}, 0)
	avail.CopyFrom([]byte{
		0, 0, // flags
		1, 0, // idx: two chains since
		1, 0, // ring[0]: index 0
		0, 0, // ring[1]
		0, 0, // ring[2]
		0, 0, // ring[3]: index 65535
	}, 0)
	block(0x40008000, 5).CopyFrom([]byte("hello"), 0)

	q, err := virtqueue.New(virtqueue.Config{Size: 4, Desc: desc, Avail: avail, Used: used}, mem)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if flags := used.Load16(0); flags != 1 {
		t.Errorf("used.flags = %d at the start, want NO_NOTIFY", flags)
	}
	var chains [4]virtqueue.Chain
	if n, err := q.Pop(chains[:]); n != 2 || err != nil {
		t.Fatalf("Pop = %d, %v", n, err)
	}
	first, second := &chains[0], &chains[1]
	if first.Head != 0 || first.Readable != 5 || first.Writable != 4 || len(first.ReadableBlocks()) != 2 || len(first.WritableBlocks()) != 1 {
		t.Errorf("first chain %+v", first)
	}
	if got := contents(first.ReadableBlocks()); got != "hello" {
		t.Errorf("first chain reads %q", got)
	}
	if second.Head != 1 || second.Readable != 0 || second.Writable != 256 || len(second.ReadableBlocks()) != 0 {
		t.Errorf("second chain %+v", second)
	}
	first.WritableBlocks()[0].CopyFrom([]byte("ok"), 0)
	if got := contents([]sharedmem.Block{block(0x4000a000, 2)}); got != "ok" {
		t.Errorf("the guest sees %q", got)
	}
	if !q.Push([]virtqueue.Used{{Head: 0, Len: 2}, {Head: 1, Len: 0x100}}) {
		t.Error("the first Push made no call")
	}
	got := make([]byte, 36)
	used.CopyTo(got, 0)
	want := []byte{
		1, 0, // flags: NO_NOTIFY
		1, 0, // idx
		1, 0, 0, 0, 0, 1, 0, 0, // index 0: chain 1, 256 bytes
		0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0, 2, 0, 0, 0, // index 65535: chain 0, 2 bytes
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("used ring (-want +got):\n%s", diff)
	}
}

func TestPopInBatches(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 16})
	var want []uint16
	for range 10 {
		want = append(want, add(t, p, vqtest.Request{In: []int{64}}))
	}
	if n, err := p.Queue.Ready(); n != 0 || err != nil {
		t.Fatalf("Ready = %d, %v before Publish", n, err)
	}
	p.Driver.Publish()
	if n, err := p.Queue.Ready(); n != 10 || err != nil {
		t.Fatalf("Ready = %d, %v, want 10", n, err)
	}
	if n, err := p.Queue.Pop(nil); n != 0 || err != nil {
		t.Fatalf("Pop into nothing = %d, %v", n, err)
	}
	var got []uint16
	chains := make([]virtqueue.Chain, 4)
	for _, batch := range []int{4, 4, 2, 0} {
		n, err := p.Queue.Pop(chains)
		if n != batch || err != nil {
			t.Fatalf("Pop = %d, %v, want %d", n, err, batch)
		}
		for i := range chains[:n] {
			got = append(got, chains[i].Head)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("heads (-want +got):\n%s", diff)
	}
}

// TestUnpop: what goes back is found again, in its place, and what stays taken
// is not disturbed.
func TestUnpop(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 16})
	for range 6 {
		add(t, p, vqtest.Request{In: []int{64}})
	}
	p.Driver.Publish()
	first := popAll(t, p.Queue, 6)
	p.Queue.Unpop(4)
	if n, _ := p.Queue.Ready(); n != 4 {
		t.Fatalf("Ready = %d after Unpop, want 4", n)
	}
	again := popAll(t, p.Queue, 6)
	if len(again) != 4 || again[0].Head != first[2].Head || again[3].Head != first[5].Head {
		t.Fatalf("popped again: %d chains, heads %d to %d", len(again), again[0].Head, again[3].Head)
	}
	pushAll(p.Queue, first[:2])
	p.Queue.Unpop(1)
	pushAll(p.Queue, again[:3])
	p.Queue.Unpop(5) // none is taken
	p.Queue.Unpop(-1)
	last := popAll(t, p.Queue, 6)
	if len(last) != 1 || last[0].Head != first[5].Head {
		t.Fatalf("last chain %+v", last)
	}
	pushAll(p.Queue, last)
	done, err := p.Driver.Collect()
	if len(done) != 6 || err != nil {
		t.Fatalf("the driver has %d chains back, %v", len(done), err)
	}
	for i := range done {
		if done[i].Head != first[i].Head || done[i].Len != 64 {
			t.Errorf("used entry %d: %+v, want chain %d", i, done[i], first[i].Head)
		}
	}
}

// TestV36_AvailIndexAhead: an index further ahead than the ring has room, or
// behind, breaks the ring.
func TestV36_AvailIndexAhead(t *testing.T) {
	const size = 16
	for _, shift := range []bool{false, true} {
		for _, start := range []uint16{0, 7, 65535} {
			for _, tc := range []struct {
				ahead  uint16
				taken  int
				broken bool
			}{
				{size, 0, false},
				{size + 1, 0, true},
				{0x8000, 0, true},
				{0xffff, 0, true},
				{size, 3, false},    // 3 taken, 13 more
				{size + 1, 3, true}, // the driver cannot own the 3 as well
				{2, 3, true},        // backwards, over what is taken
			} {
				p := newPair(t, vqtest.Options{Size: size, Start: start, ShiftAvail: shift})
				for range size {
					add(t, p, vqtest.Request{In: []int{8}})
				}
				p.Driver.SetAvailIdx(start + uint16(tc.taken))
				popAll(t, p.Queue, tc.taken)
				p.Driver.SetAvailIdx(start + tc.ahead)
				if tc.broken {
					wantBroken(t, p, virtqueue.ReasonAvailIndex)
				} else if n, err := p.Queue.Ready(); n != int(tc.ahead)-tc.taken || err != nil {
					t.Errorf("%d ahead, %d taken: Ready = %d, %v", tc.ahead, tc.taken, n, err)
				}
				p.Close()
			}
		}
	}
}

// TestV36_SlotsBeforeTheyAreGivenBack: a packed ring has no index that could
// run ahead. Its driver can make slots available again that the device has not
// given back; more than the ring has are never taken, and no slot twice.
func TestV36_SlotsBeforeTheyAreGivenBack(t *testing.T) {
	for _, size := range []int{1, 2, 3, 16, 17} {
		for start := range uint16(2 * size) {
			for taken := range size + 1 {
				p := newPair(t, vqtest.Options{Size: size, Start: start, Features: virtio.RingPacked})
				for i := range size {
					p.Driver.PutRaw([]vqtest.RawDesc{{Addr: data, Len: 8, Next: uint16(i)}})
				}
				if taken > 0 {
					popAll(t, p.Queue, taken)
				}
				avail, _ := p.Driver.Positions()
				for i := range size { // the lap again, as if all had come back
					p.Driver.PutRaw([]vqtest.RawDesc{{Addr: data, Len: 8, Next: uint16(100 + i)}})
				}
				if again, _ := p.Driver.Positions(); again == avail {
					t.Fatal("the driver did not go on")
				}
				chains := make([]virtqueue.Chain, 2*size+1)
				n, err := p.Queue.Pop(chains)
				if taken+n > size {
					t.Fatalf("%d slots, %d taken: %d more", size, taken, n)
				}
				for i := range n {
					if chains[i].Head < 100 && int(chains[i].Head) < taken {
						t.Fatalf("%d slots, %d taken: chain %d came twice", size, taken, chains[i].Head)
					}
				}
				if taken == size && err == nil {
					t.Fatalf("%d slots, all taken: a slot that is available again went unnoticed", size)
				}
				p.Close()
			}
		}
	}
}

// TestV60_StaleUsedIndex: a ring whose used.idx is ahead of avail.idx, as one
// of an earlier life of the driver, is broken and not served backwards.
func TestV60_StaleUsedIndex(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 16})
	add(t, p, vqtest.Request{In: []int{8}})
	p.Driver.Publish()
	p.Driver.SetUsedIdx(9)
	if err := p.Restart(nil); err != nil {
		t.Fatal(err)
	}
	wantBroken(t, p, virtqueue.ReasonAvailIndex)
}

// TestV38_HeadOutOfRange: heads are compared with the ring's size; the good
// chains before a bad head are served first.
func TestV38_HeadOutOfRange(t *testing.T) {
	for _, head := range []uint16{16, 17, 0x7fff, 0xffff} {
		for at := range 5 {
			p := newPair(t, vqtest.Options{Size: 16})
			for range 5 {
				add(t, p, vqtest.Request{In: []int{8}})
			}
			p.Driver.SetAvailEntry(uint16(at), head)
			p.Driver.Publish()
			if at > 0 {
				good := popAll(t, p.Queue, 5)
				if len(good) != at {
					t.Fatalf("head %d at %d: %d chains came", head, at, len(good))
				}
				pushAll(p.Queue, good)
			}
			wantBroken(t, p, virtqueue.ReasonHead)
			if done, err := p.Driver.Collect(); len(done) != at || err != nil {
				t.Errorf("head %d at %d: the driver has %d chains back, %v", head, at, len(done), err)
			}
			p.Close()
		}
	}
}

// TestV50_PushOutOfOrder: chains that were not taken, or not in this order, are
// the owner's mistake. The guest does not see it, the ring stops.
func TestV50_PushOutOfOrder(t *testing.T) {
	for _, tc := range []struct {
		name string
		used []virtqueue.Used
	}{
		{"another order", []virtqueue.Used{{Head: 0}, {Head: 2}, {Head: 1}}},
		{"twice", []virtqueue.Used{{Head: 0}, {Head: 0}}},
		{"too many", []virtqueue.Used{{Head: 0}, {Head: 1}, {Head: 2}, {Head: 3}}},
		{"no such chain", []virtqueue.Used{{Head: 9999}}},
	} {
		for name, f := range formats {
			t.Run(name+", "+tc.name, func(t *testing.T) {
				p := newPair(t, vqtest.Options{Size: 16, Features: f})
				for range 6 {
					add(t, p, vqtest.Request{In: []int{8}})
				}
				p.Driver.Publish()
				start := p.Driver.UsedIdx()
				popAll(t, p.Queue, 3)
				if p.Queue.Push(tc.used) {
					t.Error("Push asks for a call")
				}
				wantBroken(t, p, virtqueue.ReasonPush)
				if idx := p.Driver.UsedIdx(); idx != start || p.Driver.Ready() != 0 {
					t.Errorf("the used ring is at %#x, want nothing published", idx)
				}
				if s := p.Queue.Suspend(); s != (virtqueue.State{Avail: start, Used: start, Packed: f != 0}) {
					t.Errorf("Suspend = %+v, want the start", s)
				}
			})
		}
	}
}

func TestPushNothing(t *testing.T) {
	p := newPair(t, vqtest.Options{})
	if p.Queue.Push(nil) || p.Queue.Broken() != nil {
		t.Error("Push of nothing did something")
	}
}

// TestBreak: the first reason stays, whoever gives it, and is told once.
func TestBreak(t *testing.T) {
	p := newPair(t, vqtest.Options{Index: 5})
	add(t, p, vqtest.Request{In: []int{8}})
	p.Driver.Publish()
	taken := popAll(t, p.Queue, 1)
	cause := errors.New("readable bytes in a receive ring")
	p.Queue.Break(cause)
	p.Queue.Break(errors.New("another"))
	wantBroken(t, p, virtqueue.ReasonOwner)
	if err := p.Queue.Broken(); !errors.Is(err, cause) ||
		err.Error() != "virtqueue: ring 5 is broken at avail position 1: readable bytes in a receive ring" {
		t.Errorf("Broken = %v", err)
	}
	if pushAll(p.Queue, taken) || p.Driver.UsedIdx() != 0 {
		t.Error("a broken ring was written to")
	}
	if s := p.Queue.Suspend(); s.Base() != 0 {
		t.Errorf("Suspend = %+v, want the position behind what was published", s)
	}
	if p.Queue.Broken() == nil {
		t.Error("a suspended ring forgot that it is broken")
	}
}

// TestBrokenRingHeals: a new start of the ring serves it again.
func TestBrokenRingHeals(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 4})
	add(t, p, vqtest.Request{In: []int{8}})
	p.Driver.SetAvailEntry(0, 77)
	p.Driver.Publish()
	wantBroken(t, p, virtqueue.ReasonHead)
	p.Driver.SetAvailEntry(0, 0)
	if err := p.Restart(nil); err != nil {
		t.Fatal(err)
	}
	if got := popAll(t, p.Queue, 4); len(got) != 1 {
		t.Fatalf("%d chains after the new start, want 1", len(got))
	}
}

func TestAccessors(t *testing.T) {
	f := virtio.Version1 | virtio.EventIdx
	p := newPair(t, vqtest.Options{Index: 2, Size: 64, Features: f})
	q := p.Queue
	if areas := q.Areas(); len(areas) != 3 || areas[0].Len() != virtqueue.DescLen(64) || areas[1].Len() != virtqueue.AvailLen(64, virtio.EventIdx) || areas[2].Len() != virtqueue.UsedLen(64, virtio.EventIdx) {
		t.Errorf("Areas = %v", areas)
	}
	if q.Index() != 2 || q.Size() != 64 || q.Features() != f || q.Kick() != p.Kick || q.Call() != p.Call || q.Mem() != p.Mem {
		t.Error("an accessor does not answer what New was given")
	}
}

// TestNoAllocations: the packet's way allocates nothing, for any shape of
// chain.
func TestNoAllocations(t *testing.T) {
	for _, bc := range benchChains {
		t.Run(bc.name, func(t *testing.T) {
			p := newPair(t, vqtest.Options{Features: virtio.IndirectDesc | virtio.EventIdx, Memory: 64 << 20})
			fillRing(t, p, bc.req)
			chains, used := make([]virtqueue.Chain, 32), make([]virtqueue.Used, 32)
			idx := uint16(0)
			allocs := testing.AllocsPerRun(100, func() {
				p.Queue.Arm()
				idx += 32
				p.Driver.SetAvailIdx(idx)
				n, err := p.Queue.Pop(chains)
				if n != 32 || err != nil {
					t.Fatalf("Pop = %d, %v", n, err)
				}
				p.Queue.Unpop(16)
				if n, err = p.Queue.Pop(chains[16:]); n != 16 || err != nil {
					t.Fatalf("Pop = %d, %v", n, err)
				}
				for i := range used {
					used[i] = virtqueue.Used{Head: chains[i].Head}
				}
				p.Queue.Push(used)
			})
			if allocs != 0 {
				t.Errorf("%v allocations per batch", allocs)
			}
		})
	}
}
