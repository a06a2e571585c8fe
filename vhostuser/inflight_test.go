package vhostuser

import (
	"slices"
	"strings"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// inflightBench is a session of a port that offers inflight regions.
func inflightBench(t *testing.T) (*bench, *guest) {
	t.Helper()
	d := newStub()
	d.features |= virtio.RingPacked
	b := newBench(t, d, func(o *Options) { o.Inflight = true })
	g := newGuest(t)
	b.handshake(g)
	b.dev.take()
	return b, g
}

// region asks for an inflight region for two rings and gives it with its memory.
func (b *bench) region() (v Inflight, fd *sys.FD, at sharedmem.Block) {
	b.t.Helper()
	v, fd = b.getInflight()
	b.t.Cleanup(func() { _ = fd.Close() })
	return v, fd, mapped(b.t, fd, v.Size)
}

// getInflight asks for an inflight region for two rings.
func (b *bench) getInflight() (v Inflight, fd *sys.FD) {
	b.t.Helper()
	b.say(GetInflightFD, Inflight{Queues: 2, QueueSize: ringSize}.Marshal())
	head := make([]byte, HeaderLen)
	n, fds, err := b.conn.Recv(head, 1)
	if err != nil || n != HeaderLen || len(fds) != 1 {
		b.t.Fatalf("%d bytes with %d descriptors, %v; want a header with one", n, len(fds), err)
	}
	h, err := ParseHeader(head)
	if err != nil || h.Request != GetInflightFD || h.Flags != ReplyFlags {
		b.t.Fatalf("reply %+v, %v", h, err)
	}
	body, err := b.read(int(h.Size))
	if err == nil {
		err = v.Unmarshal(body)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return v, fds[0]
}

// mapped is a test's own view of a file.
func mapped(t testing.TB, fd *sys.FD, size uint64) sharedmem.Block {
	t.Helper()
	again, err := fd.Dup()
	if err != nil {
		t.Fatal(err)
	}
	file, err := sharedmem.OpenFile(again)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Unref()
	m, err := sharedmem.NewMap([]sharedmem.Region{{Size: size, File: file}}, sharedmem.MapOptions{Owner: "region"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Unref)
	block, err := m.Block(0, size)
	if err != nil {
		t.Fatal(err)
	}
	return block
}

func dup(t testing.TB, fd *sys.FD) *sys.FD {
	t.Helper()
	again, err := fd.Dup()
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// The region says of each ring that runs that nothing is in flight, in the
// layout of the protocol, and the ring starts at its used index.
func TestInflightRegion(t *testing.T) {
	b, g := inflightBench(t)
	v, fd, at := b.region()
	const stride = 16 + 16*ringSize + 48 // up to a multiple of 64
	if want := (Inflight{Size: 2 * stride, Queues: 2, QueueSize: ringSize}); v != want {
		t.Fatalf("region %+v, want %+v", v, want)
	}
	b.ok(SetInflightFD, v.Marshal(), dup(t, fd))
	g.used(1, 7)
	b.live(1)
	for what, c := range map[string]struct {
		off  uint32
		want uint16
	}{
		"version of ring 0":    {8, 0},
		"version of ring 1":    {stride + 8, 1},
		"entries of ring 1":    {stride + 10, ringSize},
		"used index of ring 1": {stride + 14, 7},
	} {
		if got := at.Load16(c.off); got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
	for off := uint32(0); uint64(off) < v.Size; off += 8 { // the front-end may write to it
		at.Store64(off, ^uint64(0))
	}
	b.ok(SetVringCall, fdPayload(1), newFD(t))
	if got := b.base(1); got != 7 || b.dev.runs(1) {
		t.Errorf("the ring stands at %d, want 7", got)
	}
}

// What another back-end had taken when it was killed is done again, if it is what
// comes next. One that was killed between its two words about the last batch, the
// ring's used index and the region's, has given that batch back.
func TestInflightOfAnotherBackEnd(t *testing.T) {
	for name, c := range map[string]struct {
		flying []uint32
		batch  []uint32 // given back last, and marked as in flight still
		used   uint16   // how far behind the ring's the region's used index is
		runs   bool
	}{
		"nothing":                     {nil, nil, 0, true},
		"the next chains":             {[]uint32{3, 9}, nil, 0, true},
		"a later chain":               {[]uint32{3, 11}, nil, 0, false},
		"more than there":             {[]uint32{3, 9, 11, 12}, nil, 0, false},
		"nothing, in an old region":   {nil, nil, 5000, true},
		"a batch":                     {nil, []uint32{2, 7, 1}, 3, true},
		"a batch and the next chains": {[]uint32{3, 9}, []uint32{2, 7}, 2, true},
		"a batch of next chains":      {[]uint32{9}, []uint32{3}, 1, true},
		"a batch and a later chain":   {[]uint32{11}, []uint32{2}, 1, false},
		"a batch that was not given":  {[]uint32{2}, []uint32{7}, 0, false},
		"more than a batch can be":    {nil, []uint32{2}, ringSize + 1, false},
		"a batch of no chains":        {nil, []uint32{2, ringSize}, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			b, g := inflightBench(t)
			v, fd, at := b.region()
			at.Store16(8, 1)
			for _, head := range c.flying {
				at.Store8(16+16*head, 1)
			}
			for i, head := range c.batch {
				at.Store16(12, uint16(c.batch[0])) // last_batch_head
				if head < ringSize {
					at.Store8(16+16*head, 1)
				}
				if i > 0 {
					at.Store16(16+16*c.batch[i-1]+6, uint16(head)) // next
				}
			}
			const stands = 5
			at.Store16(14, stands-c.used)
			b.ok(SetInflightFD, v.Marshal(), dup(t, fd))
			g.used(0, stands)
			for i, head := range []uint16{9, 3, 11} {
				g.mem.Store16(availAt+4+2*uint32(stands+i), head)
			}
			g.mem.Store16(availAt+2, stands+3)
			b.ok(SetVringNum, state(0, ringSize))
			b.ok(SetVringAddr, addr(0).Marshal())
			if got := b.want(SetVringKick, fdPayload(0), newFD(t)); (got == 0) != c.runs || b.dev.runs(0) != c.runs {
				t.Fatalf("acknowledgement %d, the ring runs: %t, want %t\n%s", got, b.dev.runs(0), c.runs, b.log)
			}
			for _, head := range slices.Concat(c.flying, c.batch) {
				if head < ringSize && (at.Load8(16+16*head) != 0) == c.runs {
					t.Errorf("chain %d is marked as in flight: %t", head, !c.runs)
				}
			}
			if c.runs && at.Load16(14) != stands {
				t.Errorf("the region's used index is %d, want %d", at.Load16(14), stands)
			}
			if !c.runs && !strings.Contains(b.log.String(), "cannot be taken up here") && !strings.Contains(b.log.String(), "makes no sense") {
				t.Errorf("the log does not say why:\n%s", b.log)
			}
		})
	}
}

// packedInflight is a session of a guest with packed rings, of a port that offers
// inflight regions.
func packedInflight(t *testing.T, g *guest) *bench {
	t.Helper()
	d := newStub()
	d.features |= virtio.RingPacked
	b := newBench(t, d, func(o *Options) { o.Inflight = true })
	b.ok(SetFeatures, U64(accepted|virtio.RingPacked).Marshal())
	b.ok(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(t))
	return b
}

// A packed ring goes on where its region says, by the layout of the protocol, at
// the first start of a session only: after that the front-end knows. A region
// that takes the place of another holds the position from then on.
func TestInflightRegionPacked(t *testing.T) {
	g := newGuest(t)
	b := packedInflight(t, g)
	v, fd, at := b.region()
	const stride = 32 + 32*ringSize + 32 // up to a multiple of 64
	if want := (Inflight{Size: 2 * stride, Queues: 2, QueueSize: ringSize}); v != want {
		t.Fatalf("region %+v, want %+v", v, want)
	}
	b.ok(SetInflightFD, v.Marshal(), dup(t, fd))
	for i := range 2 {
		b.packedLive(i)
		b.serves(g, i, 0)
	}
	b.serves(g, 0, 1)
	for i, want := range []uint16{2, 1} {
		if got := at.Load16(uint32(i)*stride + 16); got != want {
			t.Errorf("ring %d: used index %d, want %d", i, got, want)
		}
	}
	b.close()

	b = packedInflight(t, g)
	b.ok(SetInflightFD, v.Marshal(), dup(t, fd))
	b.packedLive(0)
	b.packedLive(1)
	b.serves(g, 0, 2)
	if text := b.log.String(); strings.Count(text, "goes on where it was left") != 2 {
		t.Errorf("the log does not tell of two rings that go on:\n%s", text)
	}
	b.ok(SetVringEnable, state(0, 1))
	other, otherFD, otherAt := b.region()
	b.ok(SetInflightFD, other.Marshal(), dup(t, otherFD))
	b.serves(g, 0, 3)
	if was, is := at.Load16(16), otherAt.Load16(16); was != 3 || is != 4 {
		t.Errorf("used index %d in the region before, %d in the one behind it; want 3 and 4", was, is)
	}
	for i, want := range []uint32{0x80048004, 0x80018001} {
		if got := b.base(i); got != want {
			t.Errorf("ring %d stands at %#x, want %#x", i, got, want)
		}
	}
	b.ok(SetVringNum, state(0, ringSize))
	b.ok(SetVringBase, state(0, 0x80078007))
	b.ok(SetVringAddr, addr(0).Marshal())
	b.ok(SetVringKick, fdPayload(0), newFD(t))
	if got := b.base(0); got != 0x80078007 {
		t.Errorf("the ring stands at %#x, want what the front-end said after it was told", got)
	}
}

// V10, V11: a packed ring does not start on a region that is too small for it, or
// makes no sense, and the front-end and the log are told; with a sound one it does.
func TestV10_V11_InflightPackedRefused(t *testing.T) {
	g := newGuest(t)
	b := packedInflight(t, g)
	good, fd, at := b.region()
	b.ok(SetVringEnable, state(0, 1))
	odd := good
	odd.QueueSize--
	b.ok(SetInflightFD, odd.Marshal(), dup(t, fd)) // packed rings have any size
	b.ok(SetVringNum, state(0, ringSize))
	b.ok(SetVringAddr, addr(0).Marshal())
	b.refused(SetVringKick, fdPayload(0), newFD(t))
	if text := b.log.String(); !strings.Contains(text, "has room for 255") {
		t.Errorf("the log does not say why:\n%s", text)
	}
	short := good
	short.Size--
	b.refused(SetInflightFD, short.Marshal(), dup(t, fd))
	at.Store16(8, 1)                                     // and no entries
	b.refused(SetInflightFD, good.Marshal(), dup(t, fd)) // the ring waits for one
	if text := b.log.String(); !strings.Contains(text, "makes no sense") {
		t.Errorf("the log does not say why:\n%s", text)
	}
	at.Store16(8, 0)
	b.ok(SetInflightFD, good.Marshal(), dup(t, fd))
	b.serves(g, 0, 0)
}

// A region that was sized for split rings is too small for packed ones.
func TestInflightRegionOfAnotherFormat(t *testing.T) {
	g := newGuest(t)
	b := packedInflight(t, g)
	b.ok(SetFeatures, U64(accepted).Marshal())
	v, fd, _ := b.region()
	b.ok(SetInflightFD, v.Marshal(), dup(t, fd))
	b.ok(SetFeatures, U64(accepted|virtio.RingPacked).Marshal())
	b.ok(SetVringNum, state(0, ringSize))
	b.ok(SetVringAddr, addr(0).Marshal())
	b.refused(SetVringKick, fdPayload(0), newFD(t))
	if text := b.log.String(); !strings.Contains(text, "of this format need") {
		t.Errorf("the log does not say why:\n%s", text)
	}
}

// Regions that make no sense change nothing, and nothing is left of them.
func TestInflightRefused(t *testing.T) {
	b, _ := inflightBench(t)
	if !Protocol(b.number(GetProtocolFeatures)).Has(ProtocolInflight) || !virtio.Features(b.number(GetFeatures)).Has(virtio.RingPacked) {
		t.Error("inflight regions are not offered, or no packed rings with them")
	}
	good, fd, _ := b.region()
	before := b.measure()
	for range 50 { // each is the front-end's as soon as it is sent
		_, fd := b.getInflight()
		_ = fd.Close()
	}
	atRest(t, before)
	for name, change := range map[string]func(v *Inflight){
		"no rings":         func(v *Inflight) { v.Queues = 0 },
		"more rings":       func(v *Inflight) { v.Queues = 5 },
		"no entries":       func(v *Inflight) { v.QueueSize = 0 },
		"odd entries":      func(v *Inflight) { v.QueueSize = 100 },
		"too many entries": func(v *Inflight) { v.QueueSize = 1 << 15; v.Queues = 4 },
		"short":            func(v *Inflight) { v.Size-- },
		"beyond its file":  func(v *Inflight) { v.Size += 1 << 20 },
		"wraps":            func(v *Inflight) { v.Offset = ^uint64(0) },
	} {
		v := good
		change(&v)
		if b.want(SetInflightFD, v.Marshal(), dup(t, fd)) == 0 {
			t.Errorf("%s: accepted", name)
		}
	}
	b.refused(SetInflightFD, good.Marshal())
	b.refused(SetInflightFD, good.Marshal()[:23], dup(t, fd))
	b.refused(SetInflightFD, good.Marshal(), newFD(t))
	atRest(t, before)
	b.ok(SetInflightFD, good.Marshal(), dup(t, fd))
	b.ok(SetInflightFD, good.Marshal(), dup(t, fd))
	b.ok(SetVringNum, state(1, 2*ringSize))
	b.ok(SetVringAddr, addr(1).Marshal())
	b.refused(SetVringKick, fdPayload(1), newFD(t)) // larger than its region
}
