package netdev_test

import (
	"context"
	"testing"

	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// flavour is a front-end and the kind of rings that its guest has.
type flavour struct {
	name   string
	kind   vutest.Kind
	packed bool
	legacy bool
}

// packedSize is no power of two: the packed rings of these tests wrap where no
// mask does.
const packedSize = 203

// flavours are all front-ends, each with split rings and, where there are such
// guests, with packed ones.
func flavours() (list []flavour) {
	for _, k := range vutest.Kinds() {
		list = append(list, flavour{name: k.String(), kind: k})
		if k == vutest.QEMU10 || k == vutest.QEMU72 || k == vutest.VirtioUser {
			list = append(list, flavour{name: k.String() + ", packed", kind: k, packed: true})
		}
	}
	return list
}

// options are those of the flavour's front-end.
func (f flavour) options() vutest.Options {
	return vutest.Options{Kind: f.kind, Guest: f.guest(vutest.Guest{})}
}

// guest is g with the flavour's rings.
func (f flavour) guest(g vutest.Guest) vutest.Guest {
	g.Packed, g.Legacy = f.packed, f.legacy
	if f.packed {
		g.Without &^= virtio.RingPacked
	}
	if f.packed && g.RingSize == 0 {
		g.RingSize = packedSize
	}
	return g
}

// both runs a test with guests of split rings and of packed ones.
func both(t *testing.T, f func(t *testing.T, v flavour)) {
	for _, v := range []flavour{
		{name: "split", kind: vutest.QEMU10},
		{name: "packed", kind: vutest.QEMU10, packed: true},
	} {
		t.Run(v.name, func(t *testing.T) { f(t, v) })
	}
}

// stands is where a device stands that has returned n chains of one entry each
// of a ring of size entries.
func (f flavour) stands(n uint32, size int) uint16 {
	if !f.packed {
		return uint16(n)
	}
	pos := uint16(n % uint32(size))
	if n/uint32(size)%2 == 0 {
		pos |= vqtest.WrapBit
	}
	return pos
}

// Guests older than virtio 1.0 and those of today reach one another: their
// headers have different lengths.
func TestLegacyGuests(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b"})
	guests := []vutest.Guest{
		{Legacy: true},
		{Legacy: true, Without: virtio.NetMrgRxBuf},
		{Legacy: true, Without: ^virtio.Features(0)},
		{Legacy: true, Without: virtio.AnyLayout | virtio.IndirectDesc | virtio.EventIdx},
		{},
		{Packed: true, RingSize: packedSize},
	}
	for _, ga := range guests {
		a := r.connect("a", vutest.Options{Guest: ga})
		if ga.Legacy != !a.Features().Has(virtio.Version1) {
			t.Fatalf("the guest %+v accepted %s", ga, a.Features())
		}
		for _, gb := range guests {
			b := r.connect("b", vutest.Options{Guest: gb})
			for i, n := range []int{14, 60, 61, 511, 1514} {
				plain := frame(macB, macA, n, uint32(i))
				alone, parts := plain, plain
				alone.HeaderAlone, parts.Parts = true, 9
				exchange(t, a, b, 0, plain, alone, parts)
				exchange(t, b, a, 0, frame(macA, macB, n, uint32(i)))
			}
			r.must(b.Close())
		}
		r.must(a.Close())
	}
}

// An old driver that accepted NOTIFY_ON_EMPTY and wants no calls is called when
// its transmit ring runs empty (virtio 1.3, section 5.1.6.2); one of today is
// not.
func TestNotifyOnEmpty(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		r := newRig(t, 1, netdev.Options{Name: "a"}, netdev.Options{Name: "b", MAC: macB})
		a := r.connect("a", vutest.Options{Guest: vutest.Guest{Legacy: legacy}})
		b := r.connect("b", vutest.Options{})
		pingPong(t, a, b) // a device's first call is made in any case
		before := a.Calls(1)
		r.must(a.Send(0, frame(macB, macA, 60, 1))) // leaves the ring without a wish
		wantNext(t, b, frame(macB, macA, 60, 1))
		if legacy {
			r.waitFor("the call of an empty ring", func() bool { return a.Calls(1) > before })
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		r.must(a.Stop(ctx)) // nobody works on the ring behind it
		cancel()
		if n := a.Calls(1) - before; n != 0 {
			t.Errorf("%d calls to a driver that wants none", n)
		}
	}
}
