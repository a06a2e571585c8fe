package queues

import (
	"sync/atomic"

	"vhostnet/nbl"
)

// flowTable remembers by which pair a guest sent a flow, so that the flow's
// frames come back by the same pair (virtio 1.3, section 5.1.6.5.6, automatic
// receive steering). It is a fixed table: flows that share a slot share a pair.
type flowTable struct {
	pair [flowSlots]atomic.Uint32
}

const flowSlots = 1024

// route picks the ring for the first frame of batch and how far the batch goes
// by the same ring.
func (n *NIC) route(batch []*nbl.List) (*rxRing, []*nbl.List) {
	if n.steering == nil {
		return &n.rings[0], batch
	}
	first := n.pairOf(batch[0])
	run := 1
	for run < len(batch) && n.pairOf(batch[run]) == first {
		run++
	}
	return &n.rings[first], batch[:run]
}

// pairOf is the pair for l's flow: the one that the guest uses for it, else
// pair 0; when that one is not in use, the next that is.
func (n *NIC) pairOf(l *nbl.List) int {
	want := int(n.steering.pair[l.FlowHash()%flowSlots].Load())
	for i := range n.rings {
		at := (want + i) % len(n.rings)
		if n.rings[at].usable() {
			return at
		}
	}
	return want
}

// NoteSent remembers that the guest sent these packets by pair. The sender's
// worker calls it with each batch.
func (n *NIC) NoteSent(pair int, batch []*nbl.List) {
	if n.steering == nil {
		return
	}
	for _, l := range batch {
		slot := &n.steering.pair[l.FlowHash()%flowSlots]
		if slot.Load() != uint32(pair) {
			slot.Store(uint32(pair))
		}
	}
}
