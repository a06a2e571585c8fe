package vutest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
)

// TestMemory plugs memory in under running rings, uses it, and pulls it out.
func TestMemory(t *testing.T) {
	for _, mask := range []vhostuser.Protocol{0, vhostuser.ProtocolMemSlots, vhostuser.ProtocolReplyAck} {
		for _, k := range vutest.Kinds() {
			t.Run(fmt.Sprintf("%s-without-%s", k, mask), func(t *testing.T) {
				vutest.CheckLeaks(t)
				e, path := serve(t, 1, mask)
				f := vutest.Connect(t, path, vutest.Options{Kind: k, MemorySize: 4 << 20, Guest: vutest.Guest{RingSize: 64}})
				ctx := timeout(t)
				if _, err := f.Start(ctx); err != nil {
					t.Fatal(err)
				}
				exchange(t, f, 0, shapes(f.Features(), 1400))
				region, err := f.AddMemory(ctx, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				// Pages are taken from the regions in turn.
				exchange(t, f, 0, shapes(f.Features(), 1400))
				if b, err := f.Peek(region.GPA, int(region.Size)); err != nil || !bytes.ContainsFunc(b, func(r rune) bool { return r != 0 }) {
					t.Fatalf("the new region was not used: %v", err)
				}
				if err := f.RemoveMemory(ctx, region); err != nil {
					t.Fatal(err)
				}
				exchange(t, f, 0, shapes(f.Features(), 1400))
				if err := f.Barrier(ctx); err != nil {
					t.Fatal(err)
				}
				e.mu.Lock()
				defer e.mu.Unlock()
				if e.memories < 3 {
					t.Errorf("the device was told of %d memories, at least 3 came", e.memories)
				}
			})
		}
	}
}

// TestStraddle sends and receives buffers across the border of two regions.
func TestStraddle(t *testing.T) {
	_, path := serve(t, 1, 0)
	f := vutest.Connect(t, path, vutest.Options{Kind: vutest.CloudHypervisor, Guest: vutest.Guest{RingSize: 1, RxBuffer: 4096}})
	if _, err := f.Start(timeout(t)); err != nil {
		t.Fatal(err)
	}
	exchange(t, f, 0, []vutest.Frame{{Data: frame(3000, 1), Straddle: true}})
	// One border is in the receive buffer, which is posted again; at the other
	// one is what was sent.
	posted, sent := 0, 0
	for _, r := range f.Regions()[1:3] {
		b, err := f.Peek(r.GPA-8, 16)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case bytes.Equal(b, bytes.Repeat([]byte{0xa5}, 16)):
			posted++
		case !bytes.Contains(b, make([]byte, 4)):
			sent++
		}
	}
	if posted != 1 || sent != 1 {
		t.Fatalf("%d receive buffers and %d frames lie across borders, want 1 and 1", posted, sent)
	}
	exchange(t, f, 0, []vutest.Frame{{Data: frame(4000, 1)}, {Data: frame(4000, 2)}})
}

// TestEvents exchanges a ring's descriptors while it runs.
func TestEvents(t *testing.T) {
	vutest.CheckLeaks(t)
	_, path := serve(t, 1, 0)
	f := vutest.Connect(t, path, vutest.Options{Kind: vutest.QEMU10})
	ctx := timeout(t)
	if _, err := f.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		for _, step := range []func(context.Context, int) error{f.SetCall, f.SetKick} {
			for ring := range 2 {
				if err := step(ctx, ring); err != nil {
					t.Fatal(err)
				}
			}
			exchange(t, f, 0, shapes(f.Features(), 1400))
		}
	}
	if f.Calls(0) == 0 || f.Kicks(1) == 0 {
		t.Fatalf("%d calls and %d kicks were counted", f.Calls(0), f.Kicks(1))
	}
	for ring := range 2 {
		if err := f.SetCallFD(ctx, ring, nil); err != nil {
			t.Fatal(err)
		}
	}
	calls := f.Calls(0)
	exchange(t, f, 0, shapes(f.Features(), 1400))
	if f.Calls(0) != calls {
		t.Fatal("a ring without interrupt was called")
	}
}

// TestDisabled checks that a disabled ring is left alone and found when it is
// enabled again, though its kick was long ago.
func TestDisabled(t *testing.T) {
	_, path := serve(t, 1, 0)
	f := vutest.Connect(t, path, vutest.Options{Kind: vutest.QEMU10})
	ctx := timeout(t)
	if _, err := f.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := f.Enable(ctx, 1, false); err != nil {
		t.Fatal(err)
	}
	frames := shapes(f.Features(), 1400)
	if err := f.Send(0, frames...); err != nil {
		t.Fatal(err)
	}
	if err := f.Barrier(ctx); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := f.TryRecv(0); ok || err != nil {
		t.Fatalf("a disabled ring was served: %t, %v", ok, err)
	}
	if err := f.Enable(ctx, 1, true); err != nil {
		t.Fatal(err)
	}
	expect(t, f, 0, frames)
}

// TestCallGivenWhileAGuestSleeps: of what came back while the device had no
// interrupt a guest hears by the next one, and not only when its ring, disabled
// meanwhile, is enabled again.
func TestCallGivenWhileAGuestSleeps(t *testing.T) {
	_, path := serve(t, 1, 0)
	f := vutest.Connect(t, path, vutest.Options{Kind: vutest.QEMU10, Guest: vutest.Guest{RingSize: 64}})
	ctx := timeout(t)
	if _, err := f.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 20 { // the guest is to sleep all the while: most often it does
		received := make(chan error, 1)
		go func() {
			_, err := f.Recv(0, 10*time.Second)
			received <- err
		}()
		time.Sleep(time.Millisecond)
		err := errors.Join(f.SetCallFD(ctx, 0, nil), f.Barrier(ctx), f.Send(0, vutest.Frame{Data: frame(60, byte(i))}), f.WaitSent(0),
			f.Enable(ctx, 0, false), f.SetCall(ctx, 0))
		if err := errors.Join(err, <-received); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if err := f.Enable(ctx, 0, true); err != nil {
			t.Fatal(err)
		}
	}
}
