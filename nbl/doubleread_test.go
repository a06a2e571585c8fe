//go:build doubleread

package nbl

import (
	"bytes"
	"fmt"
	"testing"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// TestP2_HeaderAndFrameOnce: from Wrap to the delivered frame each byte of
// virtio_net_hdr and of the frame is read once, however the driver split them
// and whatever is left to do (security property P2, V42, V62). Each load finds
// memory that changes behind it, and still what was sent is delivered.
func TestP2_HeaderAndFrameOnce(t *testing.T) {
	ones := make([]int, 300)
	for i := range ones {
		ones[i] = 1
	}
	csum := virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, CsumStart: 34, CsumOffset: 16}
	tso := csum
	tso.GSOType, tso.GSOSize = virtio.GSOTCPv4, 500
	ufo := virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, GSOType: virtio.GSOUDP, GSOSize: 1448, CsumStart: 54, CsumOffset: 6}
	uso := virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, GSOType: virtio.GSOUDPL4, GSOSize: 900, CsumStart: 34, CsumOffset: 6}
	const all = allOffloads
	for _, sizes := range [][]int{nil, {12}, {10}, {12, 14}, {5, 7, 14}, {26}, {76}, {77}, {11, 2, 300}, ones} {
		for _, c := range []struct {
			name     string
			features virtio.Features
			header   virtio.NetHeader
			frame    []byte
		}{
			{"plain", 0, virtio.NetHeader{}, ethernet(14)},
			{"plain", 0, virtio.NetHeader{}, ethernet(1514)},
			{"offloads accepted, none used", all, virtio.NetHeader{}, ethernet(60)},
			{"checksum", all, csum, tcp4(t, 900)},
			{"TSO", all, tso, tcp4(t, 5000)},
			{"UFO", all, ufo, udp(tcp6(t, 5000), 6)},
			{"USO", all, uso, udp(tcp4(t, 5000), 4)},
		} {
			t.Run(fmt.Sprintf("%s, %d bytes, split %.20v", c.name, len(c.frame), sizes), func(t *testing.T) {
				wrapOnce(t, c.features, c.header, c.frame, sizes, false)
				if c.header.Flags != 0 {
					wrapOnce(t, c.features, c.header, c.frame, sizes, true)
				}
			})
		}
	}
}

// wrapOnce wraps a frame and delivers it, as it is or softened.
func wrapOnce(t *testing.T, f virtio.Features, h virtio.NetHeader, frame []byte, sizes []int, softened bool) {
	t.Helper()
	want := [][]byte{frame}
	if softened {
		want = soften(t, f, h, frame)
	}
	memory := withHeader(h, frame)
	var w sharedmem.Watch
	w.Add(sharedmem.BytesBlock(memory), func(off uint64) string {
		if off < 12 {
			return fmt.Sprintf("byte %d of virtio_net_hdr", off)
		}
		return fmt.Sprintf("byte %d of the frame", off-12)
	})
	l, soft := new(List), NewSoftener(make([]byte, SoftenerBytes))
	var got [][]byte
	w.Do(func() {
		if r := wrap(newSender(f), l, pieces(memory, sizes...)); r != metrics.ReasonNone {
			t.Fatalf("not taken: %v", r)
		}
		if !softened {
			got = append(got, flat(l))
			return
		}
		segments, ok := soft.Soften(l)
		if !ok {
			t.Fatal("no room in a new Softener")
		}
		for i := range segments {
			got = append(got, flat(&segments[i]))
		}
	})
	for _, d := range w.Found() {
		t.Error(d)
	}
	if w.Loads() == 0 {
		t.Error("no load was noted")
	}
	if len(got) != len(want) {
		t.Fatalf("%d frames, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("frame %d differs from byte %d on", i, firstDifference(got[i], want[i]))
		}
	}
}
