package netdev_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"vhostnet/metrics"
	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

// What a driver put into a transmit ring that it then gave up comes back to it
// and is counted, as does what it puts there later: Linux sends no TCP segment
// again that it thinks is still about to be sent.
func TestGivenUpTransmitRingIsEmptied(t *testing.T) {
	for _, k := range []vutest.Kind{vutest.QEMU10, vutest.QEMU72, vutest.VirtioUser} {
		for _, packed := range []bool{false, true} {
			whole := t.Run(fmt.Sprintf("%s/packed=%t", k, packed), func(t *testing.T) {
				r := newRig(t, 2, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
				a := r.connect("a", vutest.Options{Kind: k, Pairs: 2, Guest: vutest.Guest{Pairs: 2, Packed: packed}})
				b := r.connect("b", vutest.Options{})
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				for round := range 3 {
					carry(t, a, 1, b, frame(macB, macA, 60, uint32(round)))
					usePairs(ctx, t, a, 1)
					before := r.devices["a"].Snapshot().Drops[metrics.ReasonGivenUp]
					for i := range 100 {
						r.must(a.Send(1, frame(macB, macA, 60, uint32(i))))
					}
					r.must(a.WaitSent(1))
					if n := r.devices["a"].Snapshot().Drops[metrics.ReasonGivenUp] - before; n != 100 {
						t.Errorf("%d of 100 frames are counted as dropped, their ring being given up", n)
					}
					carry(t, a, 0, b, frame(macB, macA, 60, 1000)) // and nothing before it
					usePairs(ctx, t, a, 2)
				}
			})
			if !whole {
				return // the others would wait as long
			}
		}
	}
}

// A device all of whose rings are disabled may have been reset that way, and
// the memory of a ring that is not set up anew since may belong to the next
// kernel, whatever rings are enabled then.
func TestTrap7_20_DisabledDevice(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 3, 0, 1}, {3, 1}, {3, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			r := newRig(t, 2, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
			a, b := r.connect("a", vutest.Options{Pairs: 2, Guest: vutest.Guest{Pairs: 2}}), r.connect("b", vutest.Options{})
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			carry(t, a, 1, b, frame(macB, macA, 60, 1))
			for _, i := range order {
				r.must(a.Enable(ctx, i, false))
			}
			waiting := frame(macB, macA, 60, 2)
			r.must(a.Send(1, waiting))
			r.must(a.Barrier(ctx))
			// A ring that is enabled asks for kicks when it has been empty for a while.
			enabled := slices.DeleteFunc([]int{0, 1, 2, 3}, func(i int) bool { return slices.Contains(order, i) })
			before := withoutUsed(snapshot(t, a), a, enabled...)
			r.visits(ctx, 8)
			if !bytes.Equal(withoutUsed(snapshot(t, a), a, enabled...), before) {
				t.Fatal("memory of a device that is disabled was written to")
			}
			r.must(a.Enable(ctx, 0, true))
			r.must(a.Enable(ctx, 1, true))
			r.visits(ctx, 8)
			before = withoutUsed(before, a, 0, 1)
			if !bytes.Equal(withoutUsed(withoutUsed(snapshot(t, a), a, enabled...), a, 0, 1), before) {
				t.Fatal("memory of a ring that was not enabled since its device was, was written to")
			}
			r.must(a.Enable(ctx, 3, true))
			arrives(t, b, waiting)
		})
	}
}

// withoutUsed clears, in a snapshot, what the device writes to some rings.
func withoutUsed(all []byte, f *vutest.FrontEnd, rings ...int) []byte {
	for _, i := range rings {
		used, at := f.VringAddr(i).Used, uint64(0)
		for _, region := range f.Regions() {
			if used-region.User < region.Size {
				at += used - region.User
				break
			}
			at += region.Size
		}
		clear(all[at : at+virtqueue.UsedLen(f.Driver(i).Size(), virtio.EventIdx)])
	}
	return all
}

// usePairs returns when the device knows: not every front-end waits for that.
func usePairs(ctx context.Context, t *testing.T, f *vutest.FrontEnd, n int) {
	t.Helper()
	if err := errors.Join(f.UsePairs(ctx, n), f.Barrier(ctx)); err != nil {
		t.Fatal(err)
	}
}

// carry sends a frame by a pair of one guest to another guest's first.
func carry(t *testing.T, from *vutest.FrontEnd, pair int, to *vutest.FrontEnd, f vutest.Frame) {
	t.Helper()
	if err := from.Send(pair, f); err != nil {
		t.Fatal(err)
	}
	arrives(t, to, f)
}

// arrives fails t unless f is the next frame that comes.
func arrives(t *testing.T, to *vutest.FrontEnd, f vutest.Frame) {
	t.Helper()
	if got, err := to.Recv(0, patience); err != nil || !bytes.Equal(got.Data, f.Data) {
		t.Fatalf("received %x, %v, want %x", got.Data, err, f.Data)
	}
}

// visits lets every worker visit what it has n times.
func (r *rig) visits(ctx context.Context, n int) {
	r.t.Helper()
	for range n {
		for _, w := range r.group.Workers() {
			r.must(w.Do(ctx, func(*worker.Context) {}))
		}
	}
}
