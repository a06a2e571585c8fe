package queues

import (
	"sync/atomic"

	"vhostnet/nbl"
)

// flowTable remembers by which pair a guest sent a flow, so that the flow's
// frames come back by the same pair (virtio 1.3, section 5.1.6.5.6, automatic
// receive steering). It is a fixed table: flows that share a slot share a pair.
type flowTable struct {
	pair [flowSlots]atomic.Uint32 // pair + 1; 0: the guest has sent nothing of these flows
}

const flowSlots = 1024

// route picks the ring for the first frame of batch and how far the batch goes
// by the same ring. Frames are hashed only if there is a choice.
func (n *NIC) route(batch []*nbl.List) (*rxRing, []*nbl.List) {
	if only, ok := n.onlyPair(); ok {
		return &n.rings[only], batch
	}
	first := n.pairOf(batch[0])
	run := 1
	for run < len(batch) && n.pairOf(batch[run]) == first {
		run++
	}
	return &n.rings[first], batch[:run]
}

// onlyPair is the pair that frames go by when there is no choice: the only one
// in use, or pair 0 when none is.
func (n *NIC) onlyPair() (pair int, ok bool) {
	used, rings := 0, n.choice()
	for i := range rings {
		if !rings[i].usable() {
			continue
		}
		if used++; used > 1 {
			return 0, false
		}
		pair = i
	}
	return pair, true
}

// pairOf is the pair for l's flow: the one that the guest sends it by, any
// (but always the same) when it has sent none; when that one is not in use,
// the next that is.
func (n *NIC) pairOf(l *nbl.List) int {
	hash, rings := l.FlowHash(), n.choice()
	want := int(hash>>16) % len(rings)
	if known := n.steering.pair[hash%flowSlots].Load(); known != 0 {
		want = int(known) - 1
	}
	for i := range rings {
		at := (want + i) % len(rings)
		if rings[at].usable() {
			return at
		}
	}
	return want
}

// NoteSent remembers that the guest sent these packets by pair. The sender's
// worker calls it with each batch.
func (n *NIC) NoteSent(pair int, batch []*nbl.List) {
	if _, ok := n.onlyPair(); ok {
		return
	}
	for _, l := range batch {
		slot := &n.steering.pair[l.FlowHash()%flowSlots]
		if slot.Load() != uint32(pair)+1 {
			slot.Store(uint32(pair) + 1)
		}
	}
}
