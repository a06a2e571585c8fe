package virtqueue_test

import (
	"encoding/binary"
	"math/bits"
	"testing"

	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// stepBytes is the length of a step in a fuzzer's input, headBytes that of what
// stands before the first.
const (
	stepBytes = 9
	headBytes = 7
)

// decodeProgram makes a program of the differential of any bytes.
func decodeProgram(in []byte, packed bool) *diffProgram {
	head := make([]byte, headBytes)
	in = in[copy(head, in):]
	s := ringShape{
		packed: packed, indirect: head[0]&1 != 0, event: head[0]&2 != 0,
		maxChain: 1 + int(head[1])%64, start: binary.LittleEndian.Uint16(head[2:]),
	}
	if packed {
		s.size = 1 + int(head[4])%diffMaxSize
	} else {
		s.size, s.shift, s.onEmpty = 1<<(head[4]%6), head[0]&4 != 0, head[0]&8 != 0
	}
	if head[5] > 0 {
		s.maxBytes = 64 << (head[5] % 6)
	}
	p := &diffProgram{shape: s}
	for ; len(in) >= stepBytes && len(p.steps) < 200; in = in[stepBytes:] {
		p.step(diffOp(in[0])%diffOps, binary.LittleEndian.Uint32(in[1:]), binary.LittleEndian.Uint32(in[5:]))
	}
	return p
}

// encodeProgram is the inverse, but for the bytes of head that mean nothing.
func encodeProgram(p *diffProgram) []byte {
	head := make([]byte, headBytes)
	for i, set := range []bool{p.shape.indirect, p.shape.event, p.shape.shift, p.shape.onEmpty} {
		if set {
			head[0] |= 1 << i
		}
	}
	head[1] = byte(p.shape.maxChain - 1)
	binary.LittleEndian.PutUint16(head[2:], p.shape.start)
	head[4] = byte(p.shape.size - 1)
	if !p.shape.packed {
		for head[4] = 0; 1<<head[4] < p.shape.size; {
			head[4]++
		}
	}
	if p.shape.maxBytes > 0 {
		head[5] = byte(bits.Len32(p.shape.maxBytes)-bits.Len32(64)) + 6
	}
	for _, s := range p.steps {
		head = append(head, byte(s.op))
		head = binary.LittleEndian.AppendUint32(head, s.a)
		head = binary.LittleEndian.AppendUint32(head, s.b)
	}
	return head
}

// fuzzPrograms compares what programs of any bytes do with the model.
func fuzzPrograms(f *testing.F, packed bool) {
	d, err := newDiffer()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(d.Close)
	d.always = true
	g := newGenerator(packed)
	for seed := range uint64(30) {
		var p diffProgram
		g.program(seed, &p)
		f.Add(encodeProgram(&p))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		p := decodeProgram(input, packed)
		if err := d.run(p); err != nil {
			t.Fatalf("%v\n%v", err, p)
		}
	})
}

// FuzzPackedChains: whatever a driver of a packed ring does, and whatever is
// done to its memory, the device does what the model says.
func FuzzPackedChains(f *testing.F) { fuzzPrograms(f, true) }

// FuzzSplitPrograms is the same for a split ring.
func FuzzSplitPrograms(f *testing.F) { fuzzPrograms(f, false) }

// TestProgramsOfBytes: a program comes out of its bytes as it went in.
func TestProgramsOfBytes(t *testing.T) {
	for _, packed := range []bool{false, true} {
		g := newGenerator(packed)
		for seed := range uint64(100) {
			var p diffProgram
			g.program(seed, &p)
			if got, want := decodeProgram(encodeProgram(&p), packed).String(), p.String(); len(p.steps) <= 200 && got != want {
				t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, got, want)
			}
		}
	}
}

// FuzzIndirectTable: a table of any bytes, of any length, at any place in or
// around the guest's memory.
func FuzzIndirectTable(f *testing.F) {
	good := fuzzProgram{desc: [fuzzSize]rawDesc{{fuzzTable, 16 * fuzzEntries, flagIndirect, 0}}}
	entry := func(addr uint64, length uint32, flags, next uint16) []byte {
		b := binary.LittleEndian.AppendUint64(nil, addr)
		b = binary.LittleEndian.AppendUint32(b, length)
		return binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, flags), next)
	}
	const at = vqtest.PairGPA + 9*page
	for _, tables := range [][][]byte{
		{entry(at, 20, 0, 0)},
		{entry(at, 20, flagNext, 1), entry(at+64, 8, flagWrite, 0)},
		{entry(at, 20, flagWrite|flagNext, 1), entry(at+64, 8, 0, 0)},
		{entry(at, 20, flagNext, 0)},
		{entry(at, 0, flagNext, 1), entry(at, 0, flagNext, 0)},
		{entry(fuzzTable, 16, flagIndirect, 0)},
		{entry(at, 20, flagNext, fuzzEntries)},
		{entry(1<<64-8, 16, 0, 0)},
		{entry(at, 1<<32-1, 0, 0)},
		{entry(vqtest.PairGPA+fuzzRegion-4, 8, 0, 0)},
	} {
		var bytes []byte
		for _, t := range tables {
			bytes = append(bytes, t...)
		}
		f.Add(uint32(16*len(tables)), byte(0), bytes)
		f.Add(uint32(16*len(tables)-1), byte(0), bytes)
	}
	f.Add(uint32(0), byte(0), []byte{})
	f.Add(uint32(16*fuzzMaxChain), byte(flagNext), []byte{})
	r := newFuzzRing(f)
	f.Fuzz(func(t *testing.T, length uint32, flags byte, table []byte) {
		p := good
		p.features, p.idx = virtio.IndirectDesc, 1
		p.desc[0].len, p.desc[0].flags = length, flagIndirect|uint16(flags)
		for i := range p.table {
			var raw [16]byte
			table = table[copy(raw[:], table):]
			p.table[i] = rawDesc{
				binary.LittleEndian.Uint64(raw[:]), binary.LittleEndian.Uint32(raw[8:]),
				binary.LittleEndian.Uint16(raw[12:]), binary.LittleEndian.Uint16(raw[14:]),
			}
		}
		_ = r.runProgram(t, &p)
	})
}
