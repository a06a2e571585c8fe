package netdev_test

import (
	"context"
	"testing"

	"vhostnet/metrics"
	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
)

// While a link is down frames are lost in both directions, and counted; the
// front-end stays, and with the link everything comes back.
func TestLinkDown(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	exchange(t, a, b, 0, frame(macB, macA, 60, 1))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r.must(r.devices["b"].SetLink(ctx, false))
	lost := func() uint64 { return r.devices["b"].Snapshot().Drops[metrics.ReasonLinkDown] }
	r.must(a.Send(0, frame(macB, macA, 60, 2)))
	r.waitFor("the loss of the frame to b", func() bool { return lost() == 1 })
	r.must(b.Send(0, frame(macA, macB, 60, 3)))
	r.waitFor("the loss of the frame from b", func() bool { return lost() == 2 })
	r.must(r.devices["b"].SetLink(ctx, true))
	exchange(t, a, b, 0, frame(macB, macA, 60, 4))
	exchange(t, b, a, 0, frame(macA, macB, 60, 5))
}
