package netdev_test

import (
	"bytes"
	"context"
	"testing"

	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// restarts is how often rings are stopped and started: 1000 times as QEMU does
// it, less often as the others do.
func restarts(v flavour) int {
	switch {
	case v.kind != vutest.QEMU10:
		return 30
	case v.packed:
		return 300
	}
	return 1000
}

// V60: rings that are stopped go on where they stood. What the device answers
// and what is in the guest's memory agree with what was sent and received, no
// frame is sent twice, and none is forgotten, also when the stop comes in the
// middle of a batch.
func TestV60_StopAndStart(t *testing.T) {
	for _, v := range flavours() {
		if v.packed && v.kind == vutest.VirtioUser {
			continue // its packed rings begin anew
		}
		t.Run(v.name, func(t *testing.T) {
			r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
			size := 64
			if v.packed {
				size = 61
			}
			a := r.connect("a", vutest.Options{Kind: v.kind, MemorySize: 4 << 20, Guest: v.guest(vutest.Guest{RingSize: size})})
			b := r.connect("b", vutest.Options{})
			ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
			defer cancel()
			sent, next, received := uint32(0), uint32(0), uint32(0)
			for cycle := range restarts(v) {
				burst := cycle % 7 * 5 // with the stop behind them, at once
				for range burst {
					r.must(a.Send(0, frame(macB, macA, 60, sent)))
					sent++
				}
				r.must(a.Stop(ctx))
				wantIndices(t, a, v, sent, received)
				r.start(a)
				r.must(a.Send(0, frame(macB, macA, 60, sent)))
				for sent++; next < sent; next++ {
					wantNext(t, b, frame(macB, macA, 60, next))
				}
				r.must(a.WaitSent(0))
				exchange(t, b, a, 0, frame(macA, macB, 60, received))
				received++
			}
			r.must(a.Stop(ctx))
			if used := a.Driver(1).UsedIdx(); used != v.stands(sent, size) {
				t.Errorf("%d frames were sent, the used index is %#x", sent, used)
			}
			wantIndices(t, a, v, sent, received)
			if d := r.drops(); d != 0 {
				t.Errorf("frames were dropped: %s", r.counters())
			}
		})
	}
}

// wantNext receives one frame, which is the one that is wanted.
func wantNext(t *testing.T, f *vutest.FrontEnd, want vutest.Frame) {
	t.Helper()
	got, err := f.Recv(0, patience)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Data, want.Data) {
		t.Fatalf("frame %x came in place of %x", got.Data, want.Data)
	}
}

// wantIndices compares the indices of a stopped guest with what it did. vutest
// has compared the bases with the used indices.
func wantIndices(t *testing.T, f *vutest.FrontEnd, v flavour, sent, received uint32) {
	t.Helper()
	size := f.Driver(0).Size()
	if used := f.Driver(0).UsedIdx(); used != v.stands(received, size) {
		t.Fatalf("%d frames were received, the used index is %#x", received, used)
	}
	left, used := uint32(0), f.Driver(1).UsedIdx()
	for v.stands(sent-left, size) != used {
		if left++; int(left) > f.Outstanding(1) {
			t.Fatalf("%d frames were sent, the used index is %#x, and %d chains are outstanding", sent, used, f.Outstanding(1))
		}
	}
}

// V60: a driver that is bound again finds rings that begin anew.
func TestV60_Rebind(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a := r.connect("a", vutest.Options{MemorySize: 4 << 20, Guest: vutest.Guest{RingSize: 64}})
	b := r.connect("b", vutest.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	defer cancel()
	for cycle := range uint32(150) {
		for range cycle % 9 {
			r.must(a.Send(0, frame(macB, macA, 60, cycle)))
		}
		g := vutest.Guest{RingSize: 16 << (cycle % 3)}
		if cycle%2 == 0 {
			g.Without = virtio.EventIdx | virtio.NetMrgRxBuf
		}
		v := flavour{packed: cycle%4 > 1}
		if v.packed {
			g.Packed, g.RingSize = true, 15+int(cycle%5)
		}
		_, err := a.Reboot(ctx, g)
		r.must(err)
		r.must(a.Barrier(ctx))
		for ring := range 2 {
			if used := a.Driver(ring).UsedIdx(); used != v.stands(0, g.RingSize) {
				t.Fatalf("cycle %d: chains of the driver before came back to this one: ring %d is at %#x", cycle, ring, used)
			}
		}
		drain(t, b)
		exchange(t, a, b, 0, frame(macB, macA, 60, cycle))
		exchange(t, b, a, 0, frame(macA, macB, 60, cycle))
	}
	if r.devices["a"].Snapshot().TxFrames < 150 {
		t.Error("hardly anything was sent")
	}
}
