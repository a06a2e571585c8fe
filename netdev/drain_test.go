package netdev_test

import (
	"context"
	"testing"

	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
)

// drain drains all devices of the rig, all at once, as the program does.
func (r *rig) drain() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	errs := make(chan error)
	for _, d := range r.devices {
		go func() { errs <- d.Drain(ctx) }()
	}
	for range r.devices {
		r.must(<-errs)
	}
}

// lost is how many frames were dropped, for whatever reason.
func (r *rig) lost() (n uint64) {
	for _, d := range r.devices {
		s := d.Snapshot()
		for _, c := range s.Drops {
			n += c
		}
	}
	return n
}

// used is where ring i of a guest stands.
func used(f *vutest.FrontEnd, i int) uint64 { return uint64(f.Driver(i).UsedIdx()) }

// Whatever was taken from a guest when the device drains is delivered or a
// counted drop, and its chain is back; nothing is taken any more.
func TestDrainUnderLoad(t *testing.T) {
	r := newRig(t, 2, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	pingPong(t, a, b)
	sent, received, dropped := used(a, 1), used(b, 0), r.lost()
	batch := make([]vutest.Frame, 100)
	for i := range batch {
		batch[i] = frame(macB, macA, 60, uint32(i))
	}
	for range 2 { // b's buffers are enough for both: no frame is lost for want of them
		r.must(a.Send(0, batch...))
	}
	r.drain()
	taken, arrived, lost := used(a, 1)-sent, used(b, 0)-received, r.lost()-dropped
	if taken != arrived+lost {
		t.Errorf("%d chains came back, %d frames arrived and %d were dropped", taken, arrived, lost)
	}
	if lost != 0 {
		t.Errorf("%d frames were dropped, although there were buffers: %s", lost, r.counters())
	}
	for range 3 {
		r.must(a.Send(0, frame(macB, macA, 60, 0))) // the kick wakes the worker
		r.must(r.group.Quiesce(context.Background()))
		r.drain() // again, which ends at once
	}
	if again := used(a, 1) - sent; again != taken {
		t.Errorf("%d chains came back, and %d more after the drain", taken, again-taken)
	}
	r.must(b.Send(0, frame(macA, macB, 60, 0)))
	r.drain()
	if n := used(b, 1); n != 3 {
		t.Errorf("b's ring stands at %d, want the 3 frames of before", n)
	}
}

// A receiver without buffers does not hold up a drain: what waits for it is
// dropped and counted, and given back.
func TestDrainWithoutBuffers(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{Guest: vutest.Guest{RxBuffers: 4}})
	r.must(b.Send(0, frame(macA, macB, 60, 0)))
	if _, err := a.Recv(0, patience); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(60) {
		r.must(a.Send(0, frame(macB, macA, 60, i)))
	}
	r.drain()
	if taken, arrived, lost := used(a, 1), used(b, 0), r.lost(); taken != arrived+lost || arrived > 4 {
		t.Errorf("%d chains came back, %d frames arrived and %d were dropped: %s", taken, arrived, lost, r.counters())
	}
}

// Sessions end, begin and change their rings while the device drains.
func TestDrainBesideSessions(t *testing.T) {
	r := newRig(t, 2, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	pingPong(t, a, b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.drain()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range 10 {
		r.must(b.Stop(ctx))
		r.start(b)
		if _, err := a.Reconnect(ctx); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	before := used(a, 1)
	r.must(a.Send(0, frame(macB, macA, 60, 0)))
	r.drain()
	if n := used(a, 1); n != before {
		t.Errorf("%d chains were taken by a ring that started after the drain", n-before)
	}
}
