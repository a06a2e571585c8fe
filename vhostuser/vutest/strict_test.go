package vutest

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"vhostnet/virtio"
)

// handmade is a guest without a back-end: the test is the device, and writes
// into the guest's memory what a device must not.
func handmade(t *testing.T, f virtio.Features, g Guest) *FrontEnd {
	t.Helper()
	o, k, err := Options{Kind: QEMU10}.fill()
	if err != nil {
		t.Fatal(err)
	}
	fe := &FrontEnd{o: o, kind: k, offered: f}
	if fe.mem, err = newMemory(o.Layout, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fe.Close() })
	if err := fe.boot(g); err != nil {
		t.Fatal(err)
	}
	return fe
}

// used writes used entry i of ring r and publishes idx.
func used(t *testing.T, r *ring, i int, id, length uint32, idx uint16) {
	t.Helper()
	e := binary.LittleEndian.AppendUint32(nil, id)
	e = binary.LittleEndian.AppendUint32(e, length)
	if err := r.mem.write(r.addr.Log+4+8*uint64(i), e); err != nil {
		t.Fatal(err)
	}
	r.drv.SetUsedIdx(idx)
}

// fill writes n bytes, of which the first are a header with num_buffers, into
// the first descriptor of chain id.
func fill(t *testing.T, r *ring, id uint16, n int, buffers uint16) {
	t.Helper()
	b := make([]byte, n)
	h := virtio.NetHeader{NumBuffers: buffers}
	h.Encode(b[:virtio.NetHeaderLen(r.features)])
	if err := r.mem.write(r.out[id].buffers[0].GPA, b); err != nil {
		t.Fatal(err)
	}
}

const merging = virtio.Version1 | virtio.NetMrgRxBuf

// TestDeviceErrors plays a device that makes one mistake; Recv and WaitSent
// have to say which.
func TestDeviceErrors(t *testing.T) {
	for _, c := range []struct {
		name     string
		features virtio.Features
		device   func(t *testing.T, rx, tx *ring)
		want     string // part of the error; "" is none
	}{
		{"good", merging, func(t *testing.T, rx, _ *ring) {
			fill(t, rx, 0, 72, 1)
			used(t, rx, 0, 0, 72, 1)
		}, ""},
		{"good, out of order", merging, func(t *testing.T, rx, _ *ring) {
			fill(t, rx, 5, 72, 1)
			used(t, rx, 0, 5, 72, 1)
		}, ""},
		{"good, two buffers", merging, func(t *testing.T, rx, _ *ring) {
			fill(t, rx, 0, mergeBuffer, 2)
			fill(t, rx, 1, 100, 0)
			used(t, rx, 0, 0, mergeBuffer, 0)
			used(t, rx, 1, 1, 100, 2)
		}, ""},
		{"out of order with IN_ORDER", merging | virtio.InOrder, func(t *testing.T, rx, _ *ring) {
			fill(t, rx, 5, 72, 1)
			used(t, rx, 0, 5, 72, 1)
		}, "chain 0 is the oldest"},
		{"unknown chain", merging, func(t *testing.T, rx, _ *ring) { used(t, rx, 0, 5000, 72, 1) }, "which it does not have"},
		{"wide chain", merging, func(t *testing.T, rx, _ *ring) { used(t, rx, 0, 0x10000, 72, 1) }, "which it does not have"},
		{"chain twice", merging, func(t *testing.T, rx, _ *ring) {
			fill(t, rx, 0, mergeBuffer, 2)
			used(t, rx, 0, 0, mergeBuffer, 0)
			used(t, rx, 1, 0, mergeBuffer, 2)
		}, "which it does not have"},
		{"far index", merging, func(_ *testing.T, rx, _ *ring) { rx.drv.SetUsedIdx(4000) }, "4000 chains were returned"},
		{"longer than the buffer", merging, func(t *testing.T, rx, _ *ring) {
			fill(t, rx, 0, 72, 1)
			used(t, rx, 0, 0, mergeBuffer+1, 1)
		}, "1537 bytes of a buffer that has 1536"},
		{"writes behind its length", merging, func(t *testing.T, rx, _ *ring) {
			fill(t, rx, 0, 73, 1)
			used(t, rx, 0, 0, 72, 1)
		}, "byte 72 of a buffer was written"},
		{"header alone is cut", merging, func(t *testing.T, rx, _ *ring) { used(t, rx, 0, 0, 11, 1) }, "a frame of 11 bytes"},
		{"no buffers", merging, func(t *testing.T, rx, _ *ring) {
			fill(t, rx, 0, 72, 0)
			used(t, rx, 0, 0, 72, 1)
		}, "num_buffers is 0"},
		{"part of a frame", merging, func(t *testing.T, rx, _ *ring) {
			fill(t, rx, 0, mergeBuffer, 2)
			used(t, rx, 0, 0, mergeBuffer, 1)
		}, "1 buffers of a frame were published, it has 2"},
		{"first buffer not full", merging, func(t *testing.T, rx, _ *ring) {
			fill(t, rx, 0, 72, 2)
			fill(t, rx, 1, 100, 0)
			used(t, rx, 0, 0, 72, 0)
			used(t, rx, 1, 1, 100, 2)
		}, "only the last one may"},
		{"merges without leave", virtio.Version1, func(t *testing.T, rx, _ *ring) {
			fill(t, rx, 0, 72, 2)
			used(t, rx, 0, 0, 72, 2)
		}, "num_buffers is 2"},
		{"length of a transmitted frame", merging, func(t *testing.T, rx, tx *ring) {
			fill(t, rx, 0, 72, 1)
			used(t, rx, 0, 0, 72, 1)
			used(t, tx, 0, 0, 1, 1)
		}, "1 bytes were written to a transmitted frame"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := handmade(t, c.features, Guest{})
			if err := f.Send(0, Frame{Data: make([]byte, 60)}); err != nil {
				t.Fatal(err)
			}
			f.rings[1].drv.SetUsedIdx(0)
			used(t, f.rings[1], 0, 0, 0, 1)
			c.device(t, f.rings[0], f.rings[1])
			_, ok, err := f.TryRecv(0)
			if err == nil && !ok {
				t.Fatal("no frame came")
			}
			if err == nil {
				err = f.WaitSent(0)
			}
			switch {
			case c.want == "" && err != nil:
				t.Fatalf("a good device was refused: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Fatalf("want an error with %q, got %v", c.want, err)
			}
		})
	}
}

// TestLostCall finds a device that returns a chain and does not call, although
// it was asked to.
func TestLostCall(t *testing.T) {
	f := handmade(t, merging, Guest{})
	r := f.rings[0]
	fill(t, r, 0, 72, 1)
	armed := make(chan struct{})
	go func() { // the device: it waits until the driver has asked
		defer close(armed)
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if flags, err := f.Peek(r.addr.Log-(r.addr.Used-r.addr.Avail), 1); err == nil && flags[0] == 0 {
				used(t, r, 0, 0, 72, 1)
				return
			}
		}
	}()
	_, err := f.Recv(0, 100*time.Millisecond)
	<-armed
	if err == nil || !strings.Contains(err.Error(), "without the call") {
		t.Fatalf("want the lost call, got %v", err)
	}
}

// TestFrameLengths checks how a frame is cut into descriptors.
func TestFrameLengths(t *testing.T) {
	data := make([]byte, 10)
	for _, c := range []struct {
		frame Frame
		want  []int // nil: refused
		alone bool
	}{
		{Frame{Data: data}, []int{22}, false},
		{Frame{Data: data, HeaderAlone: true}, []int{12, 10}, false},
		{Frame{Data: data, HeaderCut: 5}, []int{5, 17}, false},
		{Frame{Data: data, HeaderCut: 5, HeaderAlone: true, Parts: 3}, []int{5, 7, 3, 3, 4}, false},
		{Frame{Data: data[:2], HeaderAlone: true, Parts: 4}, []int{12, 0, 1, 0, 1}, false},
		{Frame{Data: nil, Parts: 1}, []int{12}, false},
		{Frame{Data: data, HeaderCut: 12}, nil, false},
		{Frame{Data: data, HeaderCut: -1}, nil, false},
		{Frame{Data: data, Parts: -1}, nil, false},
		{Frame{Data: data, HeaderCut: 5, Parts: 2}, []int{12, 5, 5}, true},
	} {
		got, err := c.frame.lengths(12, c.alone)
		if (err == nil) != (c.want != nil) {
			t.Errorf("%+v: %v", c.frame, err)
		}
		if err == nil && !equal(got, c.want) {
			t.Errorf("%+v: cut into %v, want %v", c.frame, got, c.want)
		}
	}
}

func equal(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestSendRefuses checks what a ring cannot take, and that nothing of it stays.
func TestSendRefuses(t *testing.T) {
	f := handmade(t, merging, Guest{RingSize: 4})
	f.o.Timeout = 20 * time.Millisecond
	free := func() (n int) {
		for _, r := range f.mem.pages.regions {
			for _, taken := range r.taken {
				if !taken {
					n++
				}
			}
		}
		return n
	}
	before := free()
	for name, fr := range map[string]Frame{
		"indirect without the feature": {Data: make([]byte, 60), Indirect: true},
		"longer than the ring":         {Data: make([]byte, 60), Parts: 5},
		"no border":                    {Data: make([]byte, 60), Straddle: true},
		"bad header cut":               {Data: make([]byte, 60), HeaderCut: 99},
		"larger than the memory":       {Data: make([]byte, 32<<20)},
	} {
		if err := f.Send(0, fr); err == nil {
			t.Errorf("%s: sent", name)
		}
	}
	if got := free(); got != before {
		t.Errorf("%d pages were free, %d are after frames that were refused", before, got)
	}
	for range 2 {
		if err := f.Send(0, Frame{Data: make([]byte, 60), Parts: 2}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Send(0, Frame{Data: make([]byte, 60)}); !errors.Is(err, ErrTimeout) {
		t.Errorf("a full ring: want %v, got %v", ErrTimeout, err)
	}
	if err := f.Send(1, Frame{}); err == nil {
		t.Error("a pair that does not exist took a frame")
	}
}
