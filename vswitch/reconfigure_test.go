package vswitch

import (
	"strings"
	"sync"
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/worker"
)

func (n *net) reconfigure(name string, o PortOptions) {
	n.t.Helper()
	if err := n.s.Reconfigure(n.ids[name], o); err != nil {
		n.t.Fatal(err)
	}
}

// A port's filters and static addresses are those that it wants, in the VLANs in which
// it is: those of others wait until it is in them.
func TestReconfigureKeepsClaims(t *testing.T) {
	n := newNet(t)
	n.attach("a", PortOptions{VLAN: VLANOptions{Access: 7}})
	n.attach("b", PortOptions{VLAN: VLANOptions{Trunk: []uint16{7, 8}, Native: 9}})
	n.attach("c", PortOptions{VLAN: VLANOptions{Trunk: []uint16{7, 8, 9}}})
	st, other := n.s.Steering(n.ids["a"]), n.s.Steering(n.ids["b"])
	st.Set(0, mac(station(1)), 5, 2)
	st.Set(8, mac(station(2)), 6, 2) // it is not in that VLAN
	other.Set(7, mac(station(1)), 4, 3)
	if err := n.s.AddStatic(n.ids["a"], 0, mac(station(3))); err != nil {
		t.Fatal(err)
	}
	goes := func(what string, to uint64, vlan int, port string, queue int) {
		t.Helper()
		l := n.send("c", packet(station(int(to)), station(9), vlan, 1))
		for _, name := range []string{"a", "b", "c"} {
			if got := len(n.got(name)); (got == 1) != (name == port) && port != "" {
				t.Errorf("%s: %s got %d frames", what, name, got)
			}
			n.wires[name].frames = nil
		}
		if int(l.QueueID) != queue {
			t.Errorf("%s: queue %d, want %d", what, l.QueueID, queue)
		}
	}
	goes("a filter", 1, 7, "a", 5)
	goes("a static address", 3, 7, "a", 0)
	goes("a filter of a VLAN in which the port is not", 2, 8, "b", 0) // a flood
	n.reconfigure("a", PortOptions{VLAN: VLANOptions{Trunk: []uint16{7, 8}, Native: 9}})
	goes("the filter of untagged frames", 1, 9, "a", 5)
	goes("of that VLAN the other's counts", 1, 7, "b", 4)
	goes("the filter that waited", 2, 8, "a", 6)
	goes("the static address", 3, 9, "a", 0)
	n.reconfigure("a", PortOptions{VLAN: VLANOptions{Access: 7}})
	goes("again", 1, 7, "a", 5)
	st.Clear(8, mac(station(2)))
	n.reconfigure("a", PortOptions{VLAN: VLANOptions{Trunk: []uint16{8}}})
	goes("one that was cleared while it waited", 2, 8, "", 0)
	n.s.Detach(n.ids["a"])
	if len(n.s.waiting) != 0 || len(n.s.claims) != 1 {
		t.Errorf("%d filters wait, %d keys are claimed of a port that has gone", len(n.s.waiting), len(n.s.claims))
	}
}

// What was learned in one VLAN is not believed in another; the link, a stall, name and
// counters stay.
func TestReconfigureKeepsThePort(t *testing.T) {
	n := newNet(t)
	n.attach("a", PortOptions{VLAN: VLANOptions{Access: 7}})
	n.attach("b", PortOptions{VLAN: VLANOptions{Trunk: []uint16{7, 8}}})
	n.send("a", packet(broadcast, station(1), noTag, 1))
	id := n.ids["a"]
	learned := func() (count int) {
		for _, e := range n.s.Table(n.c.Now()) {
			if e.Port == id {
				count++
			}
		}
		return count
	}
	if learned() != 1 {
		t.Fatal("nothing was learned, so the rest says nothing")
	}
	n.reconfigure("a", PortOptions{VLAN: VLANOptions{Access: 7}, Protected: true})
	if learned() != 1 {
		t.Error("what was learned in the same VLAN is forgotten")
	}
	n.reconfigure("a", PortOptions{VLAN: VLANOptions{Access: 9}})
	if learned() != 0 {
		t.Error("what was learned in another VLAN is believed")
	}
	n.s.ports.Load().find(id).stalled.Store(true)
	n.s.SetLink(id, false)
	n.reconfigure("a", PortOptions{Name: "other", VLAN: VLANOptions{Access: 8}})
	p := n.s.Ports()[0]
	if p.ID != id || !p.Down || !p.Stalled || p.Options.Name != "a" || p.Options.VLAN.Access != 8 || p.Options.Counters != &n.wires["a"].counters {
		t.Errorf("%+v", p)
	}
	n.s.SetLink(id, true)
	n.send("a", packet(broadcast, station(1), noTag, 1))
	if got := n.wires["a"].counters.TxFrames.Value(); got != 2 {
		t.Errorf("%d frames are counted, want 2", got)
	}
}

// What a port cannot be is refused, and nothing has changed.
func TestReconfigureRefused(t *testing.T) {
	n := newNet(t)
	n.attach("sink", PortOptions{Sink: true})
	n.attach("a", PortOptions{Mirror: n.ids["sink"]})
	n.attach("b", PortOptions{})
	n.attach("gone", PortOptions{})
	n.s.Detach(n.ids["gone"])
	for _, c := range []struct {
		port, words string
		o           PortOptions
	}{
		{"gone", "not attached", PortOptions{}},
		{"b", "no sink", PortOptions{Mirror: n.ids["a"]}},
		{"b", "no sink", PortOptions{Mirror: n.ids["gone"]}},
		{"sink", "no sink", PortOptions{Mirror: n.ids["sink"]}},
		{"sink", "stays a sink", PortOptions{}},
		{"b", "a sink is in no VLAN", PortOptions{Sink: true, Protected: true}},
		{"b", "VLAN 5000", PortOptions{VLAN: VLANOptions{Access: 5000}}},
	} {
		before := n.s.ports.Load()
		if err := n.s.Reconfigure(n.ids[c.port], c.o); err == nil || !strings.Contains(err.Error(), c.words) || n.s.ports.Load() != before {
			t.Errorf("%s, %+v: %v; want %q", c.port, c.o, err, c.words)
		}
	}
	n.reconfigure("a", PortOptions{})
	n.reconfigure("sink", PortOptions{})
	n.send("a", packet(broadcast, station(0), noTag, 1))
	n.expect("a port that was a sink", map[string][]int{"sink": {noTag}, "b": {noTag}})
}

// A frame that waits for its receiver while its sender's VLAN changes reaches nobody
// in the new one.
func TestReconfigureWhileBusy(t *testing.T) {
	n := newNet(t)
	seven, eight := VLANOptions{Access: 7}, VLANOptions{Access: 8}
	n.attach("a", PortOptions{VLAN: seven, Wait: 1 << 40})
	n.attach("b", PortOptions{VLAN: seven, Wait: 1 << 40})
	n.attach("c", PortOptions{VLAN: eight})
	n.attach("p", PortOptions{})
	n.send("b", packet(broadcast, station(1), noTag, 1))
	n.expect("where b is", map[string][]int{"a": {noTag}})
	n.wires["b"].room = 0
	l := n.send("a", packet(station(1), station(0), noTag, 1))
	if l.Status != nbl.Busy {
		t.Fatalf("status %d", l.Status)
	}
	n.wires["b"].room = -1
	n.reconfigure("a", PortOptions{VLAN: eight})
	n.s.Forward(n.c, n.ids["a"], []*nbl.List{l})
	n.wires["b"].frames = nil // of its VLAN it may have it
	n.expect("in the new VLAN", nil)
	if !decided(l) {
		t.Errorf("status %d", l.Status)
	}
}

// Ports change while workers forward: each frame goes by the old options or by the new
// ones.
func TestReconfigureWhileForwarding(t *testing.T) {
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	sink := &counted{}
	var ids []PortID
	for range 3 {
		id, err := s.Attach(sink, PortOptions{Counters: new(metrics.Port)})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	var sending sync.WaitGroup
	const frames = 4000
	for i, id := range ids[:2] {
		sending.Go(func() {
			c := worker.NewTestContext()
			for k := range frames {
				l := new(nbl.List)
				if l.FromBytes(packet(station(1-i), station(i), noTag, 1), uint64(k)) != metrics.ReasonNone {
					t.Error("a frame is malformed")
				}
				s.Forward(c, id, []*nbl.List{l})
				if l.Status == nbl.Pending {
					t.Error("a frame is not decided")
				}
			}
		})
	}
	stop := make(chan struct{})
	var changing sync.WaitGroup
	changing.Go(func() {
		for k := 0; ; k++ {
			select {
			case <-stop:
				return
			default:
			}
			o := []PortOptions{{}, {VLAN: VLANOptions{Access: 7}}, {Protected: true}, {VLAN: VLANOptions{Trunk: []uint16{7, 8}, Native: 9}}}[k%4]
			if err := s.Reconfigure(ids[k%2], o); err != nil {
				t.Error(err)
			}
		}
	})
	sending.Wait()
	close(stop)
	changing.Wait()
}

// counted takes everything.
type counted struct{}

func (*counted) Deliver(_ *worker.Context, batch []*nbl.List) (int, bool) { return len(batch), false }
