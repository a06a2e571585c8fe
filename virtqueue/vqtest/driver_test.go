package vqtest_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"

	"github.com/google/go-cmp/cmp"
)

func newPair(t *testing.T, o vqtest.Options) *vqtest.Pair {
	t.Helper()
	p, err := vqtest.NewPair(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// echo is the simplest device: it writes what it reads, and returns how much.
func echo(t *testing.T, q *virtqueue.Queue) (served int) {
	t.Helper()
	chains := make([]virtqueue.Chain, q.Size())
	n, err := q.Pop(chains)
	if err != nil {
		t.Fatal(err)
	}
	for i := range chains[:n] {
		c := &chains[i]
		data := make([]byte, 0, c.Readable)
		for _, b := range c.ReadableBlocks() {
			part := make([]byte, b.Len())
			b.CopyTo(part, 0)
			data = append(data, part...)
		}
		written := 0
		for _, b := range c.WritableBlocks() {
			part := data[written:min(len(data), written+int(b.Len()))]
			b.CopyFrom(part, 0)
			written += len(part)
		}
		q.Push([]virtqueue.Used{{Head: c.Head, Len: uint32(written)}})
	}
	return n
}

// formats are the two kinds of rings, by what asks for them.
var formats = map[string]virtio.Features{"split": 0, "packed": virtio.RingPacked}

// TestShapes: whatever the split of a request into descriptors, the device
// reads the same bytes and its answer comes back.
func TestShapes(t *testing.T) {
	text := []byte("0123456789")
	splits := [][][]byte{
		{text},
		{text[:1], text[1:]},
		{text[:3], {}, text[3:9], text[9:]},
		{text[:1], text[1:2], text[2:3], text[3:4], text[4:5], text[5:]},
	}
	for name, format := range formats {
		for _, out := range splits {
			for _, in := range [][]int{nil, {100}, {3, 4}, {0, 1, 1, 1, 50}} {
				for _, how := range []vqtest.Request{{}, {Indirect: true}, {Indirect: true, Direct: 1}, {Indirect: true, Direct: 99}} {
					how.Out, how.In = out, in
					t.Run(fmt.Sprintf("%s, %d out, in %v, indirect %v behind %d", name, len(out), in, how.Indirect, how.Direct), func(t *testing.T) {
						testShape(t, format, how, text)
					})
				}
			}
		}
	}
}

func testShape(t *testing.T, format virtio.Features, how vqtest.Request, text []byte) {
	p := newPair(t, vqtest.Options{Size: 16, Features: format | virtio.IndirectDesc})
	room := 0
	for _, n := range how.In {
		room += n
	}
	head, err := p.Driver.Add(how)
	if err != nil {
		t.Fatal(err)
	}
	p.Driver.Publish()
	if n := echo(t, p.Queue); n != 1 {
		t.Fatalf("the device saw %d chains", n)
	}
	done, err := p.Driver.Collect()
	if err != nil {
		t.Fatal(err)
	}
	want := text[:min(len(text), room)]
	if diff := cmp.Diff([]vqtest.Completion{{Head: head, Len: uint32(len(want)), Data: want}}, done); diff != "" {
		t.Errorf("completions (-want +got):\n%s", diff)
	}
	if p.Driver.Available() != 16 {
		t.Errorf("%d descriptors are free, want all 16", p.Driver.Available())
	}
}

// TestFull: what does not fit is refused whole, and fits later.
func TestFull(t *testing.T) {
	for name, format := range formats {
		t.Run(name, func(t *testing.T) { testFull(t, format) })
	}
}

func testFull(t *testing.T, format virtio.Features) {
	p := newPair(t, vqtest.Options{Size: 4, Memory: 16 << 10, Features: format | virtio.IndirectDesc})
	d := p.Driver
	if _, err := d.Add(vqtest.Request{In: []int{8, 8, 8}}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Add(vqtest.Request{In: []int{8, 8}}); !errors.Is(err, vqtest.ErrFull) {
		t.Fatalf("Add without descriptors: %v", err)
	}
	if _, err := d.Add(vqtest.Request{}); !errors.Is(err, vqtest.ErrFull) {
		t.Fatalf("Add of nothing: %v", err)
	}
	if _, err := d.Add(vqtest.Request{In: []int{8, 1 << 20}, Indirect: true}); err == nil || !strings.Contains(err.Error(), "guest memory") {
		t.Fatalf("Add without memory: %v", err)
	}
	if d.Available() != 1 || d.AvailIdx()&3 != uint16(map[bool]int{false: 1, true: 3}[format != 0]) {
		t.Errorf("%d descriptors free, index %d, after refusals", d.Available(), d.AvailIdx())
	}
	for range 10_000 { // memory and descriptors are used again
		d.Publish()
		echo(t, p.Queue)
		if _, err := d.Collect(); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Add(vqtest.Request{Out: [][]byte{make([]byte, 900), make([]byte, 3000)}, In: []int{100, 20}, Indirect: true, Direct: 1}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPost: a chain goes round with its buffers, without being added again.
func TestPost(t *testing.T) {
	for name, format := range formats {
		t.Run(name, func(t *testing.T) { testPost(t, format) })
	}
}

func testPost(t *testing.T, format virtio.Features) {
	p := newPair(t, vqtest.Options{Size: 4, Features: format})
	head, err := p.Driver.Add(vqtest.Request{Out: [][]byte{[]byte("again")}, In: []int{8}})
	if err != nil {
		t.Fatal(err)
	}
	var used [4]virtqueue.Used
	for range 100 {
		p.Driver.Publish()
		echo(t, p.Queue)
		n, err := p.Driver.Reap(used[:])
		if n != 1 || err != nil || used[0] != (virtqueue.Used{Head: head, Len: 5}) {
			t.Fatalf("Reap = %d, %v, %+v", n, err, used[0])
		}
		if got := p.Driver.Written(head, 5); !bytes.Equal(got, []byte("again")) {
			t.Fatalf("written %q", got)
		}
		p.Driver.Post(head)
	}
	if allocs := testing.AllocsPerRun(100, func() {
		p.Driver.Publish()
		echoHead(p.Queue)
		if n, err := p.Driver.Reap(used[:]); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		p.Driver.Post(head)
	}); allocs != 0 {
		t.Errorf("%v allocations per round", allocs)
	}
}

var oneChain [1]virtqueue.Chain

// echoHead serves one chain without allocating.
func echoHead(q *virtqueue.Queue) {
	if n, err := q.Pop(oneChain[:]); n != 1 || err != nil {
		panic(fmt.Errorf("Pop = %d, %w", n, err))
	}
	used := [1]virtqueue.Used{{Head: oneChain[0].Head}}
	q.Push(used[:])
}

// TestBadDevice: what a device must not do is an error of Reap.
func TestBadDevice(t *testing.T) {
	for _, tc := range []struct {
		name string
		id   uint32
		idx  uint16
		want string
	}{
		{"a chain that was never added", 3, 1, "returned chain 3"},
		{"no chain of this ring", 99, 1, "returned chain 99"},
		{"an index far ahead", 0, 5, "5 entries ahead"},
		{"an index behind", 0, 0xffff, "65535 entries ahead"},
		{"one chain twice", 0, 2, "returned chain 0 at used index 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPair(t, vqtest.Options{Size: 4})
			if _, err := p.Driver.Add(vqtest.Request{In: []int{8}}); err != nil {
				t.Fatal(err)
			}
			p.Driver.Publish()
			c, err := p.Config()
			if err != nil {
				t.Fatal(err)
			}
			c.Used.Store64(4, uint64(tc.id))
			c.Used.Store64(12, uint64(tc.id))
			p.Driver.SetUsedIdx(tc.idx)
			if _, err := p.Driver.Collect(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Collect: %v, want %q", err, tc.want)
			}
		})
	}
}

// TestInOrderDescriptors: with IN_ORDER a driver uses its descriptors in the
// order of the table (virtio 1.3, section 2.7.9).
func TestInOrderDescriptors(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 8, Features: virtio.InOrder})
	next := uint16(0)
	for i := range 100 {
		in := make([]int, 1+i%3)
		head, err := p.Driver.Add(vqtest.Request{In: in})
		if err != nil {
			t.Fatal(err)
		}
		if head != next%8 {
			t.Fatalf("request %d got descriptor %d, want %d", i, head, next%8)
		}
		next += uint16(len(in))
		p.Driver.Publish()
		echo(t, p.Queue)
		if _, err := p.Driver.Collect(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLayout: the areas are where the specification allows them, apart, and the
// buffers behind.
func TestLayout(t *testing.T) {
	for size := 1; size <= virtqueue.MaxSize; size *= 2 {
		for _, f := range []virtio.Features{0, virtio.EventIdx} {
			for _, shift := range []bool{false, true} {
				p := newPair(t, vqtest.Options{Size: size, Features: f, ShiftAvail: shift, Start: 0xfff0})
				at := p.Driver.Rings()
				wantShift := uint64(0)
				if shift {
					wantShift = 2
				}
				if at.Desc%16 != 0 || at.Avail%4 != wantShift || at.Used%4 != 0 {
					t.Errorf("size %d: %+v is not aligned", size, at)
				}
				if at.Desc+virtqueue.DescLen(size) > at.Avail || at.Avail+virtqueue.AvailLen(size, f) > at.Used {
					t.Errorf("size %d: %+v overlaps", size, at)
				}
				gpa, err := p.Driver.Alloc(1)
				if err != nil || gpa-vqtest.PairGPA < at.Used+virtqueue.UsedLen(size, f) {
					t.Errorf("size %d: buffers start at %#x, %v", size, gpa, err)
				}
				if p.Driver.UsedIdx() != 0xfff0 || p.Driver.AvailIdx() != 0xfff0 {
					t.Errorf("size %d: indices %d, %d", size, p.Driver.AvailIdx(), p.Driver.UsedIdx())
				}
				p.Close()
			}
		}
	}
}

func TestNewDriverRefuses(t *testing.T) {
	mem := sharedmem.BytesBlock(make([]byte, 1<<16))
	aligned := uint64(0)
	for !mem.Aligned(uint32(aligned), 64) {
		aligned++
	}
	good := mem.Sub(aligned, 1<<15)
	for _, tc := range []struct {
		name string
		c    vqtest.Config
		want string
	}{
		{"size", vqtest.Config{Mem: good, Size: 12}, "ring size 12"},
		{"no size", vqtest.Config{Mem: good}, "ring size 0"},
		{"small memory", vqtest.Config{Mem: mem.Sub(aligned, 64), Size: 8}, "needs 4096 bytes"},
		{"alignment", vqtest.Config{Mem: mem.Sub(aligned+8, 1<<15), Size: 8}, "multiple of 64"},
	} {
		if _, err := vqtest.NewDriver(tc.c); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	if _, err := vqtest.NewDriver(vqtest.Config{Mem: good, Size: 8}); err != nil {
		t.Errorf("a good one: %v", err)
	}
}

func TestNewPairRefuses(t *testing.T) {
	for _, o := range []vqtest.Options{{Size: 5}, {Memory: 10000, Regions: 3}, {Memory: 4096, Size: 1024}, {MaxChain: -1}} {
		if p, err := vqtest.NewPair(o); err == nil {
			p.Close()
			t.Errorf("%+v was accepted", o)
		}
	}
}

// TestMisuse: the test's own mistakes are not taken for the device's.
func TestMisuse(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 4})
	head, err := p.Driver.Add(vqtest.Request{In: []int{8}})
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(uint16){"Free": p.Driver.Free, "Post": p.Driver.Post} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s of a chain that is with the device went unnoticed", name)
				}
			}()
			f(head)
		}()
	}
}
