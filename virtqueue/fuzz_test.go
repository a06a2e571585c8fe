package virtqueue_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// The ring that is fuzzed: small, in four neighbouring regions, with a table
// in the second of them.
const (
	fuzzSize     = 8
	fuzzMaxChain = 12
	fuzzPages    = 16
	fuzzTable    = vqtest.PairGPA + 4*page
	fuzzEntries  = 14 // of the indirect table
)

// fuzzProgram is a ring as a guest made it: a good one, which input then
// spoils. A raw string of bytes as a ring would hardly ever pass the first
// check.
type fuzzProgram struct {
	features virtio.Features
	start    uint16
	idx      uint16 // chains published
	desc     [fuzzSize]rawDesc
	table    [fuzzEntries]rawDesc
	heads    [fuzzSize]uint16
}

// fuzzInput hands out bytes, zeros at the end.
type fuzzInput []byte

func (in *fuzzInput) byte() byte {
	if len(*in) == 0 {
		return 0
	}
	b := (*in)[0]
	*in = (*in)[1:]
	return b
}

// decode makes a program of any bytes: four for the ring, then four for each
// word that is not as in a good ring.
func decode(in fuzzInput) fuzzProgram {
	p := fuzzProgram{idx: uint16(in.byte() % 12), start: uint16(int8(in.byte()))}
	if in.byte()&1 == 0 {
		p.features = virtio.IndirectDesc
	}
	in.byte()
	for i := range p.desc {
		p.desc[i] = rawDesc{vqtest.PairGPA + 2*page + 64*uint64(i), 40, 0, 0}
		p.heads[i] = uint16(i)
	}
	for i := range p.table {
		p.table[i] = rawDesc{vqtest.PairGPA + 9*page + 64*uint64(i), 20, flagNext, uint16(i + 1)}
	}
	for len(in) > 0 {
		where, what, value, fine := in.byte(), in.byte(), in.byte(), in.byte()
		d := &p.desc[where%fuzzSize]
		if where&0x80 != 0 {
			d = &p.table[where%fuzzEntries]
		}
		switch what % 8 {
		case 0:
			d.addr = fuzzAddress(value, fine)
		case 1:
			d.len = uint32(value) | uint32(fine)<<8
		case 2:
			d.len = uint32(fine)<<24 | uint32(value)
		case 3:
			d.flags = uint16(value)
		case 4:
			d.flags, d.next = d.flags|flagNext, uint16(value)
		case 5:
			*d = rawDesc{fuzzTable, 16 * uint32(value), flagIndirect | uint16(fine), uint16(fine)}
		case 6:
			p.heads[where%fuzzSize] = uint16(value)
		case 7:
			p.idx = uint16(value) | uint16(fine)<<8
		}
	}
	return p
}

// fuzzAddress is an address near something interesting.
func fuzzAddress(value, fine byte) uint64 {
	near := uint64(int64(int8(fine)))
	switch base := uint64(vqtest.PairGPA); value % 6 {
	case 0:
		return base + near
	case 1:
		return base + fuzzPages*page + near
	case 2:
		return near
	case 3:
		return base + fuzzPages/4*page*uint64(value>>6) + near
	case 4:
		return fuzzTable + near
	default:
		return base + 2*page + uint64(value)*16 + near
	}
}

// load writes the program into the ring.
func (p *fuzzProgram) load(d *vqtest.Driver) {
	d.SetUsedIdx(p.start)
	for i, r := range p.desc {
		d.SetDesc(uint16(i), r.addr, r.len, r.flags, r.next)
	}
	for i, r := range p.table {
		d.SetTableDesc(fuzzTable, i, r.addr, r.len, r.flags, r.next)
	}
	for i, h := range p.heads {
		d.SetAvailEntry(p.start+uint16(i), h)
	}
	d.SetAvailIdx(p.start + p.idx)
}

// fuzzChain is what the specification makes of a chain: the bytes to read, and
// how many to write. broken: nothing.
type fuzzChain struct {
	head     uint16
	readable string
	writable uint64
	broken   bool
}

// model is a second reading of the rules, slow and plain, without any of the
// package's code. read copies guest memory.
func (p *fuzzProgram) model(read func(gpa, n uint64) (string, bool)) (chains []fuzzChain) {
	if p.idx > fuzzSize {
		return []fuzzChain{{broken: true}}
	}
	for i := range p.idx {
		c := p.modelChain(p.heads[i], read)
		chains = append(chains, c)
		if c.broken {
			break
		}
	}
	return chains
}

func (p *fuzzProgram) modelChain(head uint16, read func(gpa, n uint64) (string, bool)) fuzzChain {
	bad := fuzzChain{broken: true}
	if head >= fuzzSize {
		return bad
	}
	// First the list of descriptors, each entry of a table at most once.
	var list []rawDesc
	table, seen := p.desc[:], map[uint16]bool{}
	inTable := false
	for i := head; ; {
		if int(i) >= len(table) || seen[i] {
			return bad
		}
		seen[i] = true
		d := table[i]
		if d.flags&flagIndirect != 0 {
			n := d.len / 16
			if inTable || p.features == 0 || d.flags&flagNext != 0 || d.len%16 != 0 || n == 0 || n > fuzzMaxChain || d.addr != fuzzTable {
				return bad
			}
			inTable, table, seen, i = true, p.table[:n], map[uint16]bool{}, 0
			continue
		}
		list = append(list, d)
		if d.flags&flagNext == 0 {
			break
		}
		i = d.next
	}
	if len(list) > fuzzMaxChain {
		return bad
	}
	c := fuzzChain{head: head}
	writing := false
	var text strings.Builder
	for _, d := range list {
		write := d.flags&flagWrite != 0
		if writing && !write {
			return bad
		}
		writing = write
		if d.len == 0 {
			continue
		}
		s, ok := read(d.addr, uint64(d.len))
		if !ok {
			return bad
		}
		if write {
			c.writable += uint64(d.len)
		} else {
			text.WriteString(s)
		}
	}
	c.readable = text.String()
	return c
}

// skip reports programs that the model does not cover: tables elsewhere than
// at fuzzTable, whose entries it does not know.
func (p *fuzzProgram) skip() bool {
	return slices.ContainsFunc(p.desc[:], func(d rawDesc) bool {
		return d.flags&flagIndirect != 0 && d.addr != fuzzTable
	})
}

// FuzzSplitChains compares what comes out of a ring with the model.
func FuzzSplitChains(f *testing.F) {
	p, err := vqtest.NewPair(vqtest.Options{
		Size: fuzzSize, MaxChain: fuzzMaxChain, Memory: fuzzPages * page, Regions: 4, Features: virtio.IndirectDesc,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(p.Close)
	pattern := make([]byte, (fuzzPages-1)*page)
	for i := range pattern {
		pattern[i] = byte(i*31 + i>>8*7)
	}
	read := func(gpa, n uint64) (string, bool) {
		off := gpa - vqtest.PairGPA
		if gpa < vqtest.PairGPA || off >= fuzzPages*page || n > fuzzPages*page-off {
			return "", false
		}
		b := make([]byte, n)
		p.Driver.At(gpa, n).CopyTo(b, 0)
		return string(b), true
	}
	chains := make([]virtqueue.Chain, fuzzSize)
	f.Fuzz(func(t *testing.T, input []byte) {
		program := decode(input)
		if program.skip() {
			return
		}
		p.Driver.At(vqtest.PairGPA+page, uint64(len(pattern))).CopyFrom(pattern, 0)
		program.load(p.Driver)
		config, err := p.Config()
		if err != nil {
			t.Fatal(err)
		}
		config.Features, config.Err = program.features, nil
		q, err := virtqueue.New(config, p.Mem)
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		compare(t, q, chains, program.model(read))
	})
}

// compare pops until the ring is empty or broken and wants what the model says.
func compare(t *testing.T, q *virtqueue.Queue, chains []virtqueue.Chain, want []fuzzChain) {
	t.Helper()
	for len(want) > 0 {
		n, err := q.Pop(chains)
		if err != nil || n == 0 {
			if !want[0].broken || err == nil {
				t.Fatalf("Pop = %d, %v, want %d more chains: %s", n, err, len(want), want[0])
			}
			return
		}
		for i := range n {
			c, w := &chains[i], want[0]
			got := fuzzChain{c.Head, contents(c.ReadableBlocks()), blocksLen(c.WritableBlocks()), false}
			if got != w || uint64(c.Readable) != uint64(len(w.readable)) || uint64(c.Writable) != w.writable {
				t.Fatalf("got  %s\nwant %s", got, w)
			}
			want = want[1:]
		}
		pushAll(q, chains[:n])
	}
	if n, err := q.Pop(chains); n != 0 || err != nil {
		t.Fatalf("Pop = %d, %v, want an empty ring", n, err)
	}
}

func (c fuzzChain) String() string {
	if c.broken {
		return "broken"
	}
	return fmt.Sprintf("chain %d, %d bytes to write, %d to read: %.40q", c.head, c.writable, len(c.readable), c.readable)
}
