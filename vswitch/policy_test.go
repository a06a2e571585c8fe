package vswitch

import (
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
)

// Protected ports exchange nothing with each other, whatever they know of each
// other, and everything with those that are not.
func TestProtectedPorts(t *testing.T) {
	n := newNet(t)
	n.attach("a", PortOptions{Protected: true})
	n.attach("b", PortOptions{Protected: true})
	n.attach("up", PortOptions{})
	for i, name := range []string{"a", "b", "up"} {
		n.send(name, packet(broadcast, station(i), noTag, 1))
	}
	n.expect("floods", map[string][]int{"a": {noTag}, "b": {noTag}, "up": {noTag, noTag}})
	l := n.send("a", packet(station(1), station(0), noTag, 1))
	if l.Status != nbl.Dropped || l.Reason != metrics.ReasonProtected || n.wires["a"].counters.Drops[metrics.ReasonProtected].Value() != 1 {
		t.Errorf("between protected ports: status %d (%v)", l.Status, l.Reason)
	}
	n.s.Steering(n.ids["b"]).Set(0, mac(station(8)), 3, 1)
	if l := n.send("a", packet(station(8), station(0), noTag, 1)); l.Reason != metrics.ReasonProtected {
		t.Errorf("to a protected port's filter: status %d (%v)", l.Status, l.Reason)
	}
	n.expect("to each other", nil)
	n.send("a", packet(station(2), station(0), noTag, 1))
	n.send("up", packet(station(0), station(2), noTag, 1))
	n.send("a", packet(station(99), station(0), noTag, 1)) // unknown
	n.expect("with the uplink", map[string][]int{"a": {noTag}, "up": {noTag, noTag}})

	// Protected in a VLAN, too.
	n.attach("c", PortOptions{Protected: true, VLAN: VLANOptions{Access: 5}})
	n.attach("d", PortOptions{Protected: true, VLAN: VLANOptions{Access: 5}})
	n.attach("trunk", PortOptions{VLAN: VLANOptions{Trunk: []uint16{5}}})
	n.send("c", packet(broadcast, station(20), noTag, 1))
	n.send("trunk", packet(broadcast, station(21), 5, 1))
	n.expect("in a VLAN", map[string][]int{"c": {noTag}, "d": {noTag}, "trunk": {5}})
}

// A sink gets what its mirrored port sends and gets, and nothing else; what it
// sends goes nowhere.
func TestMirror(t *testing.T) {
	n := newNet(t)
	n.attach("sink", PortOptions{Sink: true})
	n.attach("a", PortOptions{Mirror: n.ids["sink"], VLAN: VLANOptions{Access: 7}})
	n.attach("b", PortOptions{VLAN: VLANOptions{Access: 7}})
	n.attach("t", PortOptions{VLAN: VLANOptions{Trunk: []uint16{7}}})
	n.attach("p", PortOptions{})
	n.send("a", packet(broadcast, station(0), noTag, 1))
	n.expect("sent", map[string][]int{"b": {noTag}, "t": {7}, "sink": {noTag}})
	n.send("a", packet(broadcast, station(0), 9, 1))
	n.expect("sent, and dropped", map[string][]int{"sink": {9}})
	n.send("t", packet(station(0), station(2), 7, 1))
	n.expect("received", map[string][]int{"a": {noTag}, "sink": {noTag}}) // as a gets it
	n.send("t", packet(broadcast, station(2), 7, 1))
	n.expect("received a flood", map[string][]int{"a": {noTag}, "b": {noTag}, "sink": {noTag}})
	n.send("b", packet(station(2), station(1), noTag, 1))
	n.expect("of others", map[string][]int{"t": {7}})
	n.send("p", packet(broadcast, station(3), noTag, 1))
	n.expect("a flood among others", nil)
	if l := n.send("sink", packet(broadcast, station(4), noTag, 1)); l.Reason != metrics.ReasonSink {
		t.Errorf("from the sink: status %d (%v)", l.Status, l.Reason)
	}
	n.s.Steering(n.ids["sink"]).Set(0, mac(station(4)), 1, 1)
	n.send("p", packet(station(4), station(3), noTag, 1))
	n.expect("to the sink", nil)

	// What a has no room for is not copied yet; what the sink has no room for
	// is lost to it, and nobody waits.
	n.wires["a"].room = 0
	l := n.send("t", packet(station(0), station(2), 7, 1))
	n.expect("busy", nil)
	n.wires["a"].room, n.wires["sink"].room = -1, 0
	n.s.Forward(n.c, n.ids["t"], []*nbl.List{l})
	n.expect("delivered at last", map[string][]int{"a": {noTag}})
	if got := n.wires["sink"].counters.Drops[metrics.ReasonBusyFlood].Value(); got != 1 || l.Status != nbl.Done {
		t.Errorf("%d copies are lost, the frame is in status %d", got, l.Status)
	}
	n.s.Detach(n.ids["sink"])
	n.send("t", packet(station(0), station(2), 7, 1))
	n.expect("without the sink", map[string][]int{"a": {noTag}})
}
