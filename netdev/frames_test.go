package netdev

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// send has the device carry chains, and answers what the receiver got of them.
func (p *path) send(t *testing.T, requests ...vqtest.Request) (delivered [][]byte) {
	t.Helper()
	for _, r := range requests {
		if _, err := p.from.Driver.Add(r); err != nil {
			t.Fatal(err)
		}
		if _, err := p.to.Driver.Add(vqtest.Request{In: []int{70000}}); err != nil {
			t.Fatal(err)
		}
	}
	p.from.Driver.Publish()
	p.to.Driver.Publish()
	carryOn(t, func() {
		p.tx.Poll(p.c, visitChains)
		if sent, err := p.from.Driver.Collect(); err != nil || len(sent) != len(requests) {
			t.Fatalf("%d chains came back of %d: %v", len(sent), len(requests), err)
		}
		got, err := p.to.Driver.Collect()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range got {
			delivered = append(delivered, c.Data[12:])
		}
	})
	return delivered
}

// bothFormats are the features of a test's rings.
var bothFormats = []virtio.Features{pathFeatures, pathFeatures | virtio.RingPacked}

// V61: a frame that is no Ethernet header goes to nobody, however the chain is
// cut; it is counted, and its chain comes back.
func TestV61_RuntFrames(t *testing.T) {
	for _, f := range bothFormats {
		p := emptyPath(t, f)
		count := uint64(0)
		for n := range 12 + 14 {
			for _, parts := range []int{1, max(n, 1)} {
				if got := p.send(t, vqtest.Request{Out: cut(make([]byte, n), parts), Indirect: parts > 1}); len(got) != 0 {
					t.Errorf("%v: a chain of %d bytes in %d parts was delivered as %d", f, n, parts, len(got[0]))
				}
				count++
			}
		}
		if drops := p.tx.dev.counters.Drops.Snapshot(); drops[metrics.ReasonShort] != count || drops.Total() != count {
			t.Errorf("%v: drops [%v], want %d as short", f, drops, count)
		}
		whole := testFrame(14, 1)
		if got := p.send(t, vqtest.Request{Out: [][]byte{append(make([]byte, 12), whole...)}}); len(got) != 1 || !bytes.Equal(got[0], whole) {
			t.Errorf("%v: the shortest frame did not arrive: %x", f, got)
		}
	}
}

// V67: empty descriptors before, between and behind are nothing, also when
// they are most of the ring.
func TestV67_EmptyFragments(t *testing.T) {
	for _, f := range bothFormats {
		p := emptyPath(t, f)
		header, frame := make([]byte, 12), testFrame(300, 7)
		for _, counts := range [][3]int{{0, 0, 1}, {1, 0, 0}, {0, 1, 0}, {1, 1, 1}, {0, 0, 200}, {200, 0, 0}, {0, 250, 0}, {80, 80, 80}} {
			for _, indirect := range []bool{false, true} {
				var out [][]byte
				for i, part := range [][]byte{header, frame, nil} {
					for range counts[i] {
						out = append(out, nil)
					}
					if part != nil {
						out = append(out, part)
					}
				}
				if got := p.send(t, vqtest.Request{Out: out, Indirect: indirect}); len(got) != 1 || !bytes.Equal(got[0], frame) {
					t.Errorf("%v, %v empty ones, indirect %t: the frame did not arrive", f, counts, indirect)
				}
			}
		}
		var empty [][]byte
		for range 250 {
			empty = append(empty, nil)
		}
		if got := p.send(t, vqtest.Request{Out: empty}); len(got) != 0 {
			t.Errorf("%v: a chain of nothing was delivered", f)
		}
	}
}

// V69: what a guest can make the device allocate does not depend on what it
// sends.
func TestV69_HostileFramesAllocateNothing(t *testing.T) {
	const frames, length = 100_000, 12 + 9000
	p := emptyPath(t, pathFeatures|virtio.NetCsum|virtio.NetHostTSO4|virtio.NetHostTSO6)
	var memory []sharedmem.Block
	for range visitChains {
		gpa, err := p.from.Driver.Alloc(length)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.from.Driver.Put(vqtest.Layout{Buffers: []vqtest.Buffer{{GPA: gpa, Len: length}}}); err != nil {
			t.Fatal(err)
		}
		memory = append(memory, p.from.Driver.At(gpa, length))
	}
	for range 256 {
		if _, err := p.to.Driver.Add(vqtest.Request{In: []int{16384}}); err != nil {
			t.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(20261126, 69))
	done := 0
	carryOn(t, func() {
		var before, after runtime.MemStats
		for done < frames {
			for _, b := range memory {
				hostileHead(r, b)
			}
			p.from.Driver.Publish()
			p.to.Driver.Publish()
			p.tx.Poll(p.c, visitChains)
			done += p.repost(t, p.from.Driver)
			p.repost(t, p.to.Driver)
			if before.TotalAlloc == 0 && done > 1000 { // scratch memory is there by now
				runtime.ReadMemStats(&before)
			}
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%d bytes were allocated for %d frames", n, done)
		}
	})
	drops, arrived := p.tx.dev.counters.Drops.Snapshot(), p.receiver.counters.RxFrames.Value()
	t.Logf("%d frames, drops [%v], %d arrived", done, drops, arrived)
	if drops[metrics.ReasonGSO] == 0 || drops[metrics.ReasonCsum] == 0 || arrived == 0 {
		t.Error("nothing was tested")
	}
}

// hostileHead writes virtio_net_hdr and the head of a frame, some of it right.
func hostileHead(r *rand.Rand, b sharedmem.Block) {
	var h [66]byte
	offload := virtio.NetHeader{
		Flags: uint8(r.IntN(2)), GSOType: []uint8{0, 0, 1, 4, 5, 0x81}[r.IntN(6)],
		GSOSize: uint16(r.Uint32()), CsumStart: 34, CsumOffset: 16,
	}
	if r.IntN(2) == 0 {
		offload.CsumStart = uint16(r.Uint32())
	}
	offload.Encode(h[:12])
	copy(h[12:], []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45})
	h[12+23] = uint8(5 + r.IntN(2)) // TCP is 6
	h[12+46] = 0x50
	binary.LittleEndian.PutUint64(h[50:], r.Uint64())
	b.CopyFrom(h[:], 0)
}

// repost takes back what came back to a driver and posts it again.
func (p *path) repost(t *testing.T, d *vqtest.Driver) int {
	n, err := d.Reap(p.used[:])
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range p.used[:n] {
		d.Post(u.Head)
	}
	return n
}

// testFrame is a frame of n bytes that depend on seed.
func testFrame(n, seed int) []byte {
	frame := make([]byte, n)
	copy(frame, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5})
	for i := 14; i < n; i++ {
		frame[i] = byte(i*3 + i>>8 + seed)
	}
	return frame
}

// cut splits b into n parts of about the same length.
func cut(b []byte, n int) (parts [][]byte) {
	for ; n > 1; n-- {
		k := len(b) / n
		parts, b = append(parts, b[:k]), b[k:]
	}
	return append(parts, b)
}
