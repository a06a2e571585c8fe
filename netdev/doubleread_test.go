//go:build doubleread

package netdev

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// watchPair notes what the device reads of a guest's memory. The words that are
// polled are left out: a visit asks them as often as it looks for chains.
func watchPair(t *testing.T, w *sharedmem.Watch, name string, p *vqtest.Pair) {
	t.Helper()
	c, err := p.Config()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Mem.Regions() {
		b, err := p.Mem.Block(r.GPA, r.Size)
		if err != nil {
			t.Fatal(err)
		}
		w.Add(b, func(off uint64) string { return fmt.Sprintf("%s's memory at %#x", name, r.GPA+off) })
	}
	w.Skip(c.Avail.Sub(0, 4))
	if c.Features.Has(virtio.EventIdx) && !c.Features.Has(virtio.RingPacked) {
		w.Skip(c.Avail.Sub(c.Avail.Len()-2, 2))
	}
}

// TestP2_VisitReadsOnce: a visit, from the sender's ring to the receiver's,
// reads each word of both guests' memory once: descriptors, tables, headers
// and payload (security property P2, V42).
func TestP2_VisitReadsOnce(t *testing.T) {
	for _, f := range []virtio.Features{
		virtio.Version1, pathFeatures, pathFeatures | virtio.EventIdx,
		pathFeatures | virtio.NetCsum | virtio.NetGuestCsum,
		pathFeatures | virtio.RingPacked, pathFeatures | virtio.RingPacked | virtio.EventIdx,
	} {
		for _, buffer := range []int{40, 128, 2048, 70000} {
			t.Run(fmt.Sprintf("%v, buffers of %d", f, buffer), func(t *testing.T) {
				visitOnce(t, f, buffer)
			})
		}
	}
}

// visitFrames are frames by their length, each over as many descriptors.
var visitFrames = []struct{ length, parts int }{{14, 1}, {60, 1}, {60, 9}, {1514, 2}, {1514, 3}, {9000, 1}, {65000, 17}}

// visitOnce carries every shape of frame in one visit, directly and by an
// indirect table, to a receiver whose buffers have this size.
func visitOnce(t *testing.T, f virtio.Features, buffer int) {
	t.Helper()
	p := emptyPath(t, f)
	var w sharedmem.Watch
	watchPair(t, &w, "the sender", p.from)
	watchPair(t, &w, "the receiver", p.to)
	for indirect := range 2 {
		if indirect == 1 && !f.Has(virtio.IndirectDesc) {
			break
		}
		w.Mark()
		var want [][]byte
		for i, shape := range visitFrames {
			need := (shape.length + 12 + buffer - 1) / buffer
			if need > 1 && !f.Has(virtio.NetMrgRxBuf) || p.to.Driver.Available() < need {
				continue // it would be dropped, or wait
			}
			frame := testFrame(shape.length, i)
			want = append(want, frame)
			request := vqtest.Request{Out: cut(append(make([]byte, 12), frame...), shape.parts), Indirect: indirect == 1}
			if _, err := p.from.Driver.Add(request); err != nil {
				t.Fatal(err)
			}
			for range need {
				if _, err := p.to.Driver.Add(vqtest.Request{In: []int{buffer}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		p.from.Driver.Publish()
		p.to.Driver.Publish()
		carryOn(t, func() { w.Do(func() { p.tx.Poll(p.c, visitChains) }) })
		wantDelivered(t, p, want)
	}
	for _, d := range w.Found() {
		t.Error(d)
	}
	if w.Loads() == 0 {
		t.Error("no load was noted")
	}
}

// wantDelivered compares what the receiver got with the frames of a visit, and
// frees the chains of both sides.
func wantDelivered(t *testing.T, p *path, want [][]byte) {
	t.Helper()
	carryOn(t, func() {
		if sent, err := p.from.Driver.Collect(); err != nil || len(sent) != len(want) {
			t.Fatalf("%d chains came back to the sender, want %d: %v", len(sent), len(want), err)
		}
		got, err := p.to.Driver.Collect()
		if err != nil {
			t.Fatal(err)
		}
		for i, frame := range want {
			if len(got) == 0 {
				t.Fatalf("frame %d of %d did not arrive", i, len(want))
			}
			n := int(binary.LittleEndian.Uint16(got[0].Data[10:])) // num_buffers
			var data []byte
			for _, c := range got[:min(n, len(got))] {
				data = append(data, c.Data...)
			}
			got = got[min(n, len(got)):]
			if !bytes.Equal(data[12:], frame) {
				t.Errorf("frame %d: %d bytes arrived of %d, and they differ", i, len(data)-12, len(frame))
			}
		}
	})
}
