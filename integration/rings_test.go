//go:build integration

package integration

import (
	"testing"
	"time"
)

// Feature bits of rings (virtio 1.3, section 6).
const (
	bitIndirect = 28
	bitEventIdx = 29
	bitVersion1 = 32
	bitPacked   = 34
)

// The kinds of rings and headers that a Linux guest can be made to have.
var (
	ringsSplit  = offloads{name: "split", on: []int{bitIndirect, bitEventIdx, bitVersion1, bitMrgRxbuf}, off: []int{bitPacked}}
	ringsPacked = offloads{name: "packed", properties: "packed=on", on: []int{bitPacked, bitIndirect, bitEventIdx, bitMrgRxbuf}}
	// The longest chains that a driver makes: 19 slots for each receive buffer,
	// so that a ring of 256 has fewer than a datagram of 64 KiB has fragments.
	ringsPackedDirect = offloads{
		name: "packed, no tables, no merged buffers", properties: "packed=on,indirect_desc=off,mrg_rxbuf=off,rx_queue_size=1024",
		on: []int{bitPacked, bitEventIdx}, off: []int{bitIndirect, bitMrgRxbuf},
	}
	ringsPackedFlags = offloads{
		name: "packed, no event index", properties: "packed=on,event_idx=off",
		on: []int{bitPacked, bitIndirect}, off: []int{bitEventIdx},
	}
	ringsPackedPlain = offloads{
		name: "packed, no merged buffers", properties: "packed=on,mrg_rxbuf=off",
		on: []int{bitPacked, bitIndirect}, off: []int{bitMrgRxbuf},
	}
	ringsFlags  = offloads{name: "no event index", properties: "event_idx=off", on: []int{bitIndirect, bitVersion1}, off: []int{bitEventIdx, bitPacked}}
	ringsDirect = offloads{name: "no tables", properties: "indirect_desc=off", on: []int{bitEventIdx, bitVersion1}, off: []int{bitIndirect, bitPacked}}
	ringsPlain  = offloads{name: "no merged buffers", properties: "mrg_rxbuf=off", on: []int{bitIndirect, bitVersion1}, off: []int{bitMrgRxbuf, bitPacked}}
	// A device older than virtio 1.0: its header has 10 bytes, and 12 with
	// merged buffers.
	ringsLegacy      = offloads{name: "legacy", properties: "disable-modern=on,disable-legacy=off", on: []int{bitMrgRxbuf}, off: []int{bitVersion1, bitPacked}}
	ringsLegacyPlain = offloads{
		name: "legacy, no merged buffers", properties: "disable-modern=on,disable-legacy=off,mrg_rxbuf=off",
		off: []int{bitVersion1, bitPacked, bitMrgRxbuf},
	}
)

// TestRings has Linux drivers of all kinds of rings talk to one another. Each
// NIC negotiates anew on the connection that the one before it had.
func TestRings(t *testing.T) {
	lab := startLab(t,
		GuestConfig{Name: "a", QEMU: machine.QEMU, OwnQueue: true, Device: ringsPacked.properties},
		GuestConfig{Name: "b", QEMU: machine.QEMU, Device: ringsPacked.properties})
	for _, pair := range [][2]offloads{
		{ringsPacked, ringsPacked},
		{ringsPackedDirect, ringsSplit},
		{ringsPackedFlags, ringsDirect},
		{ringsPackedPlain, ringsFlags},
		{ringsLegacyPlain, ringsPackedDirect},
		{ringsLegacy, ringsPlain},
		{ringsLegacyPlain, ringsLegacy},
	} {
		run(t, pair[0].name+" and "+pair[1].name, func(t *testing.T) { testRings(t, lab, pair) })
	}
}

func testRings(t *testing.T, lab *Lab, kinds [2]offloads) {
	for i, g := range lab.Guests {
		if g.cfg.Device != kinds[i].properties {
			must(t, g.ReplaceNIC(within(t, 30*time.Second), kinds[i].properties))
		}
		checkFeatures(t, g, kinds[i])
	}
	bothWays(lab, func(from, to *Guest) {
		ctx := within(t, time.Minute)
		must(t, Reach(ctx, from, to))
		must(t, Ping(ctx, from, to.Addr(), 2, 65507))
	})
	transferBothWays(t, lab, 30*megabyte)
	noChecksumErrors(t, lab)
}
