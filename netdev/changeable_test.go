package netdev_test

import (
	"encoding/binary"
	"sync/atomic"
	"testing"

	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// A device gets other options under load, again and again; no frame is lost, doubled
// or overtaken.
func TestReconfigureUnderLoad(t *testing.T) {
	r := newRig(t, 2, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	exchange(t, b, a, 0, frame(macA, macB, 60, 0))
	var stop atomic.Bool
	changed := make(chan int, 1)
	go func() {
		n := 0
		for ; !stop.Load(); n++ {
			c := netdev.Changeable{
				Mode:      []worker.Mode{worker.Adaptive, worker.Poll, worker.Interrupt}[n%3],
				Switching: vswitch.PortOptions{Transparent: n%2 == 0},
			}
			if err := r.devices["a"].Reconfigure(c); err != nil {
				t.Error(err)
				break
			}
		}
		changed <- n
	}()
	const frames, batch = 4000, 20
	for n := 0; n < frames && !t.Failed(); n += batch {
		var list []vutest.Frame
		for i := range batch {
			list = append(list, frame(macB, macA, 60+(n+i)%1400, uint32(n+i)))
		}
		r.must(a.Send(0, list...))
		for i := range batch {
			got, err := b.Recv(0, patience)
			r.must(err)
			if number := binary.BigEndian.Uint32(got.Data[14:]); number != uint32(n+i) {
				t.Fatalf("frame %d came in the place of %d", number, n+i)
			}
		}
		r.must(a.WaitSent(0))
	}
	stop.Store(true)
	if n := <-changed; n < 10 {
		t.Errorf("it changed %d times only", n)
	}
	if got := r.devices["b"].Snapshot().RxFrames; got != frames || r.drops() != 0 {
		t.Errorf("%d frames arrived of %d; %s", got, frames, r.counters())
	}
}
