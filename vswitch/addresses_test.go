package vswitch

import (
	"cmp"
	"slices"
	"testing"

	"vhostnet/nbl"
)

func TestAddresses(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	for i := range 10 {
		l.forward(0, tagged(uint16(i), broadcast, station(i)))
	}
	l.forward(1, frame(broadcast, station(20)))
	l.forward(1, tagged(3, broadcast, station(3))) // moves
	if err := l.s.AddStatic(l.ids[0], 0, mac(station(30))); err != nil {
		t.Fatal(err)
	}
	got := l.s.Addresses(l.ids[0], 100)
	slices.SortFunc(got, func(a, b Address) int { return cmp.Compare(a.VLAN, b.VLAN) })
	var want []Address
	for i := range 10 {
		if i != 3 {
			want = append(want, Address{VLAN: uint16(i), MAC: mac(station(i))})
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if n := len(l.s.Addresses(l.ids[0], 4)); n != 4 {
		t.Errorf("%d addresses, 4 were asked for", n)
	}
	l.s.Forget(l.ids[0])
	if got := l.s.Addresses(l.ids[0], 100); got != nil {
		t.Errorf("forgotten, and still known: %v", got)
	}
	if got := l.s.Addresses(PortID(1<<29), 100); got != nil {
		t.Errorf("of no port: %v", got)
	}
}

// What is taught counts as much as a frame's source, and not more.
func TestTeach(t *testing.T) {
	l := newLab(t, 3, Options{}, PortOptions{})
	if err := l.s.AddStatic(l.ids[1], 0, mac(station(1))); err != nil {
		t.Fatal(err)
	}
	teach := func(a Address) bool { return l.s.Teach(l.c, l.ids[2], a) }
	if !teach(Address{MAC: mac(station(2))}) || !teach(Address{VLAN: 7, MAC: mac(station(3))}) {
		t.Error("a station's address is not learned")
	}
	l.reaches(frame(station(2), station(0)), 0, 2)
	l.reaches(tagged(7, station(3), station(0)), 0, 2)
	if teach(Address{MAC: mac(station(1))}) {
		t.Error("another port's own address is learned")
	}
	l.reaches(frame(station(1), station(0)), 0, 1)
	for _, a := range []Address{{}, {MAC: mac(broadcast)}, {VLAN: 4096, MAC: mac(station(4))}} {
		if teach(a) {
			t.Errorf("%v is learned", a)
		}
	}
	if l.s.Teach(l.c, PortID(1<<29), Address{MAC: mac(station(4))}) {
		t.Error("no port learns")
	}
	if n := l.ports[2].counters.TxFrames.Value(); n != 0 {
		t.Errorf("%d frames are counted", n)
	}
}

// What a port in VLANs has learned can be taught to another in the same ones,
// as a VM does that moves, and to none that is not.
func TestTeachInVLANs(t *testing.T) {
	access, trunk := PortOptions{VLAN: VLANOptions{Access: 10}}, PortOptions{VLAN: VLANOptions{Trunk: []uint16{10, 20}, Native: 20}}
	l := newLab(t, 2, Options{}, access)
	from, to := l.attach(trunk), l.attach(trunk)
	list := func(frame []byte) *nbl.List {
		l := new(nbl.List)
		l.FromBytes(frame, 1)
		return l
	}
	l.forward(0, list(packet(broadcast, station(1), noTag, 1)))
	l.forward(from, list(packet(broadcast, station(2), 10, 1)), list(packet(broadcast, station(3), noTag, 1)))
	at := func(ports ...int) (all []Address) {
		for _, p := range ports {
			all = append(all, l.s.Addresses(l.ids[p], 9)...)
		}
		slices.SortFunc(all, func(a, b Address) int { return cmp.Compare(a.MAC[5], b.MAC[5]) })
		return all
	}
	learned, want := at(0, from), []Address{{10, mac(station(1))}, {10, mac(station(2))}, {20, mac(station(3))}}
	if !slices.Equal(learned, want) {
		t.Fatalf("learned %v, want %v", learned, want)
	}
	for i, p := range []int{1, to, to} {
		if !l.s.Teach(l.c, l.ids[p], learned[i]) {
			t.Errorf("%v is not learned at port %d", learned[i], p)
		}
	}
	if got := at(1, to); !slices.Equal(got, want) || at(0, from) != nil {
		t.Errorf("%v has moved, want %v, and %v is left", got, want, at(0, from))
	}
	l.forward(from, list(packet(station(1), station(9), 10, 1)))
	if n := len(l.ports[1].take()); n != 3 { // two floods of VLAN 10, and this one
		t.Errorf("the port that was taught got %d frames, want 3", n)
	}
	if l.s.Teach(l.c, l.ids[0], Address{20, mac(station(8))}) {
		t.Error("an address of a VLAN that the port is not in is learned")
	}
}
