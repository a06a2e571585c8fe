package queues

import (
	"encoding/hex"
	"strings"
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// V52: virtio_net_hdr, byte by byte, for what a driver may have accepted.
func TestV52_GoldenHeaders(t *testing.T) {
	const csum, tso4 = virtio.NetGuestCsum, virtio.NetGuestCsum | virtio.NetGuestTSO4
	//                      flags, gso, hdr_len, gso_size, csum_start, csum_offset, num_buffers
	const (
		nothing  = "00 00 0000 0000 0000 0000"
		checksum = "01 00 0000 0000 2200 1000"
		segments = "01 01 3600 a805 2200 1000"
	)
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	for _, tt := range []struct {
		name     string
		features virtio.Features
		packet   packet
		buffers  []int
		want     string
	}{
		{"legacy", 0, packet{frame: tcp4(2000, 1)}, []int{4096}, nothing},
		{"legacy, mergeable", virtio.NetMrgRxBuf, packet{frame: tcp4(2000, 1)}, []int{4096}, nothing + " 0100"},
		{"legacy, merged", virtio.NetMrgRxBuf, packet{frame: tcp4(2000, 1)}, []int{1000, 1000, 1000}, nothing + " 0300"},
		{"plain", plainRx, packet{frame: tcp4(2000, 1)}, []int{4096}, nothing + " 0100"},
		{"mergeable", mergeable, packet{frame: tcp4(2000, 1)}, []int{4096}, nothing + " 0100"},
		{"merged", mergeable, packet{frame: tcp4(2000, 1)}, []int{2065, 1}, nothing + " 0200"},
		{"checksum, legacy", csum, packet{checksumHeader(), tcp4(2000, 1)}, []int{4096}, checksum},
		{"checksum", plainRx | csum, packet{checksumHeader(), tcp4(2000, 1)}, []int{4096}, checksum + " 0100"},
		{"checksum, merged", mergeable | csum, packet{checksumHeader(), tcp4(2000, 1)}, []int{700, 700, 700}, checksum + " 0300"},
		{"segments, legacy", tso4, packet{tso(1448), tcp4(2000, 1)}, []int{4096}, segments},
		{"segments", plainRx | tso4, packet{tso(1448), tcp4(2000, 1)}, []int{4096}, segments + " 0100"},
		{"segments, merged", mergeable | tso4, packet{tso(1448), tcp4(2000, 1)}, []int{1600, 1600}, segments + " 0200"},
		{"one segment", plainRx | tso4, packet{tso(1448), tcp4(1000, 1)}, []int{4096}, checksum + " 0100"},
		// num_buffers lies in the third buffer.
		{"header in pieces", mergeable, packet{frame: tcp4(40, 1)}, []int{5, 5, 2, 200}, nothing + " 0400"},
	} {
		v := r.newReceiver(vqtest.Options{Features: tt.features, Size: 16, Memory: 1 << 20})
		v.post(tt.buffers...)
		if n := r.deliver(v.nic, s.send(tt.packet)); n != 1 {
			t.Fatalf("%s: accepted %d", tt.name, n)
		}
		want, err := hex.DecodeString(strings.ReplaceAll(tt.want, " ", ""))
		must(t, err)
		var got []byte
		for i, size := range tt.buffers {
			got = append(got, v.Driver.Written(v.heads[i], uint32(size))...)
		}
		if got := hex.EncodeToString(got[:len(want)]); got != hex.EncodeToString(want) {
			t.Errorf("%s: header %s, want %x", tt.name, got, want)
		}
		v.expect(packet{virtio.DecodeNetHeader(want), tt.packet.frame})
		v.counted(1, nil)
	}
}

// V43, V51: a frame is the same over any layout of buffers, also that of the
// header, and nothing else changes.
func TestV51_AnyLayout(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	ones := repeat(200, 1)
	for _, layout := range [][]int{
		{2000}, {112}, {12, 100}, {12, 14, 2000}, {10, 2, 2000}, {11, 1, 100}, {13, 2000}, {1, 2000}, {105, 100}, ones,
	} {
		for _, f := range []virtio.Features{plainRx, mergeable} {
			frames := whole(ethernet(100, 1), ethernet(60, 2), ethernet(14, 3))
			v := r.newReceiver(vqtest.Options{Features: f | virtio.IndirectDesc, Size: 1024, Memory: 1 << 20})
			for range frames { // each in one chain
				v.postChain(layout...)
			}
			if n := r.deliver(v.nic, s.send(frames...)); n != len(frames) {
				t.Fatalf("chain of %v: accepted %d", layout, n)
			}
			v.expect(frames...)
		}
		// Each in as many merged buffers as it takes.
		frames := whole(ethernet(100, 1), ethernet(60, 2), ethernet(14, 3))
		v := r.newReceiver(vqtest.Options{Features: mergeable, Size: 1024, Memory: 1 << 20})
		for range frames {
			v.post(layout...)
		}
		if n := r.deliver(v.nic, s.send(frames...)); n != len(frames) {
			t.Fatalf("buffers of %v: accepted %d", layout, n)
		}
		v.expect(frames...)
	}
}

// V44: receive buffers that are shorter than the header, or hardly longer.
func TestV44_RuntBuffers(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	const size = 256
	for _, runt := range []int{0, 1, 11, 12, 13} {
		for _, f := range []virtio.Features{plainRx, mergeable} {
			for _, length := range []int{1514, 65550} {
				v := r.newReceiver(vqtest.Options{Features: f, Size: size})
				v.post(repeat(size, runt)...)
				n := r.deliver(v.nic, s.send(plain(length)...))
				if n != 1 {
					t.Fatalf("buffers of %d, frame of %d: accepted %d", runt, length, n)
				}
				if f == mergeable && size*runt >= length+12 {
					v.expect(whole(ethernet(length, 0))...)
					v.counted(1, nil)
					continue
				}
				v.expect()
				v.counted(0, map[metrics.Reason]int{metrics.ReasonBuffersSmall: 1})
				if left, err := v.Queue.Pop(make([]virtqueue.Chain, size)); left != size || err != nil {
					t.Errorf("buffers of %d, frame of %d: %d buffers are left, %v", runt, length, left, err)
				}
			}
		}
	}
}

// V44: buffers without a byte, before and between others, are used like others.
func TestV44_EmptyBuffers(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: mergeable, Size: 16})
	v.post(0, 200, 0, 0, 50, 0, 100)
	if n := r.deliver(v.nic, s.send(plain(100, 100)...)); n != 2 {
		t.Fatalf("accepted %d", n)
	}
	v.expect(whole(ethernet(100, 0), ethernet(100, 1))...)
}

// A buffer that is too small for a frame costs the frame and is kept for one
// that fits.
func TestSmallBufferIsKept(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx, Size: 16})
	v.post(100, 100, 2000)
	if n := r.deliver(v.nic, s.send(plain(1000, 60, 89, 88, 1000)...)); n != 5 {
		t.Fatalf("accepted %d", n)
	}
	v.expect(whole(ethernet(60, 1), ethernet(88, 3), ethernet(1000, 4))...)
	v.counted(3, map[metrics.Reason]int{metrics.ReasonBuffersSmall: 2})
}

// What finds no buffers is not accepted, and not one byte of it is written
// (V53: a merged frame that lacks its last buffer).
func TestV53_PrefixIsAccepted(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	for _, tt := range []struct {
		f       virtio.Features
		buffers []int // too few for the third frame
		more    []int
	}{
		{plainRx, []int{2000, 2000}, []int{2000, 2000}},
		{mergeable, []int{512, 512, 512, 512, 512, 501}, []int{1, 2000}},
		{mergeable, []int{2000, 2000, 1, 1, 1}, []int{2000, 2000}},
	} {
		v := r.newReceiver(vqtest.Options{Features: tt.f, Size: 16})
		v.post(tt.buffers...)
		packets := plain(1000, 1001, 1002, 1003)
		lists := s.send(packets...)
		if n := r.deliver(v.nic, lists); n != 2 {
			t.Fatalf("accepted %d, want 2", n)
		}
		if n := r.deliver(v.nic, lists[2:]); n != 0 {
			t.Fatalf("accepted %d without buffers", n)
		}
		v.expect(whole(frames(packets)[:2]...)...)
		v.counted(2, nil)
		v.post(tt.more...)
		if n := r.deliver(v.nic, lists[2:]); n != 2 {
			t.Fatalf("accepted %d when buffers had come, want 2", n)
		}
		v.expect(whole(frames(packets)[2:]...)...)
		v.counted(4, nil)
	}
}

// V73: one small buffer and a frame of 64 KiB: it waits, and nothing happens
// until buffers come.
func TestV73_TooFewForNow(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: mergeable})
	v.post(64)
	lists := s.send(plain(65550)...)
	for range 3 {
		if n := r.deliver(v.nic, lists); n != 0 {
			t.Fatalf("accepted %d", n)
		}
	}
	v.expect()
	v.counted(0, nil)
	v.post(repeat(45, 1536)...)
	if n := r.deliver(v.nic, lists); n != 1 {
		t.Fatalf("accepted %d when buffers had come", n)
	}
	v.expect(whole(ethernet(65550, 0))...)
}

// V70: the longest frames over the shortest descriptors, in a batch.
func TestV70_JumboFrames(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	jumbo := plain(nbl.MaxFrame, nbl.MaxFrame, nbl.MaxFrame)
	for _, f := range []virtio.Features{plainRx, mergeable} {
		v := r.newReceiver(vqtest.Options{Features: f | virtio.IndirectDesc, Memory: 8 << 20})
		for range jumbo {
			v.postChain(repeat(65, 1024)...)
		}
		if n := r.deliver(v.nic, s.send(jumbo...)); n != 3 {
			t.Fatalf("chains of 1 KiB descriptors: accepted %d", n)
		}
		v.expect(whole(frames(jumbo)...)...)
	}
	v := r.newReceiver(vqtest.Options{Features: mergeable, Memory: 8 << 20})
	v.post(repeat(195, 1024)...)
	if n := r.deliver(v.nic, s.send(jumbo...)); n != 3 {
		t.Fatalf("buffers of 1 KiB: accepted %d", n)
	}
	v.expect(whole(frames(jumbo)...)...)

	// A chain of 1000 bytes in 1000 descriptors fills the queue's memory for
	// long chains, so a frame over two of them can never be held.
	v = r.newReceiver(vqtest.Options{Features: mergeable | virtio.IndirectDesc, Memory: 8 << 20})
	for range 3 {
		v.postChain(repeat(1000, 1)...)
	}
	if n := r.deliver(v.nic, s.send(plain(nbl.MaxFrame, 900, 989, 988)...)); n != 4 {
		t.Fatalf("chains of 1-byte descriptors: accepted %d", n)
	}
	v.expect(whole(ethernet(900, 1), ethernet(988, 3))...)
	v.counted(2, map[metrics.Reason]int{metrics.ReasonBuffersSmall: 2})
}
