package vutest_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

const patience = 10 * time.Second

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	t.Cleanup(cancel)
	return ctx
}

// frame is n bytes that are different for every seed.
func frame(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return b
}

// shapes are frames as different drivers lay them out, of at most longest
// bytes, for a driver that accepted f.
func shapes(f virtio.Features, longest int) []vutest.Frame {
	list := []vutest.Frame{
		{Data: frame(60, 1)},
		{Data: frame(min(1514, longest), 2), HeaderAlone: true},
		{Data: frame(200, 3), HeaderCut: 3},
		{Data: frame(1000, 4), HeaderCut: 11 % virtio.NetHeaderLen(f), HeaderAlone: true, Parts: 7},
		{Data: frame(longest, 5), Parts: 3},
		{Data: frame(14, 6), Parts: 20},
	}
	if f.Has(virtio.IndirectDesc) {
		list = append(list,
			vutest.Frame{Data: frame(longest, 7), HeaderAlone: true, Parts: 18, Indirect: true},
			vutest.Frame{Data: frame(300, 8), Parts: 4, Indirect: true, Direct: 2},
			vutest.Frame{Data: frame(64, 9), Indirect: true},
		)
	}
	return list
}

// exchange sends frames to an echo and wants each of them back.
func exchange(t *testing.T, f *vutest.FrontEnd, pair int, frames []vutest.Frame) {
	t.Helper()
	if err := f.Send(pair, frames...); err != nil {
		t.Fatal(err)
	}
	expect(t, f, pair, frames)
	if err := f.WaitSent(pair); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, f *vutest.FrontEnd, pair int, frames []vutest.Frame) {
	t.Helper()
	for i := range frames {
		got, err := f.Recv(pair, patience)
		if err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		if !bytes.Equal(got.Data, frames[i].Data) {
			t.Fatalf("frame %d: %d bytes came back, %d were sent, and they differ", i, len(got.Data), len(frames[i].Data))
		}
	}
}

// longest is the longest frame that a driver's receive buffers take.
func longest(f virtio.Features) int {
	if f&(virtio.NetMrgRxBuf|virtio.NetGuestTSO4) != 0 {
		return 60000
	}
	return 1514
}

// guests are drivers to boot one after the other.
var guests = []struct {
	name string
	vutest.Guest
}{
	{"firmware", vutest.Guest{Without: ^virtio.Version1, RingSize: 64}},
	{"linux", vutest.Guest{}},
	{"legacy", vutest.Guest{Without: ^virtio.Features(0)}},
	{"no-merge", vutest.Guest{Without: virtio.NetMrgRxBuf}},
	{"no-indirect", vutest.Guest{Without: virtio.IndirectDesc | virtio.EventIdx, RingSize: 1024, RxBuffers: 300}},
	{"no-vector", vutest.Guest{NoVector: true}},
	{"packed", vutest.Guest{Packed: true, RingSize: 97}},
	{"packed, no events", vutest.Guest{Packed: true, Without: virtio.EventIdx | virtio.IndirectDesc}},
	{"packed, no vector", vutest.Guest{Packed: true, NoVector: true}},
	{"old", vutest.Guest{Legacy: true}},
	{"old, 10 bytes", vutest.Guest{Legacy: true, Without: virtio.AnyLayout | virtio.NetMrgRxBuf}},
	{"big-buffers", vutest.Guest{RxBuffer: 4096, RingSize: 32}},
}

func TestKinds(t *testing.T) {
	for _, k := range vutest.Kinds() {
		t.Run(k.String(), func(t *testing.T) {
			vutest.CheckLeaks(t)
			e, path := serve(t, 2, 0)
			f := vutest.Connect(t, path, vutest.Options{Kind: k})
			ctx := timeout(t)
			features, err := f.Start(ctx)
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, f, 0, shapes(features, longest(features)))
			stopped(ctx, t, f)
			for _, g := range guests {
				if g.Packed && k > vutest.VirtioUser || g.Legacy && k > vutest.QEMU72 {
					continue // this front-end has no such guests
				}
				features, err := f.Reboot(ctx, g.Guest)
				if err != nil {
					t.Fatalf("%s: %v", g.name, err)
				}
				if bad := features & g.Without; bad != 0 {
					t.Fatalf("%s: features %s were accepted, which the driver does not know", g.name, bad)
				}
				exchange(t, f, 0, shapes(features, longest(features)))
				if g.Packed && k != vutest.VirtioUser { // whose rings begin anew
					stopped(ctx, t, f)
				}
			}
			reconnected(ctx, t, e, f)
			f.Disconnect()
		})
	}
}

// stopped checks that a stopped ring is left alone, and goes on where it was.
func stopped(ctx context.Context, t *testing.T, f *vutest.FrontEnd) {
	t.Helper()
	if err := f.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	calls, used := f.Calls(0), f.Driver(1).UsedIdx()
	waiting := []vutest.Frame{{Data: frame(100, 10)}, {Data: frame(1000, 11)}}
	if err := f.Send(0, waiting...); err != nil {
		t.Fatal(err)
	}
	if err := f.Barrier(ctx); err != nil {
		t.Fatal(err)
	}
	if got := f.Driver(1).UsedIdx(); got != used || f.Calls(0) != calls {
		t.Fatalf("stopped ring went from used index %d to %d, calls from %d to %d", used, got, calls, f.Calls(0))
	}
	if _, err := f.Start(ctx); err != nil {
		t.Fatal(err)
	}
	expect(t, f, 0, waiting)
}

// reconnected checks that the guest runs on when its back-end comes back, and
// that what it sent meanwhile is found without a kick.
func reconnected(ctx context.Context, t *testing.T, e *echo, f *vutest.FrontEnd) {
	t.Helper()
	f.Disconnect()
	waiting := []vutest.Frame{{Data: frame(100, 12)}, {Data: frame(800, 13)}}
	if err := f.Send(0, waiting...); err != nil {
		t.Fatal(err)
	}
	kicks := f.Kicks(1)
	if _, err := f.Reconnect(ctx); err != nil {
		t.Fatal(err)
	}
	expect(t, f, 0, waiting)
	if f.Kicks(1) != kicks {
		t.Fatal("Reconnect kicked the transmit ring, so this shows nothing")
	}
	exchange(t, f, 0, shapes(f.Features(), 1000))
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.resets != 1 {
		t.Fatalf("the device was told of %d lost front-ends, 1 was lost", e.resets)
	}
}

func TestPairs(t *testing.T) {
	for _, k := range []vutest.Kind{vutest.QEMU10, vutest.QEMU72, vutest.VirtioUser, vutest.CloudHypervisor} {
		t.Run(k.String(), func(t *testing.T) {
			vutest.CheckLeaks(t)
			e, path := serve(t, 4, 0)
			f := vutest.Connect(t, path, vutest.Options{Kind: k, Pairs: 3, Guest: vutest.Guest{Pairs: 2}})
			ctx := timeout(t)
			features, err := f.Start(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for pair := range 2 {
				exchange(t, f, pair, shapes(features, 3000))
			}
			if err := f.UsePairs(ctx, 3); err != nil {
				t.Fatal(err)
			}
			exchange(t, f, 2, shapes(features, 3000))
			if err := f.Barrier(ctx); err != nil {
				t.Fatal(err)
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			for i, r := range e.rings {
				starts := 1
				if i >= 2 {
					starts = 2 // QEMU sends the call while the ring is disabled, which parks it
				}
				if want := i < 6; r.enabled != want || (r.q != nil) != want || r.starts > starts {
					t.Errorf("ring %d: enabled %t, running %t, started %d times; want %t, at most %d times", i, r.enabled, r.q != nil, r.starts, want, starts)
				}
			}
		})
	}
}

func TestMTU(t *testing.T) {
	e, path := serve(t, 1, 0)
	f := vutest.Connect(t, path, vutest.Options{Kind: vutest.QEMU10, MTU: 9000})
	if _, err := f.Start(timeout(t)); err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mtu != 9000 {
		t.Fatalf("the device was told of MTU %d, 9000 was set", e.mtu)
	}
}

func TestRecvTimesOut(t *testing.T) {
	_, path := serve(t, 1, 0)
	f := vutest.Connect(t, path, vutest.Options{Kind: vutest.QEMU10})
	if _, err := f.Recv(0, time.Millisecond); err == nil {
		t.Fatal("a guest that has not booted received something")
	}
	if _, err := f.Start(timeout(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Recv(0, time.Millisecond); !errors.Is(err, vutest.ErrTimeout) {
		t.Fatalf("want %v, got %v", vutest.ErrTimeout, err)
	}
}
