package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// TestWireCarries: frames of all sizes arrive in their order, each once and as they were sent,
// through laps of short rings of both formats; without a copy their lengths do.
func TestWireCarries(t *testing.T) {
	for _, c := range []struct {
		name     string
		size     int
		features virtio.Features
		frames   bool
	}{
		{"split", 128, virtio.Version1 | virtio.InOrder, true},
		{"packed", 100, virtio.Version1 | virtio.InOrder | virtio.RingPacked, true},
		{"split, not copied", 16, virtio.Version1 | virtio.InOrder, false},
		{"packed, not copied", 7, virtio.Version1 | virtio.InOrder | virtio.RingPacked, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			sender, receiver := pair(t, c.size, c.features), pair(t, c.size, c.features)
			w := &wire{frames: c.frames}
			w.set(0, tx, ringOf(t, sender))
			w.set(1, rx, ringOf(t, receiver))
			l := &lane{wire: w, from: 0, to: 1}
			for visits, sent, received := 0, uint32(0), uint32(0); received < 1000; visits++ {
				if visits == 10_000 {
					t.Fatalf("%d frames of 1000 have come after %d visits", received, visits)
				}
				for receive(t, receiver) && sent < 1000 && send(t, sender, sent) {
					sent++
				}
				sender.Driver.Publish()
				receiver.Driver.Publish()
				if err := sharedmem.Guard(func() error { l.Poll(nil, 0); return nil }); err != nil {
					t.Fatal(err)
				}
				received = collect(t, receiver, received, c.frames)
				if _, err := sender.Driver.Collect(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestRingsAreTrustedKnowingly: what the program cannot do without checks it
// refuses: memory in two regions, and chains of two buffers.
func TestRingsAreTrustedKnowingly(t *testing.T) {
	p, err := vqtest.NewPair(vqtest.Options{Regions: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if _, err := newRing(p.Queue); !errors.Is(err, errRing) {
		t.Errorf("memory of two regions: error %v, want %v", err, errRing)
	}
	for _, f := range []virtio.Features{virtio.Version1, virtio.Version1 | virtio.RingPacked} {
		p := pair(t, 16, f)
		if _, err := p.Driver.Add(vqtest.Request{Out: [][]byte{frame(1), frame(2)}}); err != nil {
			t.Fatal(err)
		}
		p.Driver.Publish()
		r := ringOf(t, p)
		func() {
			defer func() {
				if got := recover(); got != errChain { //nolint:errorlint // a panic's value
					t.Errorf("features %#x: a chain of two buffers: %v, want %v", uint64(f), got, errChain)
				}
			}()
			r.take(new(buffers), batch)
		}()
	}
}

func pair(t *testing.T, size int, f virtio.Features) *vqtest.Pair {
	t.Helper()
	p, err := vqtest.NewPair(vqtest.Options{Size: size, Features: f})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func ringOf(t *testing.T, p *vqtest.Pair) *ring {
	t.Helper()
	r, err := newRing(p.Queue)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// frame is the one of a number, with its virtio_net_hdr in front.
func frame(n uint32) []byte {
	b := bytes.Repeat([]byte{byte(n)}, headerLen+60+int(n*37%1400))
	clear(b[:headerLen])
	binary.LittleEndian.PutUint32(b[headerLen:], n)
	return b
}

func send(t *testing.T, p *vqtest.Pair, n uint32) bool {
	t.Helper()
	_, err := p.Driver.Add(vqtest.Request{Out: [][]byte{frame(n)}})
	return err == nil
}

func receive(t *testing.T, p *vqtest.Pair) bool {
	t.Helper()
	_, err := p.Driver.Add(vqtest.Request{In: []int{1600}})
	return err == nil
}

// collect compares what has come with the frames from number next on, and answers
// the number of the one behind.
func collect(t *testing.T, p *vqtest.Pair, next uint32, whole bool) uint32 {
	t.Helper()
	done, err := p.Driver.Collect()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range done {
		want := frame(next)
		want[10] = 1 // num_buffers
		if !whole && int(d.Len) != len(want) || whole && !bytes.Equal(d.Data, want) {
			t.Fatalf("frame %d came with %d bytes, %d were sent, or with others", next, d.Len, len(want))
		}
		next++
	}
	return next
}
