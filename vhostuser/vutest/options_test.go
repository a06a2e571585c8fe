package vutest

import (
	"testing"

	"vhostnet/vhostuser"
	"vhostnet/virtio"
)

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"no kind":            {},
		"unknown kind":       {Kind: 99},
		"pairs of crosvm":    {Kind: Crosvm, Pairs: 2},
		"negative pairs":     {Kind: QEMU10, Pairs: -1},
		"little memory":      {Kind: QEMU10, MemorySize: 1 << 20},
		"crooked memory":     {Kind: QEMU10, MemorySize: 16<<20 + 1},
		"much memory":        {Kind: QEMU10, MemorySize: 1 << 40},
		"unbounded wait":     {Kind: QEMU10, Timeout: -1},
		"empty region":       {Kind: QEMU10, Layout: []Region{{}}},
		"crooked region":     {Kind: QEMU10, Layout: []Region{{Size: 5000}}},
		"region of no file":  {Kind: QEMU10, Layout: []Region{{Size: 4096, File: -1}}},
		"nobody listens":     {Kind: QEMU10},
		"overlapping layout": {Kind: QEMU10, Layout: []Region{{Size: 8192}, {GPA: 4096, User: 1 << 40, Size: 4096}}},
	} {
		f, err := Dial(t.TempDir()+"/nobody.sock", o)
		if err == nil {
			_ = f.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	for name, g := range map[string]Guest{
		"pairs":         {Pairs: 2},
		"ring size":     {RingSize: 3},
		"long ring":     {RingSize: 65536},
		"rx buffers":    {RxBuffers: -1},
		"rx buffer":     {RxBuffer: -1},
		"negative pair": {Pairs: -1},
	} {
		if _, err := g.fill(1); err == nil {
			t.Errorf("%s: a guest of %+v was accepted", name, g)
		}
	}
}

// TestFeatures checks what each front-end lets through (reference tables of
// the protocol's users), with everything offered.
func TestFeatures(t *testing.T) {
	const all = ^virtio.Features(0)
	for _, k := range Kinds() {
		_, kd, err := Options{Kind: k}.fill()
		if err != nil {
			t.Fatal(err)
		}
		f := &FrontEnd{o: Options{Kind: k, Pairs: 2}, kind: kd, offered: all}
		got := f.choose(Guest{})
		for bit, want := range map[virtio.Features]bool{
			virtio.RingPacked:       false,
			virtio.ProtocolFeatures: false, // added by SET_FEATURES itself
			virtio.LogAll:           false,
			virtio.AccessPlatform:   false,
			virtio.EventIdx:         k != VirtioUser,
			virtio.IndirectDesc:     k != Crosvm,
			virtio.InOrder:          k != QEMU72 && k != Crosvm,
			virtio.NetCtrlVQ:        k == CloudHypervisor,
			virtio.NetMQ:            k != Crosvm && k != Libkrun,
			virtio.Version1:         true,
			virtio.NetMrgRxBuf:      true,
			virtio.NetGuestTSO4:     true,
		} {
			if got.Has(bit) != want {
				t.Errorf("%s: feature %s is let through: %t, want %t", k, bit, got.Has(bit), want)
			}
		}
		if plain := f.choose(Guest{Without: virtio.NetCsum | virtio.NetGuestCsum}); plain&(virtio.NetHostTSO4|virtio.NetGuestTSO4|virtio.NetHostECN|virtio.NetGuestECN) != 0 {
			t.Errorf("%s: offloads %s without their checksums", k, plain)
		}
		if p := kd.protocol; p.Has(vhostuser.ProtocolReplyAck) != (k != Libkrun) {
			t.Errorf("%s: protocol features %s", k, p)
		}
	}
	f := &FrontEnd{o: Options{Pairs: 1}, kind: &kinds[QEMU10], offered: all}
	if f.choose(Guest{}).Has(virtio.NetMQ) {
		t.Error("a NIC of one queue pair has MQ")
	}
}

// TestLayouts checks that layouts cover the memory once, in the guest and in
// the front-end, and are what their front-ends have.
func TestLayouts(t *testing.T) {
	for _, k := range Kinds() {
		for _, size := range []uint64{4 << 20, 16 << 20, 17 << 20} {
			o, _, err := Options{Kind: k, MemorySize: size}.fill()
			if err != nil {
				t.Fatal(err)
			}
			m, err := newMemory(o.Layout, false) // a Map refuses overlaps and what is beyond a file
			if err != nil {
				t.Fatalf("%s: %v", k, err)
			}
			var sum uint64
			for _, r := range o.Layout {
				sum += r.Size
				if same := r.GPA == r.User; same != (k == VirtioUser) {
					t.Errorf("%s: region %+v; guest addresses are the front-end's: %t", k, r, same)
				}
			}
			hole := size - sum
			if want := uint64(0); k == QEMU10 || k == QEMU72 {
				want = 0x20000
				if hole != want {
					t.Errorf("%s: %d bytes of %d are missing, the VGA hole has %d", k, hole, size, want)
				}
			} else if hole != want {
				t.Errorf("%s: %d bytes of %d are missing", k, hole, size)
			}
			m.close()
		}
	}
}
