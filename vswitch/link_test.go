package vswitch

import (
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
)

func TestLinkDown(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	l.teach(1, station(1))
	l.s.SetLink(l.ids[1], false)
	if info := l.s.Ports()[1]; !info.Down {
		t.Errorf("the list tells %+v of a port whose link is down", info)
	}

	// To it: by a flood, as its address was forgotten, and by a filter.
	l.reaches(frame(station(1), station(0)), 0, 2)
	l.s.Steering(l.ids[1]).Set(0, mac(station(1)), 1, 1)
	l.reaches(frame(station(1), station(0)), 0)
	if n := l.ports[1].drops(metrics.ReasonLinkDown); n != 2 {
		t.Errorf("%d frames to the port were counted as link-down, want 2", n)
	}

	// From it, those that wait for their receiver, too.
	sent, waits := frame(station(0), station(1)), frame(station(0), station(1))
	waits.Status = nbl.Busy
	l.forward(1, sent, waits)
	l.status(sent, nbl.Dropped, metrics.ReasonLinkDown)
	l.status(waits, nbl.Dropped, metrics.ReasonLinkDown)
	if n := l.ports[1].drops(metrics.ReasonLinkDown); n != 4 {
		t.Errorf("%d frames of the port were counted as link-down, want 4", n)
	}
	if n := l.ports[1].calls; n != 0 {
		t.Errorf("the port was handed frames %d times", n)
	}

	l.s.SetLink(l.ids[1], true)
	l.reaches(frame(station(1), station(0)), 0, 1)
	l.reaches(frame(station(0), station(1)), 1, 0)
	l.s.SetLink(PortID(0), false) // no port: ignored
}

// A stall ends with a frame that was accepted, not with one that was lost.
func TestLinkDownEndsNoStall(t *testing.T) {
	l := newLab(t, 2, Options{}, PortOptions{Wait: -1})
	l.teach(1, station(1))
	l.ports[1].room = 0
	l.forward(0, frame(station(1), station(0)))
	l.s.SetLink(l.ids[1], false)
	l.forward(0, frame(broadcast, station(0)))
	if !l.s.Ports()[1].Stalled {
		t.Error("a frame that was lost at a link that is down ended a stall")
	}
}
