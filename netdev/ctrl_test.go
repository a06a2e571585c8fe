package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"vhostnet/queues"
	"vhostnet/virtio"
)

// allControl is every feature of the control queue.
const allControl = virtio.Version1 | virtio.NetCtrlVQ | virtio.NetCtrlRx | virtio.NetCtrlRxExtra | virtio.NetCtrlVLAN |
	virtio.NetCtrlMACAddr | virtio.NetGuestAnnounce | virtio.NetMQ

// desk is a control queue's state without the queue.
type desk struct {
	*control
	modes     *queues.Modes // what was published last
	published int
	announces int
	using     []int
}

func newDesk(f virtio.Features) *desk {
	k := &desk{}
	k.control = &control{
		accepted: f, pairs: 8,
		announced: func() { k.announces++ },
		publish:   func(m *queues.Modes) { k.modes, k.published = m, k.published+1 },
		usePairs:  func(n int) { k.using = append(k.using, n) },
	}
	k.control.modes = queues.Modes{Promiscuous: true, MAC: 0x525400000001}
	return k
}

func cmd(class, number uint8, data ...byte) []byte { return append([]byte{class, number}, data...) }

func le16(v uint16) []byte { return binary.LittleEndian.AppendUint16(nil, v) }
func le32(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }

// tables is the data of MAC_TABLE_SET with so many addresses of each kind,
// which end with a number.
func tables(unicast, groups int) []byte {
	var b []byte
	for kind, n := range []int{unicast, groups} {
		b = append(b, le32(uint32(n))...)
		for i := n; i > 0; i-- { // not sorted
			b = append(b, 0x52|byte(kind), 0x54, 0, 1, byte(i>>8), byte(i))
		}
	}
	return b
}

// V66: the integers of control commands at their edges, every command cut short
// and too long, and commands of features that were not accepted.
func TestV66_ControlIntegers(t *testing.T) {
	huge := append(le32(1<<32-1), make([]byte, 60)...)
	wraps := append(le32((1<<32)/6+1), make([]byte, 60)...) // times 6 is 2 modulo 2^32
	for _, c := range []struct {
		name string
		cmd  []byte
		want error
	}{
		{"nothing", nil, errLength},
		{"class only", []byte{0}, errLength},
		{"unknown class", cmd(9, 0), errUnknown},
		{"guest offloads", cmd(5, 0, 0, 0, 0, 0, 0, 0, 0, 0), errUnknown},
		{"unknown mode", cmd(virtio.CtrlRx, 6, 1), errUnknown},
		{"mode without value", cmd(virtio.CtrlRx, 0), errLength},
		{"mode of two bytes", cmd(virtio.CtrlRx, 0, 1, 0), errLength},
		{"mode", cmd(virtio.CtrlRx, 0, 0), nil},
		{"table without count", cmd(virtio.CtrlMAC, 0), errLength},
		{"one table only", cmd(virtio.CtrlMAC, 0, le32(0)...), errLength},
		{"empty tables", cmd(virtio.CtrlMAC, 0, tables(0, 0)...), nil},
		{"64 addresses", cmd(virtio.CtrlMAC, 0, tables(64, 64)...), nil},
		{"65 addresses", cmd(virtio.CtrlMAC, 0, tables(65, 65)...), nil},
		{"more than are kept", cmd(virtio.CtrlMAC, 0, tables(maxTable+1, maxTable+1)...), nil},
		{"half an address too few", cmd(virtio.CtrlMAC, 0, tables(3, 3)[:40]...), errLength},
		{"a byte too many", cmd(virtio.CtrlMAC, 0, append(tables(3, 3), 0)...), errLength},
		{"2^32-1 addresses", cmd(virtio.CtrlMAC, 0, huge...), errLength},
		{"a count that wraps", cmd(virtio.CtrlMAC, 0, wraps...), errLength},
		{"2^32-1 in the second table", cmd(virtio.CtrlMAC, 0, append(le32(0), huge...)...), errLength},
		{"address", cmd(virtio.CtrlMAC, 1, 2, 0, 0, 0, 0, 1), nil},
		{"short address", cmd(virtio.CtrlMAC, 1, 2, 0, 0, 0, 0), errLength},
		{"long address", cmd(virtio.CtrlMAC, 1, 2, 0, 0, 0, 0, 1, 0), errLength},
		{"group address", cmd(virtio.CtrlMAC, 1, 1, 0, 0, 0, 0, 1), errValue},
		{"VLAN 0", cmd(virtio.CtrlVLAN, 0, le16(0)...), nil},
		{"VLAN 4095", cmd(virtio.CtrlVLAN, 0, le16(4095)...), nil},
		{"VLAN 4096", cmd(virtio.CtrlVLAN, 0, le16(4096)...), errValue},
		{"VLAN 65535", cmd(virtio.CtrlVLAN, 1, le16(65535)...), errValue},
		{"short VLAN", cmd(virtio.CtrlVLAN, 1, 1), errLength},
		{"no pairs", cmd(virtio.CtrlMQ, 0, le16(0)...), errValue},
		{"one pair", cmd(virtio.CtrlMQ, 0, le16(1)...), nil},
		{"all pairs", cmd(virtio.CtrlMQ, 0, le16(8)...), nil},
		{"a pair too many", cmd(virtio.CtrlMQ, 0, le16(9)...), errValue},
		{"65535 pairs", cmd(virtio.CtrlMQ, 0, le16(65535)...), errValue},
		{"short pairs", cmd(virtio.CtrlMQ, 0, 1), errLength},
		{"RSS", cmd(virtio.CtrlMQ, 1, make([]byte, 60)...), errUnknown},
		{"acknowledgement", cmd(virtio.CtrlAnnounce, 0), nil},
		{"acknowledgement of something", cmd(virtio.CtrlAnnounce, 0, 1), errLength},
	} {
		k := newDesk(allControl)
		err := k.execute(c.cmd)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		if did := k.published + k.announces + len(k.using); (did != 0) != (c.want == nil) {
			t.Errorf("%s: had %d effects", c.name, did)
		}
		if c.want == nil {
			k = newDesk(virtio.Version1 | virtio.NetCtrlVQ)
			if err := k.execute(c.cmd); !errors.Is(err, errFeature) || k.published != 0 {
				t.Errorf("%s without its feature: %v", c.name, err)
			}
		}
	}
}

// What each command makes of the modes.
func TestControlCommands(t *testing.T) {
	k := newDesk(allControl)
	do := func(command []byte) *queues.Modes {
		t.Helper()
		if err := k.execute(command); err != nil {
			t.Fatal(err)
		}
		return k.modes
	}
	for i, got := range []func(m *queues.Modes) bool{
		func(m *queues.Modes) bool { return m.Promiscuous }, func(m *queues.Modes) bool { return m.AllMulticast },
		func(m *queues.Modes) bool { return m.AllUnicast }, func(m *queues.Modes) bool { return m.NoMulticast },
		func(m *queues.Modes) bool { return m.NoUnicast }, func(m *queues.Modes) bool { return m.NoBroadcast },
	} {
		if !got(do(cmd(virtio.CtrlRx, uint8(i), 1))) || got(do(cmd(virtio.CtrlRx, uint8(i), 0))) {
			t.Errorf("mode %d does not follow its command", i)
		}
	}
	before := k.modes
	m := do(cmd(virtio.CtrlMAC, virtio.CtrlMACTableSet, tables(3, 2)...))
	if !slices.Equal(m.Unicast, []uint64{0x525400010001, 0x525400010002, 0x525400010003}) || !slices.Equal(m.Groups, []uint64{0x535400010001, 0x535400010002}) {
		t.Errorf("tables %x and %x", m.Unicast, m.Groups)
	}
	if before.Unicast != nil {
		t.Error("modes that the NIC has were changed")
	}
	if m = do(cmd(virtio.CtrlMAC, virtio.CtrlMACTableSet, tables(maxTable+1, 1)...)); !m.AllUnicast || m.AllMulticast || len(m.Groups) != 1 {
		t.Errorf("a table that is too long gives %+v", m)
	}
	if m = do(cmd(virtio.CtrlMAC, virtio.CtrlMACTableSet, tables(1, maxTable)...)); m.AllUnicast || m.AllMulticast || len(m.Groups) != maxTable {
		t.Errorf("the longest table gives %+v", m)
	}
	if m = do(cmd(virtio.CtrlMAC, virtio.CtrlMACAddrSet, 2, 0, 0, 0, 0, 7)); m.MAC != 0x020000000007 {
		t.Errorf("address %x", m.MAC)
	}
	for _, id := range []uint16{0, 1, 63, 64, 4095} {
		if m = do(cmd(virtio.CtrlVLAN, virtio.CtrlVLANAdd, le16(id)...)); !m.VLANs.Has(id) {
			t.Errorf("VLAN %d was not added", id)
		}
		if m = do(cmd(virtio.CtrlVLAN, virtio.CtrlVLANDel, le16(id)...)); *m.VLANs != (queues.VLANs{}) {
			t.Errorf("VLAN %d was not taken out", id)
		}
	}
	do(cmd(virtio.CtrlAnnounce, virtio.CtrlAnnounceAck))
	do(cmd(virtio.CtrlMQ, virtio.CtrlMQPairsSet, le16(3)...))
	if k.announces != 1 || !slices.Equal(k.using, []int{3}) {
		t.Errorf("%d announcements, pairs %v", k.announces, k.using)
	}
	k = newDesk(allControl &^ virtio.NetCtrlVLAN)
	if m = do(cmd(virtio.CtrlRx, virtio.CtrlRxPromisc, 0)); m.VLANs != nil {
		t.Error("a driver without CTRL_VLAN has a table of VLANs")
	}
}

// Any bytes are a command that is carried out or one that is refused and
// changes nothing; what is published is in range.
func FuzzControl(f *testing.F) {
	for _, seed := range [][]byte{
		nil,
		{0},
		cmd(0, 0, 1), cmd(0, 5, 0), cmd(1, 0, tables(2, 3)...), cmd(1, 0, le32(1<<32-1)...), cmd(1, 1, 2, 0, 0, 0, 0, 1),
		cmd(2, 0, le16(4095)...), cmd(2, 1, le16(65535)...), cmd(3, 0), cmd(4, 0, le16(8)...), cmd(4, 1, make([]byte, 40)...), cmd(5, 0),
		cmd(1, 0, tables(maxTable+1, maxTable+1)...),
	} {
		f.Add(uint64(allControl), seed)
		f.Add(uint64(virtio.NetCtrlRx), seed)
	}
	f.Fuzz(func(t *testing.T, features uint64, command []byte) {
		k := newDesk(virtio.Features(features))
		before, vlans := fmt.Sprintf("%+v", k.control.modes), k.vlans
		own := slices.Clone(command)
		err := k.execute(own)
		if !slices.Equal(own, command) {
			t.Error("the command was changed")
		}
		did := k.published + k.announces + len(k.using)
		if (err == nil) != (did == 1) || did > 1 {
			t.Fatalf("%x: %v, with %d effects", command, err, did)
		}
		if err != nil && (fmt.Sprintf("%+v", k.control.modes) != before || k.vlans != vlans) {
			t.Errorf("%x: refused, but changed %s to %+v", command, before, k.control.modes)
		}
		if m := k.modes; m != nil {
			if len(m.Unicast) > maxTable || len(m.Groups) > maxTable || !slices.IsSorted(m.Unicast) || !slices.IsSorted(m.Groups) || m.MAC>>48 != 0 || m.MAC>>40&1 != 0 {
				t.Errorf("%x: %+v", command, m)
			}
		}
		for _, n := range k.using {
			if n < 1 || n > k.pairs {
				t.Errorf("%x: %d pairs", command, n)
			}
		}
	})
}

// A long random sequence of commands keeps the same state as a plain model of
// the specification.
func TestControlFollowsModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	k := newDesk(allControl)
	vlans, modes := map[uint16]bool{}, [6]bool{true}
	for range 20000 {
		switch rng.IntN(2) {
		case 0:
			mode, on := rng.IntN(6), rng.IntN(2)
			modes[mode] = on == 1
			_ = k.execute(cmd(virtio.CtrlRx, uint8(mode), byte(on)))
		case 1:
			id, del := uint16(rng.IntN(5000)), rng.IntN(2)
			if id <= maxVLAN {
				vlans[id] = del == 0
			}
			_ = k.execute(cmd(virtio.CtrlVLAN, uint8(del), le16(id)...))
		}
	}
	m := k.modes
	if got := [6]bool{m.Promiscuous, m.AllMulticast, m.AllUnicast, m.NoMulticast, m.NoUnicast, m.NoBroadcast}; got != modes {
		t.Errorf("modes %v, want %v", got, modes)
	}
	for id := range uint16(4096) {
		if m.VLANs.Has(id) != vlans[id] {
			t.Errorf("VLAN %d is in the table: %t, want %t", id, m.VLANs.Has(id), vlans[id])
		}
	}
}
