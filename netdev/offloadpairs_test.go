//go:build !race

package netdev_test

import (
	"testing"

	"vhostnet/virtio"
)

// The detector of races has seen all goroutines when TestOffloadMatrix is over:
// every pair is a matter of bytes.

// Every pair of sets of offloads that two drivers can have accepted, with one
// small packet of each kind.
func TestOffloadEveryPair(t *testing.T) {
	carryMatrix(t, offloadSets(), withBuffers(offloadSets()), []*packet{
		{name: "plain", proto: udp, nosum: true, payload: pattern(60, 0)},
		{name: "UDPv4", proto: udp, payload: pattern(33, 1)},
		{name: "UDPv6", proto: udp, v6: true, payload: pattern(33, 1)},
		{name: "TCPv4", proto: tcp, payload: pattern(500, 2)},
		{name: "TCPv6", proto: tcp, v6: true, payload: pattern(500, 2)},
		{name: "TSO4", proto: tcp, flags: fin | psh | cwr, mss: 300, payload: pattern(700, 3)},
		{name: "TSO6", proto: tcp, v6: true, options: true, mss: 500, payload: pattern(900, 4)},
		{name: "TSO4 with ECN", proto: tcp, ecn: true, flags: psh | cwr, mss: 300, payload: pattern(601, 5)},
		{name: "TSO6 with ECN", proto: tcp, v6: true, ecn: true, flags: cwr, mss: 500, payload: pattern(900, 6)},
		{name: "UFOv4", proto: udp, whole: true, mss: 400, payload: pattern(900, 7)},
		{name: "UFOv6", proto: udp, v6: true, whole: true, mss: 401, payload: pattern(900, 8)},
		{name: "USOv4", proto: udp, mss: 300, payload: pattern(700, 9)},
		{name: "USOv6", proto: udp, v6: true, mss: 300, payload: pattern(600, 10)},
	})
}

// withBuffers are sets, and the same sets with merged receive buffers.
func withBuffers(sets []virtio.Features) (both []virtio.Features) {
	for _, f := range sets {
		both = append(both, f, f|virtio.NetMrgRxBuf)
	}
	return both
}
