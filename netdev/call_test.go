package netdev_test

import (
	"context"
	"encoding/binary"
	"errors"
	"syscall"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/netdev"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// wantCall asks for a call at the next used entry, as a driver does that is
// about to sleep.
func wantCall(t *testing.T, f *vutest.FrontEnd, ring int) {
	t.Helper()
	d := f.Driver(ring)
	err := sharedmem.Guard(func() error {
		if f.Features().Has(virtio.EventIdx) {
			d.SetUsedEvent(d.UsedIdx())
		} else {
			d.SetAvailFlags(0)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// counter is what an eventfd counts, which is taken away; 0: it is empty.
func counter(t *testing.T, e *sys.Event) uint64 {
	t.Helper()
	var b [8]byte
	if _, err := syscall.Read(e.FD(), b[:]); errors.Is(err, syscall.EAGAIN) {
		return 0
	} else if err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[:])
}

// A call descriptor whose counter is full has a call pending: nothing waits for
// it and nothing is broken, and when the guest has read it, it is called again.
func TestFullCallCountsAsCalled(t *testing.T) {
	for _, without := range []virtio.Features{0, virtio.EventIdx} {
		r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
		a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{Guest: vutest.Guest{Without: without}})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		call, err := sys.NewEvent()
		r.must(err)
		defer call.Close()
		fd, err := call.Dup()
		r.must(err)
		defer func() { _ = fd.Close() }()
		const full = 1<<64 - 2
		if _, err := syscall.Write(call.FD(), binary.NativeEndian.AppendUint64(nil, full)); err != nil {
			t.Fatal(err)
		}
		for ring := range 2 {
			r.must(b.SetCallFD(ctx, ring, fd)) // polls from now on, unless told otherwise
		}
		r.must(b.Barrier(ctx))
		for i := range uint32(10) {
			wantCall(t, b, 0)
			wantCall(t, b, 1)
			exchange(t, a, b, 0, frame(macB, macA, 60, i))
			exchange(t, b, a, 0, frame(macA, macB, 60, i))
		}
		if n := counter(t, call); n != full {
			t.Errorf("the full counter counts %d", n)
		}
		for i := range uint32(3) { // now there is room
			wantCall(t, b, 0)
			exchange(t, a, b, 0, frame(macB, macA, 60, i))
			r.waitFor("the call", func() bool { return counter(t, call) == 1 })
		}
		exchange(t, a, b, 0, frame(macB, macA, 60, 1))
		exchange(t, b, a, 0, frame(macA, macB, 60, 1))
		if n := counter(t, call); n != 0 {
			t.Errorf("a guest that does not want calls was called %d times", n)
		}
		r.note(func() {
			if r.stuck != 0 || len(r.broken) != 0 {
				t.Errorf("stuck calls: %d, broken rings: %v", r.stuck, r.broken)
			}
		})
	}
}

// A back-end that died between an index and its call leaves a guest that sleeps
// on what it does not know of, perhaps for ever if no frame comes: so the next
// one calls at the start of each ring, whatever the guest wishes.
func TestStartMakesACall(t *testing.T) {
	for _, k := range vutest.Kinds() {
		t.Run(k.String(), func(t *testing.T) {
			r := newRig(t, 1, netdev.Options{Name: "a"})
			a := r.connect("a", vutest.Options{Kind: k})
			for ring := range 2 {
				r.waitFor("a call without a frame", func() bool { return a.Calls(ring) > 0 })
			}
		})
	}
}

// A guest without interrupts looks at its rings itself; nobody misses a call
// that it never wanted.
func TestFrontEndWithoutCalls(t *testing.T) {
	for _, k := range vutest.Kinds() {
		t.Run(k.String(), func(t *testing.T) {
			r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
			a := r.connect("a", vutest.Options{Kind: k, Guest: vutest.Guest{NoVector: true}})
			b := r.connect("b", vutest.Options{})
			for range 5 {
				pingPong(t, a, b)
			}
			if n := a.Calls(0) + a.Calls(1); n != 0 && k != vutest.Libkrun { // libkrun has its one call always
				t.Errorf("%d calls", n)
			}
			for i, ring := range r.devices["a"].Snapshot().Rings[:2] {
				if !ring.Started || !ring.Enabled || ring.Broken {
					t.Errorf("ring %d is %+v", i, ring)
				}
			}
		})
	}
}
