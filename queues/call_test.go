package queues

import (
	"testing"
	"time"

	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// Trap 7.13, 7.19: a worker makes its call when it has left the lock. Whoever
// takes the ring away, exchanges it or disables it waits for that, too: behind
// GET_VRING_BASE's answer nobody may be called any more.
func TestTrap7_13_StopWaitsForTheCall(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(n *NIC)
	}{
		{"stop", func(n *NIC) { n.StopRx(0) }},
		{"disable", func(n *NIC) { n.EnableRx(0, false) }},
		{"replace", func(n *NIC) {
			_ = n.ReplaceRx(0, func(virtqueue.State) (*virtqueue.Queue, error) { return nil, nil })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Options{})
			s := r.newSender(vqtest.Options{})
			v := r.newReceiver(vqtest.Options{Features: plainRx})
			v.post(2000, 2000)
			ring := &v.nic.rings[0]
			lists := s.send(plain(60, 60)...)
			out := ring.burst(bursts.Get(r.ctx), r.softener(r.ctx), lists[:1])
			if out.accepted != 1 || out.call == nil {
				t.Fatalf("the burst accepted %d frames and wants to call %v", out.accepted, out.call)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				tt.end(v.nic)
			}()
			select {
			case <-ended:
				t.Error("the ring was given up while a worker was about to call its driver")
			case <-time.After(50 * time.Millisecond):
			}
			if !ring.makeCall(r.ctx, out.call) {
				t.Error("the call descriptor was dead")
			}
			select {
			case <-ended:
			case <-time.After(patience):
				t.Fatal("the ring is not given up after the call")
			}
			if got := signals(t, v.Call); got != 1 {
				t.Errorf("%d calls, want 1", got)
			}
			v.nic.Deliver(r.ctx, lists[1:])
			if got := signals(t, v.Call); got != 0 {
				t.Errorf("%d calls afterwards", got)
			}
		})
	}
}
