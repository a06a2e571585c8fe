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
	next  uint16
}

// data is an address of guest memory that holds nothing else in these tests.
const data = vqtest.PairGPA + 2<<20

// tableAt is where these tests put an indirect table.
const tableAt = vqtest.PairGPA + 1<<20

// offer writes descriptors from entry 0 of the ring's table on, and a table,
// and publishes a chain that begins at entry 0.
func offer(p *vqtest.Pair, direct, table []rawDesc) {
	d := p.Driver
	for i, r := range direct {
		d.SetDesc(uint16(i), r.addr, r.len, r.flags, r.next)
	}
	for i, r := range table {
		d.SetTableDesc(tableAt, i, r.addr, r.len, r.flags, r.next)
	}
	idx := d.AvailIdx()
	d.SetAvailEntry(idx, 0)
	d.SetAvailIdx(idx + 1)
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

// TestChains: what is good, and what it becomes.
func TestChains(t *testing.T) {
	const size = 8
	for _, tc := range []struct {
		name               string
		direct, table      []rawDesc
		readable, writable uint32
		blocks             [2]int // readable, writable
	}{
		{"V39 as long as the ring", line(size), nil, size, 0, [2]int{size, 0}},
		{"V39 table as long as MaxChain", []rawDesc{toTable(32)}, line(32), 32, 0, [2]int{32, 0}},
		{"V40 direct, then a table", []rawDesc{{data, 10, flagNext, 1}, toTable(2)}, []rawDesc{{data, 5, flagNext, 1}, {data, 7, flagWrite, 0}}, 15, 7, [2]int{2, 1}},
		{"V40 ring full of descriptors, the last one a table", append(line(size)[:size-1], toTable(2)), line(2), size + 1, 0, [2]int{size + 1, 0}},
		{"V40 WRITE at the table means nothing", []rawDesc{{tableAt, 16, flagIndirect | flagWrite, 0}}, []rawDesc{{data, 9, 0, 0}}, 9, 0, [2]int{1, 0}},
		{"table in any order, with entries that are not used", []rawDesc{toTable(4)}, []rawDesc{{data, 1, flagNext, 3}, {1, 1, flagIndirect, 99}, {data, 4, flagWrite, 0}, {data, 2, flagNext, 2}}, 3, 4, [2]int{2, 1}},
		{"unknown flags", []rawDesc{{data, 6, 0xfff8, 0}}, nil, 6, 0, [2]int{1, 0}},
		{"unknown flags, writable", []rawDesc{{data, 6, 0xfff8 | flagWrite, 0}}, nil, 0, 6, [2]int{0, 1}},
		{"V45 empty, address beyond everything", []rawDesc{{math.MaxUint64, 0, 0, 0}}, nil, 0, 0, [2]int{}},
		{"V45 empty and writable", []rawDesc{{math.MaxUint64, 0, flagWrite, 0}}, nil, 0, 0, [2]int{}},
		{"V45 empty in a table", []rawDesc{toTable(1)}, []rawDesc{{math.MaxUint64, 0, 0, 0}}, 0, 0, [2]int{}},
		{"V67 empty ones between", []rawDesc{{data, 12, flagNext, 1}, {0, 0, flagNext, 2}, {data, 60, flagNext, 3}, {0, 0, flagNext | flagWrite, 4}, {data, 1, flagWrite, 0}}, nil, 72, 1, [2]int{2, 1}},
		{"V43 header of single bytes", line(5), nil, 5, 0, [2]int{5, 0}},
		{"four and four", []rawDesc{{data, 1, flagNext, 1}, {data, 1, flagNext, 2}, {data, 1, flagNext, 3}, {data, 1, flagNext, 4}, {data, 1, 3, 5}, {data, 1, 3, 6}, {data, 1, 3, 7}, {data, 1, 2, 0}}, nil, 4, 4, [2]int{4, 4}},
		{"V47 all of the memory", []rawDesc{{vqtest.PairGPA, 4 << 20, flagWrite, 0}}, nil, 0, 4 << 20, [2]int{0, 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPair(t, vqtest.Options{Size: size, MaxChain: 32, Features: virtio.IndirectDesc})
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
			if id, n := p.Driver.UsedEntry(0); id != 0 || n != tc.writable {
				t.Errorf("used entry %d, %d bytes", id, n)
			}
		})
	}
}

// TestBrokenChains: what breaks the ring, and what it is told about.
func TestBrokenChains(t *testing.T) {
	const size, end = 8, vqtest.PairGPA + 4<<20
	circle := func(n int) []rawDesc { // n descriptors, the last one leads back to the first
		list := line(n)
		list[n-1].flags = flagNext
		list[n-1].next = 0
		return list
	}
	empty := func(list []rawDesc) []rawDesc {
		for i := range list {
			list[i].len = 0
		}
		return list
	}
	for _, tc := range []struct {
		name          string
		direct, table []rawDesc
		reason        virtqueue.Reason
		says          string
	}{
		{"V37 self loop", circle(1), nil, virtqueue.ReasonLoop, "more descriptors than its table of 8"},
		{"V37 circle of two", circle(2), nil, virtqueue.ReasonLoop, "circle"},
		{"V37 circle of all", circle(size), nil, virtqueue.ReasonLoop, "circle"},
		{"V37 circle of empty descriptors", empty(circle(2)), nil, virtqueue.ReasonLoop, "circle"},
		{"V37 circle in a table", []rawDesc{toTable(3)}, circle(3), virtqueue.ReasonLoop, "more descriptors than its table of 3"},
		{"V37 empty self loop in a table", []rawDesc{toTable(32)}, empty(circle(1)), virtqueue.ReasonLoop, "circle"},
		{"V38 next = size", []rawDesc{{data, 1, flagNext, size}}, nil, virtqueue.ReasonNext, "next 8 is not below the table's size, 8"},
		{"V38 next = size + 1", []rawDesc{{data, 1, flagNext, size + 1}}, nil, virtqueue.ReasonNext, "next 9"},
		{"V38 next = 65535", []rawDesc{{data, 1, flagNext, 0xffff}}, nil, virtqueue.ReasonNext, "next 65535"},
		{"V38 next in a table beyond it, though inside the ring", []rawDesc{toTable(2)}, []rawDesc{{data, 1, flagNext, 2}}, virtqueue.ReasonNext, "next 2 is not below the table's size, 2"},
		{"V39 table longer than MaxChain", []rawDesc{toTable(33)}, line(33), virtqueue.ReasonTable, "indirect table of 528 bytes; it must be a multiple of 16, from 16 to 512"},
		{"V39 direct and table together longer than MaxChain", []rawDesc{{data, 1, flagNext, 1}, toTable(32)}, line(32), virtqueue.ReasonTooLong, "more than 32 descriptors"},
		{"V40 INDIRECT and NEXT", []rawDesc{{tableAt, 16, flagIndirect | flagNext, 1}, {data, 1, 0, 0}}, line(1), virtqueue.ReasonIndirectNext, "has a next"},
		{"V40 table in a table", []rawDesc{toTable(2)}, []rawDesc{{data, 1, flagNext, 1}, toTable(1)}, virtqueue.ReasonNested, "inside an indirect table"},
		{"V40 table as the first entry of a table", []rawDesc{toTable(1)}, []rawDesc{toTable(1)}, virtqueue.ReasonNested, "inside an indirect table"},
		{"V41 table of 0 bytes", []rawDesc{{tableAt, 0, flagIndirect, 0}}, line(1), virtqueue.ReasonTable, "table of 0 bytes"},
		{"V41 table of 1 byte", []rawDesc{{tableAt, 1, flagIndirect, 0}}, line(1), virtqueue.ReasonTable, "table of 1 bytes"},
		{"V41 table of 15 bytes", []rawDesc{{tableAt, 15, flagIndirect, 0}}, line(1), virtqueue.ReasonTable, "table of 15 bytes"},
		{"V41 table of 17 bytes", []rawDesc{{tableAt, 17, flagIndirect, 0}}, line(1), virtqueue.ReasonTable, "table of 17 bytes"},
		{"V41 table of 2^32-16 bytes", []rawDesc{{tableAt, math.MaxUint32 - 15, flagIndirect, 0}}, line(1), virtqueue.ReasonTable, "table of 4294967280 bytes"},
		{"table beyond the memory", []rawDesc{{end, 16, flagIndirect, 0}}, nil, virtqueue.ReasonTableAddress, "table at address 0x100400000"},
		{"table partly beyond the memory", []rawDesc{{end - 16, 32, flagIndirect, 0}}, nil, virtqueue.ReasonTableAddress, "32 bytes, is not inside"},
		{"V23 buffer partly beyond the memory", []rawDesc{{end - 1, 2, 0, 0}}, nil, virtqueue.ReasonUnmapped, "buffer at address 0x1003fffff, 2 bytes"},
		{"buffer before the memory", []rawDesc{{vqtest.PairGPA - 1, 2, 0, 0}}, nil, virtqueue.ReasonUnmapped, "not wholly inside"},
		{"buffer nowhere, writable", []rawDesc{{0, 1, flagWrite, 0}}, nil, virtqueue.ReasonUnmapped, "address 0x0"},
		{"V46 second buffer nowhere", []rawDesc{{data, 1, flagNext, 1}, {0, 1, 0, 0}}, nil, virtqueue.ReasonUnmapped, "address 0x0"},
		{"V46 last buffer of a table nowhere", []rawDesc{toTable(6)}, append(line(6)[:5], rawDesc{0, 1, 0, 0}), virtqueue.ReasonUnmapped, "address 0x0"},
		{"V47 length of 2^32-1", []rawDesc{{data, math.MaxUint32, 0, 0}}, nil, virtqueue.ReasonUnmapped, "4294967295 bytes"},
		{"V48 address wraps", []rawDesc{{math.MaxUint64 - 7, 16, 0, 0}}, nil, virtqueue.ReasonUnmapped, "0xfffffffffffffff8, 16 bytes"},
		{"V48 table's address wraps", []rawDesc{{math.MaxUint64 - 7, 16, flagIndirect, 0}}, nil, virtqueue.ReasonTableAddress, "0xfffffffffffffff8"},
		{"V49 readable behind writable", []rawDesc{{data, 1, flagNext | flagWrite, 1}, {data, 1, 0, 0}}, nil, virtqueue.ReasonDirection, "follows a writable one"},
		{"V49 empty readable behind writable", []rawDesc{{data, 1, flagNext | flagWrite, 1}, {data, 0, 0, 0}}, nil, virtqueue.ReasonDirection, "follows a writable one"},
		{"V49 readable in a table behind writable", []rawDesc{{data, 1, flagNext | flagWrite, 1}, toTable(1)}, line(1), virtqueue.ReasonDirection, "follows a writable one"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPair(t, vqtest.Options{Size: size, MaxChain: 32, Features: virtio.IndirectDesc})
			offer(p, tc.direct, tc.table)
			wantBroken(t, p, tc.reason)
			if text := p.Queue.Broken().Error(); !strings.Contains(text, tc.says) {
				t.Errorf("message %q does not say %q", text, tc.says)
			}
		})
	}
}

func TestV40_UnnegotiatedIndirect(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 8})
	offer(p, []rawDesc{toTable(1)}, line(1))
	wantBroken(t, p, virtqueue.ReasonUnnegotiated)
}

// TestV48_TotalLength: a chain of 2^32-1 bytes is the longest; buffers may
// overlap, so a small guest can describe it.
func TestV48_TotalLength(t *testing.T) {
	const piece = 4 << 20
	for _, tc := range []struct {
		last uint32 // behind 1023 pieces of 4 MiB
		ok   bool
	}{{piece - 1, true}, {piece, false}} {
		p := newPair(t, vqtest.Options{Size: 1024})
		list := make([]rawDesc, 1024)
		for i := range list {
			list[i] = rawDesc{vqtest.PairGPA, piece, flagNext, uint16(i + 1)}
		}
		list[1023] = rawDesc{vqtest.PairGPA, tc.last, 0, 0}
		offer(p, list, nil)
		if !tc.ok {
			wantBroken(t, p, virtqueue.ReasonTotal)
			continue
		}
		got := popAll(t, p.Queue, 1)
		if len(got) != 1 || got[0].Readable != math.MaxUint32 || blocksLen(got[0].ReadableBlocks()) != math.MaxUint32 {
			t.Errorf("chain of 2^32-1 bytes: %d chains", len(got))
		}
	}
}

// TestV46_ErrorAtEveryPosition: one bad descriptor anywhere in a chain, direct
// or in a table, and nothing of the chain is used.
func TestV46_ErrorAtEveryPosition(t *testing.T) {
	const n = 7
	for bad := range n {
		for _, indirect := range []bool{false, true} {
			t.Run(fmt.Sprintf("descriptor %d, indirect %v", bad, indirect), func(t *testing.T) {
				p := newPair(t, vqtest.Options{Size: 8, Features: virtio.IndirectDesc})
				list := line(n)
				list[bad].addr = vqtest.PairGPA - 1
				list[bad].len = 2
				if indirect {
					offer(p, []rawDesc{toTable(n)}, list)
				} else {
					offer(p, list, nil)
				}
				wantBroken(t, p, virtqueue.ReasonUnmapped)
				if p.Driver.UsedIdx() != 0 {
					t.Error("something was returned")
				}
			})
		}
	}
}

// TestV23_NeighbouringRegions: buffers that cross from one region into the
// next become several Blocks with the right bytes; more of them than a chain
// can have break the ring.
func TestV23_NeighbouringRegions(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 8, Memory: 64 * page, Regions: 4, Features: virtio.IndirectDesc})
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
	const long = 20
	p := newPair(t, vqtest.Options{Size: 64, MaxChain: 64, Features: virtio.IndirectDesc})
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
