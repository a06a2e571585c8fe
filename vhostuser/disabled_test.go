package vhostuser

import (
	"bytes"
	"testing"
)

// bytes are all of the guest's memory.
func (g *guest) bytes() []byte {
	all := make([]byte, guestSize)
	g.mem.CopyTo(all, 0)
	return all
}

// A front-end can reset its device by disabling the rings only (libkrun): what
// was the rings' memory belongs to the next kernel then, and nothing that the
// front-end does to a disabled ring may write there.
func TestDisabledRingIsLeftAlone(t *testing.T) {
	halves := MemTable{Regions: []MemRegion{{Size: guestSize / 2, User: guestUser}, {GPA: guestSize / 2, Size: guestSize / 2, User: guestUser + guestSize/2, Offset: guestSize / 2}}}
	first := SingleRegion{Region: halves.Regions[0]}.Marshal()
	for _, c := range []struct {
		name   string
		change func(b *bench, g *guest)
	}{
		{"memory table", func(b *bench, g *guest) { b.ok(SetMemTable, halves.Marshal(), g.fd(b.t), g.fd(b.t)) }},
		{"regions go and come", func(b *bench, g *guest) {
			b.ok(SetMemTable, halves.Marshal(), g.fd(b.t), g.fd(b.t))
			b.ok(RemMemReg, first)
			b.ok(AddMemReg, first, g.fd(b.t))
		}},
		{"call", func(b *bench, _ *guest) { b.ok(SetVringCall, fdPayload(0), newFD(b.t)) }},
		{"kick", func(b *bench, _ *guest) { b.ok(SetVringKick, fdPayload(0), newFD(b.t)) }},
		{"err", func(b *bench, _ *guest) { b.ok(SetVringErr, fdPayload(0), newFD(b.t)) }},
		{"features", func(b *bench, _ *guest) { b.ok(SetFeatures, U64(accepted).Marshal()) }},
		{"addresses", func(b *bench, _ *guest) { b.ok(SetVringAddr, addr(0).Marshal()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, newStub(), nil)
			g := newGuest(t)
			b.handshake(g)
			g.used(0, 5)
			b.live(0)
			b.ok(SetVringEnable, state(0, 0))
			g.mem.CopyFrom(bytes.Repeat([]byte{0xa5}, guestSize), 0)
			before := g.bytes()
			c.change(b, g)
			b.number(GetFeatures)
			if !bytes.Equal(g.bytes(), before) {
				t.Error("the memory of a disabled ring was written to")
			}
			// Enabled again it goes on where it was.
			b.ok(SetVringEnable, state(0, 1))
			if !b.dev.runs(0) {
				t.Errorf("the ring does not run after it was enabled; told %q", b.dev.take())
			}
			if got := b.base(0); got != 5 {
				t.Errorf("the ring stands at %d, want 5, where it was disabled", got)
			}
		})
	}
}

// A parked ring that is disabled stays parked, whatever memory comes.
func TestDisabledParkedRingWaits(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.handshake(g)
	b.live(0)
	whole := SingleRegion{Region: g.whole()}.Marshal()
	b.ok(RemMemReg, whole)
	b.calls("memory 0", "replace 0")
	b.ok(SetVringEnable, state(0, 0))
	before := g.bytes()
	b.ok(AddMemReg, whole, g.fd(t))
	b.calls("enable 0 false", "memory 1")
	if !bytes.Equal(g.bytes(), before) {
		t.Error("the memory of a disabled ring was written to")
	}
	e, fd := eventfd(t)
	b.ok(SetVringCall, fdPayload(0), fd)
	b.calls()
	b.ok(SetVringEnable, state(0, 1))
	b.calls("enable 0 true", "start 0")
	if !signalled(t, e) {
		t.Error("the driver was not called: what was about to be signalled when the ring was parked may be lost")
	}
}
