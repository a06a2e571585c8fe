package virtqueue_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
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
	fuzzRegions  = 4
	fuzzRegion   = fuzzPages / fuzzRegions * page
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
	p := fuzzProgram{idx: uint16(in.byte() % (fuzzSize + 2)), start: uint16(int8(in.byte()))}
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
			p.idx = uint16(value) % fuzzSize
			if fine > 250 {
				p.idx = uint16(value) << 8
			}
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
		return base + fuzzRegion*uint64(value>>6) + near
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
	writing, pieces := false, uint64(0)
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
		first := (d.addr - vqtest.PairGPA) / fuzzRegion
		last := (d.addr + uint64(d.len) - 1 - vqtest.PairGPA) / fuzzRegion
		if pieces += last - first + 1; pieces > fuzzMaxChain+fuzzRegions {
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

// fuzzRing is a ring that runs program after program.
type fuzzRing struct {
	pair    *vqtest.Pair
	chains  []virtqueue.Chain
	pattern []byte
}

func newFuzzRing(tb testing.TB) *fuzzRing {
	r := &fuzzRing{
		pair: newPair(tb, vqtest.Options{
			Size: fuzzSize, MaxChain: fuzzMaxChain, Memory: fuzzPages * page, Regions: fuzzRegions, Features: virtio.IndirectDesc,
		}),
		chains:  make([]virtqueue.Chain, fuzzSize),
		pattern: make([]byte, (fuzzPages-1)*page), // all but the ring's page
	}
	for i := range r.pattern {
		r.pattern[i] = byte(i*31 + (i>>8)*7)
	}
	return r
}

// read copies guest memory, if all of it is there.
func (r *fuzzRing) read(gpa, n uint64) (string, bool) {
	off := gpa - vqtest.PairGPA
	if gpa < vqtest.PairGPA || off >= fuzzPages*page || n > fuzzPages*page-off {
		return "", false
	}
	b := make([]byte, n)
	r.pair.Driver.At(gpa, n).CopyTo(b, 0)
	return string(b), true
}

// run compares what comes out of the ring that input makes with the model, and
// answers why the ring broke, if it did.
func (r *fuzzRing) run(t *testing.T, input []byte) error {
	defer func() {
		if t.Failed() {
			t.Logf("program %x", input)
		}
	}()
	program := decode(input)
	return r.runProgram(t, &program)
}

// runProgram is run for a program.
func (r *fuzzRing) runProgram(t *testing.T, program *fuzzProgram) error {
	t.Helper()
	if program.skip() {
		return nil
	}
	r.pair.Driver.At(vqtest.PairGPA+page, uint64(len(r.pattern))).CopyFrom(r.pattern, 0)
	program.load(r.pair.Driver)
	config, err := r.pair.Config()
	if err != nil {
		t.Fatal(err)
	}
	config.Features, config.Err = program.features, nil
	q, err := virtqueue.New(config, r.pair.Mem)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	compare(t, q, r.chains, func() []fuzzChain { return program.model(r.read) })
	return q.Broken()
}

// FuzzSplitChains: no ring, whatever its bytes, does anything but what the
// model says.
func FuzzSplitChains(f *testing.F) {
	r := newFuzzRing(f)
	f.Fuzz(func(t *testing.T, input []byte) { _ = r.run(t, input) })
}

// TestRandomRings runs the same comparison over random programs, and wants
// them to reach every reason for which a chain can break a ring.
func TestRandomRings(t *testing.T) {
	const seed = 20261121
	random := rand.New(rand.NewPCG(seed, 0))
	r := newFuzzRing(t)
	reached := map[virtqueue.Reason]int{}
	for range 50_000 {
		input := make([]byte, 4+4*random.IntN(16))
		for j := range input {
			input[j] = byte(random.Uint32())
		}
		err := r.run(t, input)
		if broken, ok := errors.AsType[*virtqueue.BrokenError](err); ok {
			reached[broken.Reason]++
		}
	}
	for _, want := range []virtqueue.Reason{
		virtqueue.ReasonAvailIndex, virtqueue.ReasonHead, virtqueue.ReasonNext, virtqueue.ReasonLoop, virtqueue.ReasonTooLong,
		virtqueue.ReasonDirection, virtqueue.ReasonUnnegotiated, virtqueue.ReasonIndirectNext, virtqueue.ReasonNested,
		virtqueue.ReasonTable, virtqueue.ReasonUnmapped,
	} {
		if reached[want] == 0 {
			t.Errorf("no program reached reason %d", want)
		}
	}
	t.Logf("reasons reached: %v", reached)
}

// compare pops until the ring is empty or broken and wants what the model says.
// The model is asked anew after each Push, because a chain may read the ring.
func compare(t *testing.T, q *virtqueue.Queue, chains []virtqueue.Chain, model func() []fuzzChain) {
	t.Helper()
	for served := 0; ; {
		want := model()[served:]
		n, err := q.Pop(chains)
		if n == 0 && len(want) == 0 && err == nil {
			return
		}
		if n == 0 && len(want) > 0 && want[0].broken && err != nil {
			return
		}
		if n == 0 || n > len(want) {
			t.Fatalf("Pop = %d, %v, want %d more chains: %s", n, err, len(want), want)
		}
		for i := range n {
			c, w := &chains[i], want[i]
			got := fuzzChain{c.Head, contents(c.ReadableBlocks()), blocksLen(c.WritableBlocks()), false}
			if got != w || uint64(c.Readable) != uint64(len(w.readable)) || uint64(c.Writable) != w.writable {
				t.Fatalf("got  %s\nwant %s", got, w)
			}
		}
		pushAll(q, chains[:n])
		served += n
	}
}

func (c fuzzChain) String() string {
	if c.broken {
		return "broken"
	}
	return fmt.Sprintf("chain %d, %d bytes to write, %d to read: %.40q", c.head, c.writable, len(c.readable), c.readable)
}
