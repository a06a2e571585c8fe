package vswitch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/worker"
)

// wire is a Port that keeps the bytes of the frames it gets.
type wire struct {
	room     int // -1: all
	frames   [][]byte
	queues   []sharedmem.QueueID
	counters metrics.Port
}

func (w *wire) Deliver(_ *worker.Context, batch []*nbl.List) (int, bool) {
	n := len(batch)
	if w.room >= 0 {
		n = min(n, w.room)
	}
	for _, l := range batch[:n] {
		b := make([]byte, l.Length)
		nbl.CopyFrame(&nbl.Buffer{MDLs: []nbl.MDL{sharedmem.BytesBlock(b)}, Length: l.Length}, l)
		w.frames, w.queues = append(w.frames, b), append(w.queues, l.QueueID)
	}
	return n, false
}

// net is a switch with wires at named ports.
type net struct {
	t      *testing.T
	s      *Switch
	c      *worker.Context
	ids    map[string]PortID
	wires  map[string]*wire
	serial uint64
}

func newNet(t *testing.T) *net {
	t.Helper()
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &net{t: t, s: s, c: worker.NewTestContext(), ids: map[string]PortID{}, wires: map[string]*wire{}}
}

func (n *net) attach(name string, o PortOptions) {
	n.t.Helper()
	w := &wire{room: -1}
	o.Name, o.Counters = name, &w.counters
	id, err := n.s.Attach(w, o)
	if err != nil {
		n.t.Fatal(err)
	}
	n.ids[name], n.wires[name] = id, w
}

// noTag is an untagged frame to packet.
const noTag = -1

// packet is a frame of 64 bytes, or 68 with a tag. number is its payload.
func packet(dst, src uint64, tci int, number byte) []byte {
	d, s := mac(dst), mac(src)
	f := append(slices.Clone(d[:]), s[:]...)
	if tci != noTag {
		f = binary.BigEndian.AppendUint16(append(f, 0x81, 0), uint16(tci))
	}
	return append(append(f, 0x88, 0xb5), bytes.Repeat([]byte{number}, 50)...)
}

// send forwards one frame and answers what became of it.
func (n *net) send(from string, frame []byte) *nbl.List {
	n.t.Helper()
	n.serial++
	l := new(nbl.List)
	if r := l.FromBytes(frame, n.serial); r != metrics.ReasonNone {
		n.t.Fatal(r)
	}
	before, header := l.Length, slices.Clone(l.Header())
	n.s.Forward(n.c, n.ids[from], []*nbl.List{l})
	if l.Length != before || !bytes.Equal(l.Header(), header) {
		n.t.Errorf("the frame of %s was changed by its delivery", from)
	}
	return l
}

// got takes the tags (noTag: none) of what a port got, in order. All must be
// frame with this payload.
func (n *net) got(name string) (tags []int) {
	n.t.Helper()
	w := n.wires[name]
	for _, f := range w.frames {
		tci := noTag
		if f[12] == 0x81 {
			tci = int(binary.BigEndian.Uint16(f[14:]))
		}
		if want := packet(binary.BigEndian.Uint64(f)>>16, binary.BigEndian.Uint64(f[6:])>>16, tci, f[len(f)-1]); !bytes.Equal(f, want) {
			n.t.Errorf("%s got\n%x, want\n%x", name, f, want)
		}
		tags = append(tags, tci)
	}
	w.frames, w.queues = nil, nil
	return tags
}

// expect compares what each port got since the last look: name to tags.
func (n *net) expect(what string, want map[string][]int) {
	n.t.Helper()
	for name := range n.wires {
		if got := n.got(name); !slices.Equal(got, want[name]) {
			n.t.Errorf("%s: %s got frames with tags %v, want %v", what, name, got, want[name])
		}
	}
}

// vlanNet has two access ports each of VLANs 10 and 20, a trunk of both with
// native 20, a trunk of 10 and 30 without, and two ports in none.
func vlanNet(t *testing.T) *net {
	n := newNet(t)
	n.attach("a10", PortOptions{VLAN: VLANOptions{Access: 10}})
	n.attach("b10", PortOptions{VLAN: VLANOptions{Access: 10}})
	n.attach("a20", PortOptions{VLAN: VLANOptions{Access: 20}})
	n.attach("b20", PortOptions{VLAN: VLANOptions{Access: 20}})
	n.attach("t", PortOptions{VLAN: VLANOptions{Trunk: []uint16{10, 20}, Native: 20}})
	n.attach("u", PortOptions{VLAN: VLANOptions{Trunk: []uint16{10, 30}}})
	n.attach("p", PortOptions{})
	n.attach("q", PortOptions{})
	return n
}

// Floods, and what a port with no such address sends, go to the ports of the
// sender's VLAN only, tagged as each wants it.
func TestClaim52_VLANsOfFloods(t *testing.T) {
	n := vlanNet(t)
	const dropped = "dropped"
	for _, tt := range []struct {
		from string
		tci  int
		want map[string][]int // nil: dropped, for its VLAN
	}{
		{"a10", noTag, map[string][]int{"b10": {noTag}, "t": {10}, "u": {10}}},
		{"a10", 0x6000, map[string][]int{"b10": {noTag}, "t": {0x600a}, "u": {0x600a}}}, // a priority only
		{"a10", 10, nil},
		{"a10", 20, nil},
		{"a10", 4095, nil},
		{"a20", noTag, map[string][]int{"b20": {noTag}, "t": {noTag}}},
		{"t", noTag, map[string][]int{"a20": {noTag}, "b20": {noTag}}},
		{"t", 0x4000, map[string][]int{"a20": {noTag}, "b20": {noTag}}},
		{"t", 20, map[string][]int{"a20": {noTag}, "b20": {noTag}}},
		{"t", 0xa00a, map[string][]int{"a10": {noTag}, "b10": {noTag}, "u": {0xa00a}}},
		{"t", 30, nil},
		{"u", noTag, nil},
		{"u", 0xe000, nil},
		{"u", 20, nil},
		{"u", 10, map[string][]int{"a10": {noTag}, "b10": {noTag}, "t": {10}}},
		{"p", noTag, map[string][]int{"q": {noTag}}},
		{"p", 10, map[string][]int{"q": {10}}},
		{"p", 0x3014, map[string][]int{"q": {0x3014}}},
	} {
		for _, dst := range []uint64{broadcast, station(77)} {
			what := fmt.Sprintf("%s sends %#x to %012x", tt.from, tt.tci, dst)
			l := n.send(tt.from, packet(dst, station(1), tt.tci, 5))
			n.expect(what, tt.want)
			if tt.want == nil && (l.Status != nbl.Dropped || l.Reason != metrics.ReasonVLAN) {
				t.Errorf("%s: status %d (%v), want %s", what, l.Status, l.Reason, dropped)
			}
			if tt.want != nil && l.Status != nbl.Done {
				t.Errorf("%s: status %d (%v)", what, l.Status, l.Reason)
			}
		}
	}
	// A trunk's VLAN that nobody else is in.
	if l := n.send("u", packet(broadcast, station(1), 30, 5)); l.Reason != metrics.ReasonNoPort {
		t.Errorf("a flood for nobody: status %d (%v)", l.Status, l.Reason)
	}
}

// An address is learned for its VLAN, and says nothing about others: not even a
// frame that is forged to it leaves the VLAN.
func TestClaim75_VLANsAreApart(t *testing.T) {
	n := vlanNet(t)
	n.send("a10", packet(broadcast, station(1), noTag, 1))
	n.send("a20", packet(broadcast, station(2), noTag, 1))
	n.send("p", packet(broadcast, station(3), noTag, 1))
	n.send("q", packet(broadcast, station(3), 10, 1)) // the same address, tagged, elsewhere
	for name := range n.wires {
		n.got(name)
	}
	for _, tt := range []struct {
		what, from string
		dst        uint64
		tci        int
		want       map[string][]int
	}{
		{"to its station", "b10", station(1), noTag, map[string][]int{"a10": {noTag}}},
		{"from a trunk", "t", station(1), 10, map[string][]int{"a10": {noTag}}},
		{"to another VLAN's", "b10", station(2), noTag, map[string][]int{"a10": {noTag}, "t": {10}, "u": {10}}},
		{"from the other VLAN", "b20", station(1), noTag, map[string][]int{"a20": {noTag}, "t": {noTag}}},
		{"from a port in none", "q", station(1), noTag, map[string][]int{"p": {noTag}}},
		{"tagged, from a port in none", "p", station(1), 10, map[string][]int{"q": {10}}},
		{"to a port in none", "b10", station(3), noTag, map[string][]int{"a10": {noTag}, "t": {10}, "u": {10}}},
		{"ports in none keep tags apart", "p", station(3), 10, map[string][]int{"q": {10}}},
	} {
		n.send(tt.from, packet(tt.dst, station(50), tt.tci, 9))
		n.expect(tt.what, tt.want)
	}
}

// A filter is for the frames that its port would get: untagged ones at an
// access port are those of its VLAN.
func TestClaim52_FiltersInVLANs(t *testing.T) {
	n := vlanNet(t)
	m := mac(station(9))
	goes := func(what, from string, tci int, port string, tag int) {
		t.Helper()
		l := n.send(from, packet(station(9), station(50), tci, 9))
		want := map[string][]int{}
		if port != "" {
			want[port] = []int{tag}
			if l.QueueID != 4 {
				t.Errorf("%s: queue %d, want 4", what, l.QueueID)
			}
		} else if l.QueueID != 0 {
			t.Errorf("%s: queue %d", what, l.QueueID)
		}
		if port == "" { // flooded or dropped
			for name := range n.wires {
				n.got(name)
			}
			return
		}
		n.expect(what, want)
	}
	st := n.s.Steering(n.ids["a10"])
	for _, vlan := range []uint16{0, 10, AnyVLAN} {
		st.Set(vlan, m, 4, 1)
		goes("access, filtered", "b10", noTag, "a10", noTag)
		goes("access, filtered, from a trunk", "t", 10, "a10", noTag)
		goes("access, from another VLAN", "b20", noTag, "", 0)
		goes("access, from a port in none", "p", noTag, "", 0)
		goes("access, from a port in none, tagged", "p", 10, "", 0)
		st.Clear(vlan, m)
		goes("access, cleared", "b10", noTag, "", 0)
	}
	st.Set(20, m, 4, 1) // it is not in that VLAN
	goes("a VLAN that the port is not in", "b20", noTag, "", 0)

	trunk := n.s.Steering(n.ids["t"])
	trunk.Set(0, m, 4, 1)
	goes("trunk, native", "b20", noTag, "t", noTag)
	goes("trunk, not native", "b10", noTag, "", 0)
	trunk.Clear(0, m)
	trunk.Set(AnyVLAN, m, 4, 1)
	goes("trunk, any, native", "b20", noTag, "t", noTag)
	goes("trunk, any, tagged", "b10", noTag, "t", 10)
	goes("trunk, any, not its VLAN", "u", 30, "", 0)
	goes("trunk, any, from a port in none", "p", noTag, "", 0)
	trunk.Clear(AnyVLAN, m)

	plain := n.s.Steering(n.ids["p"])
	plain.Set(AnyVLAN, m, 4, 1)
	goes("none, any", "q", noTag, "p", noTag)
	goes("none, any, tagged", "q", 10, "p", 10)
	goes("none, any, from a VLAN", "b10", noTag, "", 0)
	plain.Clear(AnyVLAN, m)
	if c := n.s.table.anyFilters.Load(); c != 0 || len(n.s.claims) != 0 {
		t.Errorf("%d filters of any VLAN and %d claims are left", c, len(n.s.claims))
	}
}

// In a VLAN, too, what waits is retried and flooded frames are decided.
func TestVLANBackPressure(t *testing.T) {
	n := vlanNet(t)
	n.send("a10", packet(broadcast, station(1), noTag, 1))
	n.send("t", packet(broadcast, station(2), 10, 1))
	for name := range n.wires {
		n.got(name)
	}
	n.wires["t"].room = 0
	l := n.send("a10", packet(station(2), station(1), noTag, 1))
	if l.Status != nbl.Busy {
		t.Fatalf("status %d", l.Status)
	}
	n.wires["t"].room = -1
	n.s.Forward(n.c, n.ids["a10"], []*nbl.List{l})
	n.expect("tried again", map[string][]int{"t": {10}})
	n.wires["t"].room, n.wires["u"].room, n.wires["b10"].room = 0, 0, 0
	if l := n.send("a10", packet(broadcast, station(1), noTag, 1)); l.Status != nbl.Dropped || l.Reason != metrics.ReasonBusyFlood {
		t.Errorf("a flood that nobody takes: status %d (%v)", l.Status, l.Reason)
	}
	n.wires["u"].room = -1
	if l := n.send("a10", packet(broadcast, station(1), noTag, 1)); l.Status != nbl.Done {
		t.Errorf("a flood that one takes: status %d", l.Status)
	}
	n.expect("the flood", map[string][]int{"u": {10}})
}

// Frames of several VLANs in one batch go their ways.
func TestVLANsInABatch(t *testing.T) {
	n := vlanNet(t)
	var batch []*nbl.List
	for i, tci := range []int{10, noTag, 10, 20, 99} {
		l := new(nbl.List)
		l.FromBytes(packet(broadcast, station(5), tci, byte(i)), uint64(100+i))
		batch = append(batch, l)
	}
	n.s.Forward(n.c, n.ids["t"], batch)
	n.expect("the batch", map[string][]int{
		"a10": {noTag, noTag}, "b10": {noTag, noTag}, "u": {10, 10},
		"a20": {noTag, noTag}, "b20": {noTag, noTag},
	})
	for i, l := range batch {
		if want := i < 4; (l.Status == nbl.Done) != want {
			t.Errorf("frame %d: status %d (%v)", i, l.Status, l.Reason)
		}
	}
	if got := n.wires["t"].counters.Flooded.Value(); got != 4 {
		t.Errorf("%d floods are counted, want 4", got)
	}
}

func TestVLANOptionsRefused(t *testing.T) {
	n := newNet(t)
	n.attach("plain", PortOptions{})
	n.attach("sink", PortOptions{Sink: true})
	for name, o := range map[string]PortOptions{
		"VLAN 4095":            {VLAN: VLANOptions{Access: 4095}},
		"trunk of 0":           {VLAN: VLANOptions{Trunk: []uint16{0}}},
		"trunk of 4095":        {VLAN: VLANOptions{Trunk: []uint16{1, 4095}}},
		"native 4095":          {VLAN: VLANOptions{Trunk: []uint16{1}, Native: 4095}},
		"access and trunk":     {VLAN: VLANOptions{Access: 1, Trunk: []uint16{1}}},
		"access and native":    {VLAN: VLANOptions{Access: 1, Native: 1}},
		"mirror to no sink":    {Mirror: n.ids["plain"]},
		"mirror to nobody":     {Mirror: 12345},
		"a mirrored sink":      {Sink: true, Mirror: n.ids["sink"]},
		"a sink in a VLAN":     {Sink: true, VLAN: VLANOptions{Access: 1}},
		"a sink that is apart": {Sink: true, Protected: true},
	} {
		if _, err := n.s.Attach(&wire{}, o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Tags cost no allocation.
func TestRetagAllocatesNothing(t *testing.T) {
	n := vlanNet(t)
	for name := range n.wires {
		n.s.Detach(n.ids[name])
	}
	ids := map[string]PortID{}
	for name, o := range map[string]VLANOptions{"a": {Access: 10}, "t": {Trunk: []uint16{10}}, "u": {Trunk: []uint16{10, 11}}} {
		id, err := n.s.Attach(null{}, PortOptions{VLAN: o})
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = id
	}
	var batch []*nbl.List
	for i := range 32 {
		l := new(nbl.List)
		l.FromBytes(packet([]uint64{broadcast, station(9)}[i%2], station(5), noTag, 1), uint64(i+1))
		batch = append(batch, l)
	}
	n.s.Steering(ids["t"]).Set(10, mac(station(9)), 1, 1)
	if got := testing.AllocsPerRun(50, func() {
		for _, l := range batch {
			l.Status, l.VLAN = nbl.Pending, 0
		}
		n.s.Forward(n.c, ids["a"], batch)
	}); got != 0 {
		t.Errorf("%v allocations per batch", got)
	}
}
