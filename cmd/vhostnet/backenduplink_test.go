package main

import (
	"context"
	"testing"

	"vhostnet/control"
	"vhostnet/metrics"
	"vhostnet/vhostuser/vutest"
	"vhostnet/vswitch"
)

// An uplink is a port of the API, too: it is shown, it counts, and its link goes
// down and up.
func TestUplinksByAPI(t *testing.T) {
	a := runAPI(t, "web")
	ctx := t.Context()
	web := connect(t, a.path("web"), vutest.Options{})
	var counters metrics.Port
	taker := &taker{}
	id, err := a.vswitch.Attach(taker, vswitch.PortOptions{Name: "t0", Counters: &counters})
	a.must(err)
	added, err := a.ports.reserve(portSpec{name: "t0", fd: -1, uplink: &uplinkSpec{kind: "tap", tap: tapSpec{device: "t0"}}})
	a.must(err)
	wait := func(ctx context.Context) error { <-ctx.Done(); return nil }
	nothing := func(context.Context) error { return nil }
	a.must(a.ports.open(added[0], &uplink{run: wait, drain: nothing, count: counters.Snapshot, close: func(context.Context) error { a.vswitch.Detach(id); return nil }}))
	a.ports.changes.Done()

	list, err := a.Ports(ctx)
	a.must(err)
	if p := list[1]; p.Name != "t0" || p.Kind != "tap" || p.Link != "up" || p.Options["device"] != "tap:t0" || p.Queue != 0 {
		t.Errorf("%+v", p)
	}
	down, err := a.SetLink(ctx, "t0", false)
	a.must(err)
	if down.Link != "down" {
		t.Errorf("%+v", down)
	}
	a.must(web.Send(0, frame('x', 'a')))
	lost := func() uint64 {
		all, err := a.Counters(ctx)
		a.must(err)
		return all[1].Drops["link-down"]
	}
	waitFor(t, "the loss", func() bool { return lost() == 1 })
	_, err = a.SetLink(ctx, "t0", true)
	a.must(err)
	a.must(web.Send(0, frame('x', 'a')))
	waitFor(t, "the frame", func() bool { return taker.count() == 1 })
	for _, err := range []error{
		second(a.AllocateQueue(ctx, control.QueueRequest{Port: "t0"})),
		second(a.SetFilter(ctx, control.FilterRequest{Port: "t0", Address: control.Address{MAC: "52:54:00:00:00:61"}})),
	} {
		if status(err) != control.StatusInvalidParameter {
			t.Errorf("a queue of an uplink: %v", err)
		}
	}
	a.must(a.RemovePort(ctx, "t0"))
	a.want("t0", "link:down", "link:up", "port-removed")
}
