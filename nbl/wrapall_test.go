package nbl

import (
	"bytes"
	"fmt"
	"reflect"
	"testing"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// chainsOf are frames with virtio_net_hdr as chains of a ring, each split in each
// of the ways of splits.
func chainsOf(t *testing.T, frames [][]byte, splits [][]int) []virtqueue.Chain {
	t.Helper()
	p, err := vqtest.NewPair(vqtest.Options{Size: 1024, Features: virtio.Version1 | virtio.IndirectDesc, Memory: 32 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	for _, frame := range frames {
		for _, sizes := range splits {
			var out [][]byte
			for _, mdl := range pieces(frame, sizes...) {
				b := make([]byte, mdl.Len())
				mdl.CopyTo(b, 0)
				out = append(out, b)
			}
			if _, err := p.Driver.Add(vqtest.Request{Out: out, Indirect: len(out) > 2}); err != nil {
				t.Fatal(err)
			}
		}
	}
	p.Driver.Publish()
	chains := make([]virtqueue.Chain, len(frames)*len(splits))
	if err := sharedmem.Guard(func() error {
		n, err := p.Queue.Pop(chains)
		if n != len(chains) {
			return fmt.Errorf("%d chains of %d: %w", n, len(chains), err)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return chains
}

// TestWrapAllIsWrap: of every frame, however long and however split, WrapAll
// makes what Wrap makes, and counts what Wrap refuses.
func TestWrapAllIsWrap(t *testing.T) {
	var frames [][]byte
	for _, n := range []int{0, 1, 13, 14, 15, 17, 18, 59, 60, 63, 64, 65, 100, 1514, MaxFrame - 1, MaxFrame, MaxFrame + 1} {
		for _, tag := range []string{"", "\x81\x00\x20\x05\x08\x00"} {
			frame := ethernet(n)
			if n >= 18 {
				copy(frame[12:], tag)
			}
			frames = append(frames, withHeader(virtio.NetHeader{}, frame))
		}
	}
	frames = append(frames, make([]byte, 1), make([]byte, 11), make([]byte, 76))
	csum := virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, CsumStart: 34, CsumOffset: 16}
	frames = append(frames, withHeader(csum, tcp4(t, 900)), withHeader(csum, ethernet(20)))
	splits := [][]int{nil, {12}, {10}, {12, 14}, {5, 7, 14}, {26}, {76}, {77}, {11, 2}}
	for _, f := range []virtio.Features{0, virtio.NetCsum} {
		chains := chainsOf(t, frames, splits)
		one, all := newSender(f), newSender(f)
		want, got := make([]*List, len(chains)), make([]*List, len(chains))
		var refused, drops metrics.Drops
		for i := range chains {
			want[i], got[i] = stale(), stale()
			if r := one.Wrap(want[i], &chains[i]); r != metrics.ReasonNone {
				refused.Add(r, 1)
			}
		}
		all.WrapAll(got, chains, &drops)
		if refused.Total() == 0 || drops.Snapshot() != refused.Snapshot() {
			t.Errorf("WrapAll counts %v, Wrap %v", drops.Snapshot(), refused.Snapshot())
		}
		for i := range chains {
			if !bytes.Equal(got[i].Header(), want[i].Header()) {
				t.Errorf("frame %d, split %v: headers differ", i/len(splits), splits[i%len(splits)])
			}
			a, b := *got[i], *want[i]
			a.header, b.header = [MaxHeader]byte{}, [MaxHeader]byte{}
			if !reflect.DeepEqual(a, b) {
				t.Errorf("frame %d, split %v: %+v, want %+v", i/len(splits), splits[i%len(splits)], a, b)
			}
		}
	}
}

// stale is a List that another packet has used.
func stale() *List {
	l := &List{Status: Busy, Reason: metrics.ReasonShort, QueueID: 7, Since: 9}
	l.VLAN, l.EtherType, l.L3, l.headerLen = 5, 6, 7, 8
	l.Offload = virtio.NetHeader{Flags: 1, GSOType: 2, HdrLen: 3, GSOSize: 4, CsumStart: 5, CsumOffset: 6}
	return l
}

// TestCopyFramesLeavesHeaders: a buffer that holds the header of its frame is left
// as it is; one of which any byte differs gets it.
func TestCopyFramesLeavesHeaders(t *testing.T) {
	frame := ethernet(100)
	var l List
	if r := wrap(newSender(0), &l, pieces(withHeader(virtio.NetHeader{}, frame))); r != metrics.ReasonNone {
		t.Fatal(r)
	}
	for _, headerLen := range []int{10, 12} {
		want := append(make([]byte, headerLen), frame...)
		if headerLen == 12 {
			want[10] = 1 // num_buffers
		}
		for stale := -1; stale < headerLen; stale++ {
			buffer := append(bytes.Clone(want[:headerLen]), make([]byte, len(frame))...)
			headers := 0
			if stale >= 0 {
				buffer[stale] ^= 0x81
			}
			if stale >= 0 || headerLen == 10 {
				headers = 1
			}
			to := &List{Buffer: Buffer{MDLs: pieces(buffer), Offset: uint32(headerLen), Length: l.Length}}
			if n := CopyFrames([]*List{to}, []*List{&l}, uint32(headerLen)); n != headers {
				t.Errorf("header of %d bytes, byte %d stale: %d were written, want %d", headerLen, stale, n, headers)
			}
			if !bytes.Equal(buffer, want) {
				t.Errorf("header of %d bytes, byte %d stale: % x", headerLen, stale, buffer[:headerLen])
			}
		}
	}
}
