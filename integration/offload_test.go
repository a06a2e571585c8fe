//go:build integration

package integration

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// Feature bits of virtio-net (virtio 1.2, 5.1.3) that the properties below turn
// off or leave on.
const (
	bitCsum      = 0
	bitGuestCsum = 1
	bitGuestTSO4 = 7
	bitGuestTSO6 = 8
	bitHostTSO4  = 11
	bitHostTSO6  = 12
	bitMrgRxbuf  = 15
)

// offloads is a choice of a NIC's features.
type offloads struct {
	name       string
	properties string
	on, off    []int
}

const (
	noHostTSO  = "host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off"
	noGuestTSO = "guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off"
)

var (
	offloadsAll = offloads{
		name: "all",
		on:   []int{bitCsum, bitGuestCsum, bitGuestTSO4, bitGuestTSO6, bitHostTSO4, bitHostTSO6, bitMrgRxbuf},
	}
	offloadsNone = offloads{
		name:       "none",
		properties: "csum=off,guest_csum=off,gso=off,mrg_rxbuf=off," + noHostTSO + "," + noGuestTSO,
		off:        []int{bitCsum, bitGuestCsum, bitGuestTSO4, bitGuestTSO6, bitHostTSO4, bitHostTSO6, bitMrgRxbuf},
	}
	// A driver without mergeable buffers gives chains of 64 KiB.
	offloadsPlainBuffers = offloads{
		name:       "plain buffers",
		properties: "mrg_rxbuf=off",
		on:         []int{bitCsum, bitGuestCsum, bitGuestTSO4, bitHostTSO4},
		off:        []int{bitMrgRxbuf},
	}
	offloadsChecksums = offloads{
		name:       "checksums",
		properties: "gso=off," + noHostTSO + "," + noGuestTSO,
		on:         []int{bitCsum, bitGuestCsum, bitMrgRxbuf},
		off:        []int{bitGuestTSO4, bitGuestTSO6, bitHostTSO4, bitHostTSO6},
	}
	offloadsSending = offloads{
		name:       "sending",
		properties: "guest_csum=off," + noGuestTSO,
		on:         []int{bitCsum, bitHostTSO4, bitHostTSO6, bitMrgRxbuf},
		off:        []int{bitGuestCsum, bitGuestTSO4, bitGuestTSO6},
	}
	offloadsReceiving = offloads{
		name:       "receiving",
		properties: "csum=off,gso=off," + noHostTSO,
		on:         []int{bitGuestCsum, bitGuestTSO4, bitGuestTSO6, bitMrgRxbuf},
		off:        []int{bitCsum, bitHostTSO4, bitHostTSO6},
	}
)

// testOffloads has the guests differ in what their NICs can do. A frame that
// its receiver could not take as it was sent must come in a form that it can:
// the transfers check the bytes, and the guests the checksums. Each NIC
// negotiates anew on the connection that the one before it had.
func testOffloads(t *testing.T, lab *Lab) {
	sameA, sameB := sameConnections(t, lab.Guests[0]), sameConnections(t, lab.Guests[1])
	for _, pair := range [][2]offloads{
		{offloadsAll, offloadsNone},
		{offloadsNone, offloadsNone},
		{offloadsNone, offloadsPlainBuffers},
		{offloadsAll, offloadsPlainBuffers},
		{offloadsAll, offloadsChecksums},
		{offloadsSending, offloadsChecksums},
		{offloadsSending, offloadsReceiving},
		{offloadsAll, offloadsAll},
	} {
		run(t, pair[0].name+" and "+pair[1].name, func(t *testing.T) {
			for i, g := range lab.Guests {
				if g.cfg.Device != pair[i].properties {
					must(t, g.ReplaceNIC(within(t, 30*time.Second), pair[i].properties))
				}
				checkFeatures(t, g, pair[i])
			}
			bothWays(lab, func(from, to *Guest) {
				ctx := within(t, time.Minute)
				must(t, Reach(ctx, from, to))
				must(t, Ping(ctx, from, to.Addr(), 2, 65507))
				for bit, addr := range map[int]string{bitGuestTSO4: to.Addr(), bitGuestTSO6: to.Addr6()} {
					before := packets(t, to)
					must(t, StartTransfer(ctx, from, to, addr, 10*megabyte).Wait())
					checkSegments(t, from, to, bit, packets(t, to)-before)
				}
				udp(t, from, to, 1400)
			})
			noChecksumErrors(t, lab)
		})
	}
	sameA()
	sameB()
}

// segment is the most that a TCP segment of ours carries: the MTU less the
// shortest headers.
const segment = 1500 - 20 - 20

// checkSegments sees whether the 10 MB that to has received in so many packets
// came whole or cut: a frame of up to 64 KiB stays one if the sender makes such
// frames and the receiver takes them, which guestBit and its counterpart say.
func checkSegments(t *testing.T, from, to *Guest, guestBit, packets int) {
	t.Helper()
	hostBit := guestBit - bitGuestTSO4 + bitHostTSO4
	whole := accepted(t, from)[hostBit] == '1' && accepted(t, to)[guestBit] == '1'
	cut := 10 * megabyte / segment
	if whole && packets > cut/2 {
		t.Errorf("%s to %s: %d packets for 10 MB; frames of up to 64 KiB should have come whole", from.cfg.Name, to.cfg.Name, packets)
	}
	if !whole && packets < cut {
		t.Errorf("%s to %s: %d packets for 10 MB; one of the guests takes only single segments, at least %d", from.cfg.Name, to.cfg.Name, packets, cut)
	}
}

// packets returns how many packets a guest's NIC has received.
func packets(t *testing.T, g *Guest) int {
	t.Helper()
	out, err := g.Run(within(t, 10*time.Second), "cat", "/sys/class/net/eth0/statistics/rx_packets")
	must(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(out))
	must(t, err)
	return n
}

func accepted(t *testing.T, g *Guest) string {
	t.Helper()
	bits, err := g.Features(within(t, 10*time.Second))
	must(t, err)
	return bits
}

func checkFeatures(t *testing.T, g *Guest, want offloads) {
	t.Helper()
	got := accepted(t, g)
	for value, bits := range map[byte][]int{'1': want.on, '0': want.off} {
		for _, bit := range bits {
			if bit >= len(got) || got[bit] != value {
				t.Errorf("%s, offloads %q: feature bit %d should be %c in %s", g.cfg.Name, want.name, bit, value, got)
			}
		}
	}
}
