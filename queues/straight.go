package queues

import (
	"math"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/virtqueue"
)

// gate says which frames may enter a ring without being looked at one by one:
// those that are complete and go by one of two queues. A way that is closed, or
// on which every frame is to be looked at, is noWay.
type gate struct{ zero, own QueueID }

const noWay QueueID = math.MaxUint32

// gate is the delivery rule as far as it is the same for the frames of a burst.
func (r *rxRing) gate() gate {
	g := gate{noWay, noWay}
	if r.maxPlain != 0 || r.nic.modes.Load() != nil {
		return g
	}
	if r.nic.adapter.queue0.Load() {
		g.zero = 0
	}
	if own := r.nic.filtered(); own != 0 {
		g.own = own
	}
	return g
}

// opens reports whether l may enter; when not, it is to be looked at.
func (g gate) opens(l *nbl.List) bool {
	return l.Offload.Flags == 0 && (l.QueueID == g.zero || l.QueueID == g.own)
}

// asItIs is how many frames at the head of batch may enter and need no change, of
// those that one burst may hold.
func (r *rxRing) asItIs(batch []*nbl.List) int {
	gate, bytes := r.gate(), uint64(0)
	batch = batch[:min(len(batch), burstFrames)]
	for i, l := range batch {
		if bytes >= burstBytes || !gate.opens(l) && (r.admits(l) != metrics.ReasonNone || nbl.Needed(l, r.features)) {
			return i
		}
		bytes += uint64(l.Length)
	}
	return len(batch)
}

// placeStraight gives each frame at the head of batch the next buffer of the
// ring, as long as it goes in as it is and the buffer is one piece that holds
// it: most frames. An error means that the ring is broken.
func (r *rxRing) placeStraight(b *burst, batch []*nbl.List) error {
	n := r.asItIs(batch)
	if n == 0 {
		return nil
	}
	popped, err := r.q.Pop(b.chains[:n])
	if err != nil {
		return err
	}
	b.popped = popped
	n, b.bytes = b.pair(b.receive[:popped], batch[:popped], r.headerLen)
	b.filled, b.straight, b.whole = n, n, n
	return nil
}

// pair lays each of receive over the next chain and notes what will be used of
// it for the frame of batch at the same place, until a chain is none of one
// piece that holds it. It answers how far it got, and the bytes of the frames.
func (b *burst) pair(receive, batch []*nbl.List, headerLen uint32) (n int, bytes uint64) {
	chains, used := b.chains[:len(batch)], b.used[:len(batch)]
	receive = receive[:len(batch)]
	for i, l := range batch {
		c, to, length := &chains[i], receive[i], l.Length
		mdls, single := c.Single() // one that is readable has no room
		if !single || c.Writable < headerLen+length {
			return i, bytes
		}
		to.MDLs, to.Offset, to.Length = mdls, headerLen, length
		used[i] = virtqueue.Used{Head: c.Head, Len: headerLen + length}
		b.lines.Add(mdls[0])
		bytes += uint64(length)
	}
	return len(batch), bytes
}
