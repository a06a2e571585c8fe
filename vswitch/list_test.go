package vswitch

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What the switch knows is listed as it is: each kind, in each sort of VLAN, and
// nothing that it has forgotten.
func TestTableIsListed(t *testing.T) {
	n := newNet(t)
	n.c.SetNow(int64(time.Hour))
	n.attach("a", PortOptions{VLAN: VLANOptions{Access: 10}})
	n.attach("t", PortOptions{VLAN: VLANOptions{Trunk: []uint16{10, 20}}})
	n.attach("p", PortOptions{})
	n.send("a", packet(broadcast, station(1), noTag, 1))
	n.send("p", packet(broadcast, station(1), 10, 1))
	n.send("p", packet(broadcast, station(2), noTag, 1))
	n.s.Steering(n.ids["p"]).Set(AnyVLAN, mac(station(3)), 7, 1)
	n.s.Steering(n.ids["t"]).Set(AnyVLAN, mac(station(4)), 8, 2)
	n.s.Steering(n.ids["t"]).Set(20, mac(station(4)), 8, 3)
	if err := n.s.AddStatic(n.ids["a"], 0, mac(station(5))); err != nil {
		t.Fatal(err)
	}
	step := 3 * time.Duration(n.s.tick)
	want := []TableEntry{
		{MAC: mac(station(1)), VLAN: 10, Kind: "learned", Port: n.ids["a"], Unseen: step},
		{MAC: mac(station(1)), VLAN: 10, Tagged: true, Kind: "learned", Port: n.ids["p"], Unseen: step},
		{MAC: mac(station(2)), Kind: "learned", Port: n.ids["p"], Unseen: step},
		{MAC: mac(station(3)), VLAN: AnyVLAN, Kind: "filter", Port: n.ids["p"], Queue: 7},
		{MAC: mac(station(4)), VLAN: 20, Kind: "filter", Port: n.ids["t"], Queue: 8},
		{MAC: mac(station(4)), VLAN: AnyVLAN, Kind: "filter", Port: n.ids["t"], Queue: 8},
		{MAC: mac(station(5)), VLAN: 10, Kind: "static", Port: n.ids["a"]},
	}
	now := n.c.Now() + int64(step)
	if diff := cmp.Diff(want, n.s.Table(now)); diff != "" {
		t.Error(diff)
	}
	n.s.Forget(n.ids["a"])
	n.s.Detach(n.ids["t"])
	want = append(append([]TableEntry{}, want[1:4]...), want[6])
	if diff := cmp.Diff(want, n.s.Table(now)); diff != "" {
		t.Error(diff)
	}
	if got := n.s.Table(now + int64(2*defaultAge)); len(got) != 2 {
		t.Errorf("long afterwards %d addresses are known, want the fixed ones: %v", len(got), got)
	}
}

func TestPortsAreListed(t *testing.T) {
	n := newNet(t)
	n.attach("sink", PortOptions{Sink: true})
	n.attach("a", PortOptions{Mirror: n.ids["sink"], Wait: -1})
	n.attach("b", PortOptions{VLAN: VLANOptions{Trunk: []uint16{3}}})
	n.s.Detach(n.ids["b"])
	n.attach("c", PortOptions{})
	n.send("a", packet(broadcast, station(1), noTag, 1))
	n.wires["a"].room = 0
	n.send("c", packet(station(1), station(2), noTag, 1))
	var names []string
	for _, p := range n.s.Ports() {
		if p.ID != n.ids[p.Options.Name] || p.Stalled != (p.Options.Name == "a") || (p.Options.Mirror != 0) != (p.Options.Name == "a") {
			t.Errorf("%+v", p)
		}
		names = append(names, p.Options.Name)
	}
	if diff := cmp.Diff([]string{"sink", "a", "c"}, names); diff != "" {
		t.Error(diff)
	}
}
