package queues

import (
	"testing"

	"vhostnet/nbl"
)

// Each mode on its own and against the others, in the order in which they
// count.
func TestModesWant(t *testing.T) {
	const own, other, listed, group, listedGroup = 0x525400000001, 0x525400000002, 0x525400000003, 0x01005e000001, 0x01005e000002
	base := Modes{MAC: own, Unicast: []uint64{1, listed}, Groups: []uint64{listedGroup, listedGroup + 7}}
	with := func(change func(m *Modes)) Modes {
		m := base
		change(&m)
		return m
	}
	vlans := new(VLANs)
	vlans.Set(5, true)
	for i, c := range []struct {
		m    Modes
		dst  uint64
		vlan uint16
		want bool
	}{
		{base, own, 0, true},
		{base, other, 0, false},
		{base, listed, 0, true},
		{base, group, 0, false},
		{base, listedGroup, 0, true},
		{base, broadcast, 0, true},
		{base, own, 5, true}, // no table of VLANs
		{with(func(m *Modes) { m.AllUnicast = true }), other, 0, true},
		{with(func(m *Modes) { m.AllUnicast = true }), group, 0, false},
		{with(func(m *Modes) { m.AllUnicast, m.NoUnicast = true, true }), own, 0, false},
		{with(func(m *Modes) { m.AllMulticast = true }), group, 0, true},
		{with(func(m *Modes) { m.AllMulticast = true }), other, 0, false},
		{with(func(m *Modes) { m.AllMulticast, m.NoMulticast = true, true }), listedGroup, 0, false},
		{with(func(m *Modes) { m.NoMulticast = true }), broadcast, 0, true},
		{with(func(m *Modes) { m.NoBroadcast, m.AllMulticast = true, true }), broadcast, 0, false},
		{with(func(m *Modes) { m.VLANs = vlans }), own, 5, true},
		{with(func(m *Modes) { m.VLANs = vlans }), own, 6, false},
		{with(func(m *Modes) { m.VLANs = vlans }), own, 0, true},
		{with(func(m *Modes) { m.VLANs = vlans }), other, 5, false},
	} {
		frame := ethernet(64, 1)
		if c.vlan != 0 {
			copy(frame[12:], []byte{0x81, 0, byte(c.vlan >> 8), byte(c.vlan)})
		}
		var l nbl.List
		l.FromBytes(frame, 1)
		l.Dst = c.dst
		if got := c.m.want(&l); got != c.want {
			t.Errorf("case %d: %012x in VLAN %d is wanted: %t", i, c.dst, c.vlan, got)
		}
	}
	var n NIC
	n.SetModes(&Modes{Promiscuous: true, NoUnicast: true})
	if n.modes.Load() != nil {
		t.Error("a promiscuous NIC looks at each frame")
	}
}

func TestVLANs(t *testing.T) {
	var v VLANs
	for id := range uint16(4096) {
		v.Set(id, id%3 == 0)
	}
	v.Set(3, false)
	for id := range uint16(4096) {
		if v.Has(id) != (id%3 == 0 && id != 3) {
			t.Errorf("VLAN %d: %t", id, v.Has(id))
		}
	}
}

// A driver uses at least one pair and at most all.
func TestUsePairs(t *testing.T) {
	n := NIC{rings: make([]rxRing, 4)}
	for _, c := range [][2]int{{0, 4}, {-1, 4}, {1, 1}, {4, 4}, {5, 4}} {
		n.UsePairs(c[0])
		if got := len(n.choice()); got != c[1] {
			t.Errorf("UsePairs(%d): %d rings to choose from, want %d", c[0], got, c[1])
		}
	}
}
