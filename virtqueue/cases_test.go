package virtqueue_test

import (
	"math"

	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// What drivers may write and what not, by the numbers of docs/security.md. All
// of it is offered to rings of caseSize entries whose chains have at most
// caseChain descriptors, over 4 MiB of memory; INDIRECT_DESC was accepted.
const (
	caseSize  = 8
	caseChain = 32
	end       = vqtest.PairGPA + 4<<20
)

// goodChain is a chain, and what it becomes.
type goodChain struct {
	name               string
	direct, table      []rawDesc
	readable, writable uint32
	blocks             [2]int // readable, writable
}

// badChain is what breaks a ring, and what its owner is told.
type badChain struct {
	name          string
	direct, table []rawDesc
	reason        virtqueue.Reason
	says          string
}

// circle is n descriptors, of which the last one leads back to the first.
func circle(n int) []rawDesc {
	list := line(n)
	list[n-1].flags, list[n-1].next = flagNext, 0
	return list
}

// empty makes descriptors empty.
func empty(list []rawDesc) []rawDesc {
	for i := range list {
		list[i].len = 0
	}
	return list
}

var goodSplit = []goodChain{
	{"V39 as long as the ring", line(caseSize), nil, caseSize, 0, [2]int{caseSize, 0}},
	{"V39 table as long as MaxChain", []rawDesc{toTable(32)}, line(32), 32, 0, [2]int{32, 0}},
	{"V40 direct, then a table", []rawDesc{{data, 10, flagNext, 1}, toTable(2)}, []rawDesc{{data, 5, flagNext, 1}, {data, 7, flagWrite, 0}}, 15, 7, [2]int{2, 1}},
	{"V40 ring full of descriptors, the last one a table", append(line(caseSize)[:caseSize-1], toTable(2)), line(2), caseSize + 1, 0, [2]int{caseSize + 1, 0}},
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
}

// goodPacked: an indirect table is read entry by entry, and only WRITE in it
// means something (virtio 1.3, section 2.8.7).
var goodPacked = []goodChain{
	{"V38 any id, and any in the slots before it", []rawDesc{{data, 1, flagNext, 7}, {data, 1, 0, 0xffff}}, nil, 2, 0, [2]int{2, 0}},
	{"V39 as long as the ring", line(caseSize), nil, caseSize, 0, [2]int{caseSize, 0}},
	{"V39 table as long as MaxChain", []rawDesc{toTable(caseChain)}, line(caseChain), caseChain, 0, [2]int{caseChain, 0}},
	{"V40 WRITE at the table means nothing", []rawDesc{{tableAt, 16, flagIndirect | flagWrite, 0}}, []rawDesc{{data, 9, 0, 0}}, 9, 0, [2]int{1, 0}},
	{"V40 INDIRECT in a table means nothing", []rawDesc{toTable(2)}, []rawDesc{{data, 16, flagIndirect, 0}, {data, 16, flagIndirect | flagNext | flagWrite, 0}}, 16, 16, [2]int{1, 1}},
	{"V40 NEXT in a table means nothing", []rawDesc{toTable(3)}, []rawDesc{{data, 1, 0, 9}, {data, 2, flagNext, 0}, {data, 4, flagWrite | flagNext, 0}}, 3, 4, [2]int{2, 1}},
	{"unknown flags", []rawDesc{{data, 6, 0x7f78, 0}}, nil, 6, 0, [2]int{1, 0}},
	{"unknown flags, writable", []rawDesc{{data, 6, 0x7f78 | flagWrite, 0}}, nil, 0, 6, [2]int{0, 1}},
	{"unknown flags in a table", []rawDesc{toTable(1)}, []rawDesc{{data, 6, 0xfff8 | flagWrite, 0}}, 0, 6, [2]int{0, 1}},
	{"V45 empty, address beyond everything", []rawDesc{{math.MaxUint64, 0, 0, 0}}, nil, 0, 0, [2]int{}},
	{"V45 empty and writable", []rawDesc{{math.MaxUint64, 0, flagWrite, 0}}, nil, 0, 0, [2]int{}},
	{"V45 empty in a table", []rawDesc{toTable(1)}, []rawDesc{{math.MaxUint64, 0, 0, 0}}, 0, 0, [2]int{}},
	{"V67 empty ones between", []rawDesc{{data, 12, flagNext, 1}, {0, 0, flagNext, 2}, {data, 60, flagNext, 3}, {0, 0, flagNext | flagWrite, 4}, {data, 1, flagWrite, 0}}, nil, 72, 1, [2]int{2, 1}},
	{"V67 a ring of empty ones", empty(line(caseSize)), nil, 0, 0, [2]int{}},
	{"V43 header of single bytes", line(5), nil, 5, 0, [2]int{5, 0}},
	{"V47 all of the memory", []rawDesc{{vqtest.PairGPA, 4 << 20, flagWrite, 0}}, nil, 0, 4 << 20, [2]int{0, 1}},
}

var badSplit = []badChain{
	{"V37 self loop", circle(1), nil, virtqueue.ReasonLoop, "more descriptors than its table of 8"},
	{"V37 circle of two", circle(2), nil, virtqueue.ReasonLoop, "circle"},
	{"V37 circle of all", circle(caseSize), nil, virtqueue.ReasonLoop, "circle"},
	{"V37 circle of empty descriptors", empty(circle(2)), nil, virtqueue.ReasonLoop, "circle"},
	{"V37 circle in a table", []rawDesc{toTable(3)}, circle(3), virtqueue.ReasonLoop, "more descriptors than its table of 3"},
	{"V37 empty self loop in a table", []rawDesc{toTable(32)}, empty(circle(1)), virtqueue.ReasonLoop, "circle"},
	{"V38 next = size", []rawDesc{{data, 1, flagNext, caseSize}}, nil, virtqueue.ReasonNext, "next 8 is not below the table's size, 8"},
	{"V38 next = size + 1", []rawDesc{{data, 1, flagNext, caseSize + 1}}, nil, virtqueue.ReasonNext, "next 9"},
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
}

var badPacked = []badChain{
	{"V37 NEXT all around the ring", circle(caseSize), nil, virtqueue.ReasonLoop, "more descriptors than its table of 8"},
	{"V37 empty ones all around the ring", empty(circle(caseSize)), nil, virtqueue.ReasonLoop, "circle"},
	{"V39 table longer than MaxChain", []rawDesc{toTable(caseChain + 1)}, line(caseChain + 1), virtqueue.ReasonTable, "indirect table of 528 bytes; it must be a multiple of 16, from 16 to 512"},
	{"V40 INDIRECT, then NEXT", []rawDesc{{tableAt, 16, flagIndirect | flagNext, 1}, {data, 1, 0, 0}}, line(1), virtqueue.ReasonIndirectNext, "has a next"},
	{"V40 direct, then a table", []rawDesc{{data, 10, flagNext, 1}, toTable(2)}, line(2), virtqueue.ReasonIndirectChain, "not alone in its chain"},
	{"V41 table of 0 bytes", []rawDesc{{tableAt, 0, flagIndirect, 0}}, line(1), virtqueue.ReasonTable, "table of 0 bytes"},
	{"V41 table of 1 byte", []rawDesc{{tableAt, 1, flagIndirect, 0}}, line(1), virtqueue.ReasonTable, "table of 1 bytes"},
	{"V41 table of 15 bytes", []rawDesc{{tableAt, 15, flagIndirect, 0}}, line(1), virtqueue.ReasonTable, "table of 15 bytes"},
	{"V41 table of 17 bytes", []rawDesc{{tableAt, 17, flagIndirect, 0}}, line(1), virtqueue.ReasonTable, "table of 17 bytes"},
	{"V41 table of 2^32-16 bytes", []rawDesc{{tableAt, math.MaxUint32 - 15, flagIndirect, 0}}, line(1), virtqueue.ReasonTable, "table of 4294967280 bytes"},
	{"V41 table of 0 bytes with NEXT", []rawDesc{{tableAt, 0, flagIndirect | flagNext, 0}, {tableAt, 0, flagIndirect | flagNext, 0}}, nil, virtqueue.ReasonIndirectNext, "has a next"},
	{"V59 INDIRECT and NEXT all around the ring", []rawDesc{
		{tableAt, 16, flagIndirect | flagNext, 0},
		{tableAt, 16, flagIndirect | flagNext, 0},
		{tableAt, 16, flagIndirect | flagNext, 0},
		{tableAt, 16, flagIndirect | flagNext, 0},
		{tableAt, 16, flagIndirect | flagNext, 0},
		{tableAt, 16, flagIndirect | flagNext, 0},
		{tableAt, 16, flagIndirect | flagNext, 0},
		{tableAt, 16, flagIndirect | flagNext, 0},
	}, line(1), virtqueue.ReasonIndirectNext, "has a next"},
	{"table beyond the memory", []rawDesc{{end, 16, flagIndirect, 0}}, nil, virtqueue.ReasonTableAddress, "table at address 0x100400000"},
	{"table partly beyond the memory", []rawDesc{{end - 16, 32, flagIndirect, 0}}, nil, virtqueue.ReasonTableAddress, "32 bytes, is not inside"},
	{"V23 buffer partly beyond the memory", []rawDesc{{end - 1, 2, 0, 0}}, nil, virtqueue.ReasonUnmapped, "buffer at address 0x1003fffff, 2 bytes"},
	{"V46 second buffer nowhere", []rawDesc{{data, 1, flagNext, 1}, {0, 1, 0, 0}}, nil, virtqueue.ReasonUnmapped, "address 0x0"},
	{"V46 last buffer of a table nowhere", []rawDesc{toTable(6)}, append(line(6)[:5], rawDesc{0, 1, 0, 0}), virtqueue.ReasonUnmapped, "address 0x0"},
	{"V47 length of 2^32-1", []rawDesc{{data, math.MaxUint32, 0, 0}}, nil, virtqueue.ReasonUnmapped, "4294967295 bytes"},
	{"V48 address wraps", []rawDesc{{math.MaxUint64 - 7, 16, 0, 0}}, nil, virtqueue.ReasonUnmapped, "0xfffffffffffffff8, 16 bytes"},
	{"V48 table's address wraps", []rawDesc{{math.MaxUint64 - 7, 16, flagIndirect, 0}}, nil, virtqueue.ReasonTableAddress, "0xfffffffffffffff8"},
	{"V49 readable behind writable", []rawDesc{{data, 1, flagNext | flagWrite, 1}, {data, 1, 0, 0}}, nil, virtqueue.ReasonDirection, "follows a writable one"},
	{"V49 empty readable behind writable", []rawDesc{{data, 1, flagNext | flagWrite, 1}, {data, 0, 0, 0}}, nil, virtqueue.ReasonDirection, "follows a writable one"},
	{"V49 readable behind writable in a table", []rawDesc{toTable(2)}, []rawDesc{{data, 1, flagWrite, 0}, {data, 1, 0, 0}}, virtqueue.ReasonDirection, "follows a writable one"},
}
