package virtqueue_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

const (
	flagNext     = vqtest.FlagNext
	flagWrite    = vqtest.FlagWrite
	flagIndirect = vqtest.FlagIndirect
)

// rawDesc is one descriptor, as a malicious driver writes it.
type rawDesc struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16 // the id in a packed ring
}

// data is an address of guest memory that holds nothing else in these tests.
const data = vqtest.PairGPA + 2<<20

// tableAt is where these tests put an indirect table.
const tableAt = vqtest.PairGPA + 1<<20

// offer writes a table, and publishes a chain of descriptors: from entry 0 of
// the table of a split ring on, in the next slots of a packed one.
func offer(p *vqtest.Pair, direct, table []rawDesc) {
	d := p.Driver
	for i, r := range table {
		d.SetTableDesc(tableAt, i, r.addr, r.len, r.flags, r.next)
	}
	list := make([]vqtest.RawDesc, len(direct))
	for i, r := range direct {
		list[i] = vqtest.RawDesc{Addr: r.addr, Len: r.len, Flags: r.flags, Next: r.next}
	}
	d.PutRaw(list)
}

// line is n descriptors of one byte each, one behind the other.
func line(n int) []rawDesc {
	list := make([]rawDesc, n)
	for i := range list {
		list[i] = rawDesc{data + uint64(i), 1, flagNext, uint16(i + 1)}
	}
	list[n-1].flags = 0
	return list
}

// toTable refers to the indirect table of n entries.
func toTable(n int) rawDesc { return rawDesc{tableAt, uint32(16 * n), flagIndirect, 0} }

// entry runs the good and the bad chains of one entry of the catalogue on both
// formats; "" is all of them.
func entry(t *testing.T, number string, bad bool) {
	for _, f := range []struct {
		name   string
		packed virtio.Features
		good   []goodChain
		bad    []badChain
	}{
		{"split", 0, goodSplit, badSplit},
		{"packed", virtio.RingPacked, goodPacked, badPacked},
	} {
		ran := 0
		mine := func(name string) bool {
			return number == "" || strings.HasPrefix(name, number+" ")
		}
		run := func(name string, test func(t *testing.T, p *vqtest.Pair)) {
			ran++
			t.Run(f.name+", "+name, func(t *testing.T) {
				test(t, newPair(t, vqtest.Options{Size: caseSize, MaxChain: caseChain, Features: f.packed | virtio.IndirectDesc}))
			})
		}
		for _, c := range f.good {
			if !bad && mine(c.name) {
				run(c.name, func(t *testing.T, p *vqtest.Pair) { testGood(t, p, c) })
			}
		}
		for _, c := range f.bad {
			if bad && mine(c.name) {
				run(c.name, func(t *testing.T, p *vqtest.Pair) { testBad(t, p, c) })
			}
		}
		switch {
		case ran > 0:
		case number == "V59" && f.packed == 0: // INDIRECT and NEXT are V40 there
		case number == "V38" && f.packed != 0 && bad: // no descriptor of it names another one
		default:
			t.Errorf("no %s case of %q", f.name, number)
		}
	}
}

func TestV23_BuffersBeyondMemory(t *testing.T)  { entry(t, "V23", true) }
func TestV37_Loops(t *testing.T)                { entry(t, "V37", true) }
func TestV38_NextOutOfRange(t *testing.T)       { entry(t, "V38", true) }
func TestV39_LongestChain(t *testing.T)         { entry(t, "V39", false) }
func TestV39_LongerThanTheLongest(t *testing.T) { entry(t, "V39", true) }
func TestV40_DirectAndIndirect(t *testing.T)    { entry(t, "V40", false) }
func TestV40_IndirectWhereNot(t *testing.T)     { entry(t, "V40", true) }
func TestV41_TableLength(t *testing.T)          { entry(t, "V41", true) }
func TestV43_HeaderOfSingleBytes(t *testing.T)  { entry(t, "V43", false) }
func TestV45_EmptyAndNowhere(t *testing.T)      { entry(t, "V45", false) }
func TestV46_ErrorInAChain(t *testing.T)        { entry(t, "V46", true) }
func TestV47_LargestBuffer(t *testing.T)        { entry(t, "V47", false) }
func TestV47_LengthBeyondMemory(t *testing.T)   { entry(t, "V47", true) }
func TestV48_AddressWraps(t *testing.T)         { entry(t, "V48", true) }
func TestV49_Direction(t *testing.T)            { entry(t, "V49", true) }
func TestV59_IndirectAndNext(t *testing.T)      { entry(t, "V59", true) }
func TestV67_EmptyBuffers(t *testing.T)         { entry(t, "V67", false) }
func TestChains(t *testing.T)                   { entry(t, "", false) }
func TestBrokenChains(t *testing.T)             { entry(t, "", true) }

func testGood(t *testing.T, p *vqtest.Pair, tc goodChain) {
	offer(p, tc.direct, tc.table)
	got := popAll(t, p.Queue, 2)
	if len(got) != 1 {
		t.Fatalf("%d chains, want 1", len(got))
	}
	c := &got[0]
	if c.Readable != tc.readable || c.Writable != tc.writable {
		t.Errorf("%d bytes readable, %d writable; want %d, %d", c.Readable, c.Writable, tc.readable, tc.writable)
	}
	readable, writable := c.ReadableBlocks(), c.WritableBlocks()
	if len(readable) != tc.blocks[0] || len(writable) != tc.blocks[1] {
		t.Errorf("%d and %d Blocks, want %v", len(readable), len(writable), tc.blocks)
	}
	if blocksLen(readable) != uint64(c.Readable) || blocksLen(writable) != uint64(c.Writable) {
		t.Errorf("the Blocks have %d and %d bytes", blocksLen(readable), blocksLen(writable))
	}
	pushAll(p.Queue, got)
	wantUsed(t, p, tc.direct, tc.writable)
}

// wantUsed checks the first used entry of a ring: it names the chain, tells
// what was written, and is where the driver looks for it.
func wantUsed(t *testing.T, p *vqtest.Pair, direct []rawDesc, written uint32) {
	t.Helper()
	if !p.Queue.Features().Has(virtio.RingPacked) {
		if id, n := p.Driver.UsedEntry(0); id != 0 || n != written {
			t.Errorf("used entry %d, %d bytes", id, n)
		}
		return
	}
	want := vqtest.RawDesc{Addr: direct[0].addr, Len: written, Flags: vqtest.FlagAvail | vqtest.FlagUsed, Next: direct[len(direct)-1].next}
	if written > 0 {
		want.Flags |= flagWrite
	}
	if got := p.Driver.Slot(0); got != want {
		t.Errorf("slot 0 is %+v, want %+v", got, want)
	}
}

func testBad(t *testing.T, p *vqtest.Pair, tc badChain) {
	offer(p, tc.direct, tc.table)
	wantBroken(t, p, tc.reason)
	if text := p.Queue.Broken().Error(); !strings.Contains(text, tc.says) {
		t.Errorf("message %q does not say %q", text, tc.says)
	}
	if n := p.Driver.Ready(); n != 0 {
		t.Errorf("%d chains were returned", n)
	}
}

func TestV40_UnnegotiatedIndirect(t *testing.T) {
	for _, f := range formats {
		p := newPair(t, vqtest.Options{Size: 8, Features: f})
		offer(p, []rawDesc{toTable(1)}, line(1))
		wantBroken(t, p, virtqueue.ReasonUnnegotiated)
	}
}

// TestV48_TotalLength: a chain of 2^32-1 bytes is the longest; buffers may
// overlap, so a small guest can describe it.
func TestV48_TotalLength(t *testing.T) {
	const piece = 4 << 20
	for _, tc := range []struct {
		last uint32 // behind 1023 pieces of 4 MiB
		ok   bool
	}{{piece - 1, true}, {piece, false}} {
		for name, f := range formats {
			t.Run(fmt.Sprint(name, ", last one of ", tc.last), func(t *testing.T) { testTotal(t, f, piece, tc.last, tc.ok) })
		}
	}
}

func testTotal(t *testing.T, f virtio.Features, piece, last uint32, ok bool) {
	p := newPair(t, vqtest.Options{Size: 1024, Features: f})
	list := make([]rawDesc, 1024)
	for i := range list {
		list[i] = rawDesc{vqtest.PairGPA, piece, flagNext, uint16(i + 1)}
	}
	list[1023] = rawDesc{vqtest.PairGPA, last, 0, 0}
	offer(p, list, nil)
	if !ok {
		wantBroken(t, p, virtqueue.ReasonTotal)
		return
	}
	got := popAll(t, p.Queue, 1)
	if len(got) != 1 || got[0].Readable != math.MaxUint32 || blocksLen(got[0].ReadableBlocks()) != math.MaxUint32 {
		t.Errorf("chain of 2^32-1 bytes: %d chains", len(got))
	}
}

// TestV46_ErrorAtEveryPosition: one bad descriptor anywhere in a chain, direct
// or in a table, and nothing of the chain is used.
func TestV46_ErrorAtEveryPosition(t *testing.T) {
	const n = 7
	for bad := range n {
		for _, indirect := range []bool{false, true} {
			for name, f := range formats {
				t.Run(fmt.Sprintf("%s, descriptor %d, indirect %v", name, bad, indirect), func(t *testing.T) {
					p := newPair(t, vqtest.Options{Size: 8, Features: f | virtio.IndirectDesc})
					list := line(n)
					list[bad].addr = vqtest.PairGPA - 1
					list[bad].len = 2
					if indirect {
						offer(p, []rawDesc{toTable(n)}, list)
					} else {
						offer(p, list, nil)
					}
					wantBroken(t, p, virtqueue.ReasonUnmapped)
					if p.Driver.Ready() != 0 {
						t.Error("something was returned")
					}
				})
			}
		}
	}
}

// TestV23_NeighbouringRegions: buffers that cross from one region into the
// next become several Blocks with the right bytes; more of them than a chain
// can have break the ring.
func TestV23_NeighbouringRegions(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) { testNeighbours(t, f) })
	}
}

func testNeighbours(t *testing.T, f virtio.Features) {
	p := newPair(t, vqtest.Options{Size: 8, Memory: 64 * page, Regions: 4, Features: f | virtio.IndirectDesc})
	boundary := uint64(vqtest.PairGPA + 32*page)
	p.Driver.At(boundary-3, 6).CopyFrom([]byte("abcdef"), 0)
	p.Driver.At(boundary+16*page-2, 4).CopyFrom([]byte("wxyz"), 0)
	offer(p, []rawDesc{
		{boundary - 3, 6, flagNext, 1},
		{boundary + 16*page - 2, 4, flagNext, 2},
		{boundary - 1, 16*page + 2, flagWrite, 0}, // over a whole region
	}, nil)
	got := popAll(t, p.Queue, 1)
	if len(got) != 1 {
		t.Fatal("no chain")
	}
	c := &got[0]
	if text := contents(c.ReadableBlocks()); text != "abcdefwxyz" || len(c.ReadableBlocks()) != 4 {
		t.Errorf("readable: %q in %d Blocks", text, len(c.ReadableBlocks()))
	}
	if blocks := c.WritableBlocks(); len(blocks) != 3 || blocks[0].Len() != 1 || blocks[1].Len() != 16*page || blocks[2].Len() != 1 {
		t.Errorf("writable: %d Blocks", len(blocks))
	}
	pushAll(p.Queue, got)

	// An indirect table has to lie in one region.
	offer(p, []rawDesc{{boundary - 16, 32, flagIndirect, 0}}, nil)
	wantBroken(t, p, virtqueue.ReasonTableAddress)
}

// TestTooManyPieces: descriptors that cross a boundary need more Blocks than
// there is memory for, whether the last one crosses it too or not.
func TestTooManyPieces(t *testing.T) {
	for _, crossing := range []int{8, 5} {
		p := newPair(t, vqtest.Options{Size: 8, MaxChain: 8, Memory: 64 * page, Regions: 2})
		list := line(8)
		for i := range list {
			list[i].addr, list[i].len = vqtest.PairGPA+32*page-1, 2
			if i >= crossing {
				list[i].len = 1
			}
		}
		offer(p, list, nil)
		wantBroken(t, p, virtqueue.ReasonTooLong)
		if text := p.Queue.Broken().Error(); !strings.Contains(text, "8 descriptors or 10 pieces") {
			t.Errorf("message %q", text)
		}
	}
}

// TestArena: long chains are taken as far as there is room for their Blocks,
// the others when some were returned; the longest possible one fits whenever
// none is taken.
func TestArena(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) { testArena(t, f) })
	}
}

func testArena(t *testing.T, f virtio.Features) {
	const long = 20
	p := newPair(t, vqtest.Options{Size: 64, MaxChain: 64, Features: f | virtio.IndirectDesc})
	for range 40 {
		out := make([][]byte, long)
		for j := range out {
			out[j] = []byte{byte(j)}
		}
		add(t, p, vqtest.Request{Out: out, Indirect: true})
	}
	p.Driver.Publish()
	fit := p.Queue.ArenaBlocks() / long
	want := ""
	for j := range long {
		want += string(rune(j))
	}
	for left := 40; left > 0; {
		got := popAll(t, p.Queue, 64)
		if len(got) != min(fit, left) {
			t.Fatalf("%d chains of %d Blocks, want %d", len(got), long, min(fit, left))
		}
		if left > fit {
			if more := popAll(t, p.Queue, 64); len(more) != 0 {
				t.Fatalf("%d more chains than fit", len(more))
			}
			if !p.Queue.Arm() {
				t.Error("Arm does not see the chains that wait")
			}
		}
		for i := range got {
			if s := contents(got[i].ReadableBlocks()); s != want {
				t.Fatalf("chain %d reads %q", i, s)
			}
		}
		pushAll(p.Queue, got)
		left -= len(got)
	}
	add(t, p, vqtest.Request{In: make([]int, 64), Indirect: true}) // empty descriptors
	longest := make([]int, 64)
	for i := range longest {
		longest[i] = 1
	}
	add(t, p, vqtest.Request{In: longest, Indirect: true})
	p.Driver.Publish()
	if got := popAll(t, p.Queue, 2); len(got) != 2 || got[1].Writable != 64 || len(got[1].WritableBlocks()) != 64 {
		t.Fatalf("the longest chain did not come: %d chains", len(got))
	}
}

// TestBrokenErrorIsTyped: the error's fields say what a program needs.
func TestBrokenErrorIsTyped(t *testing.T) {
	p := newPair(t, vqtest.Options{Index: 7, Size: 8, Start: 300})
	offer(p, []rawDesc{{0xdead, 5, 0, 0}}, nil)
	_, err := p.Queue.Pop(make([]virtqueue.Chain, 1))
	var broken *virtqueue.BrokenError
	if !errors.As(err, &broken) {
		t.Fatal(err)
	}
	want := virtqueue.BrokenError{Ring: 7, Reason: virtqueue.ReasonUnmapped, Position: 300, Values: [2]uint64{0xdead, 5}}
	if *broken != want {
		t.Errorf("%+v, want %+v", *broken, want)
	}
}
