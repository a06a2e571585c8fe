package vutest

import (
	"strings"
	"testing"

	"vhostnet/vhostuser"
	"vhostnet/virtio"
)

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"no kind":            {},
		"unknown kind":       {Kind: 99},
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
		"packed legacy": {Packed: true, Legacy: true},
		"packed size":   {Packed: true, RingSize: 32769},
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
	for _, k := range []Kind{Crosvm, Libkrun} {
		f := &FrontEnd{o: Options{Kind: k, Pairs: 2}, kind: &kinds[k], offered: all}
		if got := f.choose(Guest{Control: true}); !got.Has(virtio.NetCtrlVQ | virtio.NetMQ | virtio.NetCtrlRx) {
			t.Errorf("%s: a guest that uses the control queue accepts %s", k, got)
		}
		if f.offered &^= virtio.NetCtrlVQ; f.choose(Guest{Control: true})&control != 0 {
			t.Errorf("%s: a guest without a control queue accepts features that need it", k)
		}
	}
	f := &FrontEnd{o: Options{Pairs: 1}, kind: &kinds[QEMU10], offered: all}
	if f.choose(Guest{}).Has(virtio.NetMQ) {
		t.Error("a NIC of one queue pair has MQ")
	}
}

// TestGuestFeatures: packed rings are for those that ask for them and whose
// front-end knows them; guests older than virtio 1.0 know nothing of it.
func TestGuestFeatures(t *testing.T) {
	const all = ^virtio.Features(0)
	for _, k := range Kinds() {
		f := &FrontEnd{o: Options{Kind: k, Pairs: 2}, kind: &kinds[k], offered: all}
		if got, want := f.choose(Guest{Packed: true}).Has(virtio.RingPacked), k <= VirtioUser; got != want {
			t.Errorf("%s: packed rings are accepted: %t, want %t", k, got, want)
		}
		if f.choose(Guest{})&(virtio.NotifyOnEmpty|virtio.AnyLayout) != 0 {
			t.Errorf("%s: a driver of today accepts what is for old ones", k)
		}
		if !f.kind.legacy {
			continue
		}
		old := f.choose(Guest{Legacy: true})
		if old>>32 != 0 || !old.Has(virtio.NotifyOnEmpty|virtio.AnyLayout|virtio.IndirectDesc|virtio.EventIdx) {
			t.Errorf("%s: an old driver accepts %s", k, old)
		}
		if n := virtio.NetHeaderLen(f.choose(Guest{Legacy: true, Without: virtio.NetMrgRxBuf})); n != 10 {
			t.Errorf("%s: an old driver's header has %d bytes", k, n)
		}
	}
}

// TestGuestsRefused: a guest that the back-end or the front-end cannot have
// does not boot as something else.
func TestGuestsRefused(t *testing.T) {
	for _, c := range []struct {
		kind    Kind
		offered virtio.Features
		guest   Guest
		want    string
	}{
		{QEMU10, virtio.Version1, Guest{Packed: true}, "with packed rings; the back-end offers version_1"},
		{Crosvm, virtio.Version1 | virtio.RingPacked, Guest{Packed: true}, "crosvm lets through"},
		{VirtioUser, 0, Guest{Legacy: true}, "virtio-user, which has none"},
		{QEMU10, virtio.Version1, Guest{RingSize: 5}, "powers of two"},
	} {
		f := &FrontEnd{o: Options{Kind: c.kind, Pairs: 1}, kind: &kinds[c.kind], offered: c.offered}
		if err := f.boot(c.guest); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.guest, err, c.want)
		}
	}
}

// TestPackedBase: what each front-end says at the start and when a packed ring
// goes on (QEMU; virtio-user begins anew).
func TestPackedBase(t *testing.T) {
	f := handmade(t, merging|virtio.RingPacked, Guest{Packed: true, RingSize: 5})
	r := f.rings[0]
	if r.base != 0x80008000 {
		t.Errorf("a ring begins at base %#x", r.base)
	}
	for _, r.base = range []uint32{r.base, 0x00030003, 0} {
		for _, k := range []Kind{QEMU10, QEMU72} {
			for _, f.resumed = range []bool{false, true} {
				if got := kinds[k].base(f, r); got != r.base {
					t.Errorf("%s: base %#x where %#x was told last", k, got, r.base)
				}
			}
		}
	}
	if got := kinds[VirtioUser].base(f, r); got != 0x8000 || !kinds[VirtioUser].resets {
		t.Errorf("virtio-user: base %#x, want 0x8000 and new rings at each start", got)
	}
	if got, err := r.stands(); got != 0x80008000 || err != nil {
		t.Errorf("the ring stands at %#x, %v", got, err)
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
