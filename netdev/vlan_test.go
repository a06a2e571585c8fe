package netdev_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"vhostnet/metrics"
	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
	"vhostnet/vswitch"
)

// inVLAN is a frame with a tag.
func inVLAN(f []byte, tci uint16) []byte {
	out := append([]byte{}, f[:12]...)
	return append(binary.BigEndian.AppendUint16(append(out, 0x81, 0), tci), f[12:]...)
}

// VMs in VLANs, over sockets: an access port sees no tag, a trunk sees them, and
// a VM in another VLAN nothing; by the queue's way, by the learned way and
// flooded.
func TestVLANsBetweenVMs(t *testing.T) {
	access := func(id uint16) vswitch.PortOptions { return vswitch.PortOptions{VLAN: vswitch.VLANOptions{Access: id}} }
	r := newRig(t, 1,
		netdev.Options{Name: "a", MAC: macA, Switching: access(10)},
		netdev.Options{Name: "b", MAC: macB, Switching: vswitch.PortOptions{VLAN: vswitch.VLANOptions{Trunk: []uint16{10, 20}}}},
		netdev.Options{Name: "c", MAC: macC, Switching: access(20)},
		netdev.Options{Name: "d"},
	)
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	c, d := r.connect("c", vutest.Options{}), r.connect("d", vutest.Options{})
	sent := func(from *vutest.FrontEnd, data []byte) {
		t.Helper()
		r.must(from.Send(0, vutest.Frame{Data: data}))
		r.must(from.WaitSent(0))
	}
	gets := func(to *vutest.FrontEnd, want []byte) {
		t.Helper()
		got, err := to.Recv(0, patience)
		r.must(err)
		if !bytes.Equal(got.Data, want) {
			t.Errorf("got\n%x, want\n%x", got.Data, want)
		}
	}
	for i := range uint32(3) {
		f := frame(macB, macA, 100, i).Data
		sent(a, f)
		gets(b, inVLAN(f, 10))
		f = frame(macA, macB, 100, i).Data
		sent(b, inVLAN(f, 10))
		gets(a, f)
		sent(b, f) // untagged: a trunk without a native VLAN
		sent(b, inVLAN(frame(macC, macB, 100, i).Data, 20))
		gets(c, frame(macC, macB, 100, i).Data)
		sent(a, frame(macC, macA, 100, i).Data) // c is in another VLAN: flooded in 10
		gets(b, inVLAN(frame(macC, macA, 100, i).Data, 10))
		all := frame([6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, macA, 100, i).Data
		sent(a, all)
		gets(b, inVLAN(all, 10))
	}
	if got := r.devices["b"].Snapshot().Drops[metrics.ReasonVLAN]; got != 3 {
		t.Errorf("%d frames were dropped for their VLAN, want 3", got)
	}
	for name, want := range map[string]uint64{"a": 3, "b": 9, "c": 3, "d": 0} {
		if got := r.devices[name].Snapshot().RxFrames; got != want {
			t.Errorf("%s got %d frames, want %d", name, got, want)
		}
	}
	d.Disconnect()
}

// Every offload arrives right with another tag than it was sent with, whatever
// the receiver accepted.
func TestVLANOfOffloads(t *testing.T) {
	r := newRig(t, 1,
		netdev.Options{Name: "a", MAC: macA, Switching: vswitch.PortOptions{VLAN: vswitch.VLANOptions{Trunk: []uint16{10}, Native: 20}}},
		netdev.Options{Name: "b", MAC: macB, Switching: vswitch.PortOptions{VLAN: vswitch.VLANOptions{Trunk: []uint16{20}, Native: 10}}},
	)
	a, b := r.connect("a", vutest.Options{Through: uso}), r.connect("b", vutest.Options{Through: uso})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, to := range []virtio.Features{0, senderBits} {
		_, err := b.Reboot(ctx, vutest.Guest{Without: asReceiver(senderBits &^ to), RxBuffers: 64})
		r.must(err)
		r.must(b.Barrier(ctx))
		for _, p := range packets() {
			sent, arrives := *p, *p
			if p.vlan == 0 {
				arrives.vlan = 20 // native to a, tagged to b
			} else {
				sent.vlan, arrives.vlan = 10, 0 // and the other way round
			}
			if err := sent.carryAs(a, b, &arrives); err != nil {
				t.Errorf("%s, VLAN %d to %d, to %v: %v", p.name, sent.vlan, arrives.vlan, to, err)
			}
		}
	}
	if d := r.drops(); d != 0 {
		t.Errorf("%d frames were dropped", d)
	}
}
