package queues

import (
	"errors"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

// What one hold of a receive ring's lock may take. A frame may need up to
// burstChains buffers; one that needs more finds them too small.
const (
	burstFrames = 64
	burstBytes  = 256 << 10
	burstChains = 1024
)

// errCallBlocked ends a ring whose call descriptor blocked its writer.
var errCallBlocked = errors.New("queues: the call descriptor blocked; a front-end must leave it non-blocking and not fill it")

// errReadable ends a receive ring with a buffer that the device is to read.
var errReadable = errors.New("queues: a receive chain has device-readable descriptors; receive buffers are device-writable (virtio 1.3, 5.1.6.3)")

// burst is a worker's scratch for one hold of a receive ring's lock. The first
// frames of a batch, straight of them, go as they are into one buffer each;
// those from the first on that does not are units.
type burst struct {
	straight int
	units    [burstFrames]unit
	n        int // units gathered
	placed   int // units that have their buffers
	whole    int // frames of the batch that are done when all units are

	slot *progress // of the packet that is cut off, if there is one
	now  int64     // ns of worker.Context.Now

	chains [burstChains]virtqueue.Chain
	used   [burstChains]virtqueue.Used
	popped int  // chains taken from the ring
	filled int  // of them, those that frames were given
	full   bool // the ring has more of them than the burst has room for

	receive [burstFrames]*nbl.List // where frames are copied to, the straight ones first: MDLs over their chains
	lists   int                    // how many were drawn
	mdls    []nbl.MDL              // MDLs of units that have several chains
	bytes   uint64                 // frame bytes of all that is placed
	lines   sharedmem.Lines        // asked for ahead
}

// unit is one frame on its way into the ring: a frame of the batch, or a
// segment of one.
type unit struct {
	list    *nbl.List // what to copy
	frame   int       // index in the batch
	segment int       // which segment of that frame
	reason  metrics.Reason
	first   int // of its chains
	count   int
	whole   bool // the first MDL holds all of it
}

var bursts = worker.NewSlot(func() *burst { return &burst{mdls: make([]nbl.MDL, 0, 2*burstChains)} })

func (b *burst) reset() {
	b.straight, b.n, b.placed, b.whole, b.slot = 0, 0, 0, 0, nil
	b.popped, b.filled, b.full = 0, 0, false
	b.lists, b.bytes = 0, 0
	b.mdls = b.mdls[:0]
}

// gather turns what follows the straight frames of batch into units, as many as
// a burst may hold. Frames that this receiver cannot take as they are become
// complete ones.
func (r *rxRing) gather(b *burst, soft *nbl.Softener, batch []*nbl.List) {
	soft.StartBurst()
	bytes := b.bytes
	for i := b.straight; i < len(batch); i++ {
		if b.straight+b.n == burstFrames || bytes >= burstBytes {
			return
		}
		l := batch[i]
		bytes += uint64(l.Length)
		reason := r.admits(l)
		if reason != metrics.ReasonNone || !nbl.Needed(l, r.features) {
			b.units[b.n] = unit{list: l, frame: i, reason: reason}
			b.n++
		} else if !r.gatherSoft(b, soft, l, i) {
			return
		}
		b.whole = i + 1
	}
}

// admits says why this frame may not enter: the driver does not want it, or by
// the delivery rule: a filter's frame needs its queue running, every other one
// queue 0.
func (r *rxRing) admits(l *nbl.List) metrics.Reason {
	if reason := r.nic.unwanted(l); reason != metrics.ReasonNone {
		return reason
	}
	if l.QueueID != 0 {
		if q := r.nic.queue.Load(); q != nil && q.id == l.QueueID {
			if !q.running.Load() || r.nic.adapter.paused.Load() {
				return metrics.ReasonNotRunning
			}
			return r.fitsMTU(l)
		}
	}
	if !r.nic.adapter.queue0.Load() {
		return metrics.ReasonNotRunning
	}
	return r.fitsMTU(l)
}

// fitsMTU refuses what the driver was promised not to get: a frame longer than
// its MTU that is not to be segmented (virtio 1.3, section 5.1.4.1).
func (r *rxRing) fitsMTU(l *nbl.List) metrics.Reason {
	if r.maxPlain != 0 && l.Length > r.maxPlain && l.Offload.GSOType == virtio.GSONone {
		return metrics.ReasonMTU
	}
	return metrics.ReasonNone
}

// gatherSoft adds the segments of a frame that are still to be delivered and
// answers whether all of them found room in the burst.
func (r *rxRing) gatherSoft(b *burst, soft *nbl.Softener, l *nbl.List, frame int) bool {
	segments, ok := soft.Soften(l)
	if !ok {
		return false
	}
	for s := r.halfway.of(l.Serial(), b.now); s < len(segments); s++ {
		if b.straight+b.n == burstFrames {
			return false
		}
		b.units[b.n] = unit{list: &segments[s], frame: frame, segment: s, reason: r.fitsMTU(&segments[s])}
		b.n++
	}
	return true
}

// place gives the frames of batch the buffers they need, in the order of the
// avail ring, until buffers run out. An error means that the ring is broken.
func (r *rxRing) place(b *burst, soft *nbl.Softener, batch []*nbl.List) error {
	b.lists = r.pool.Get(b.receive[:min(len(batch), burstFrames)])
	if err := r.placeStraight(b, batch); err != nil || b.straight == len(batch) {
		return err
	}
	r.gather(b, soft, batch)
	b.lists += r.pool.Get(b.receive[b.lists:max(b.lists, b.straight+b.n)])
	for ; b.placed < b.n; b.placed++ {
		u := &b.units[b.placed]
		if u.reason == metrics.ReasonNone {
			ok, err := r.reserve(b, u)
			if err != nil || !ok {
				return err
			}
		}
		if u.reason == metrics.ReasonNone {
			b.bind(u, r.headerLen)
		}
	}
	return nil
}

// reserve finds the chains for a unit. It answers false when there are not
// enough now; a frame that no number of chains can hold gets a reason.
func (r *rxRing) reserve(b *burst, u *unit) (ok bool, err error) {
	need := uint64(r.headerLen) + uint64(u.list.Length)
	limit := 1
	if r.mergeable {
		limit = min(burstChains, r.q.Size())
	}
	u.first, u.count = b.filled, 0
	for room := uint64(0); room < need; u.count++ {
		at := b.filled + u.count
		if u.count == limit {
			u.reason = metrics.ReasonBuffersSmall
			return true, nil
		}
		if at == b.popped {
			more, err := r.take(b, need-room)
			if err == nil && b.full && b.filled == 0 {
				u.reason = metrics.ReasonBuffersSmall
				return true, nil
			}
			if err != nil || !more {
				return false, err
			}
		}
		if b.chains[at].Readable != 0 {
			return false, errReadable
		}
		room += uint64(b.chains[at].Writable)
	}
	b.filled += u.count
	return true, nil
}

// take pops chains for the units that have none yet: one for each, or as many
// like the last one as hold the missing bytes of the first. What it leaves in
// the ring for want of room, here or in the Queue's memory for long chains, is
// there for the next burst.
func (r *rxRing) take(b *burst, missing uint64) (more bool, err error) {
	want := uint64(b.n - b.placed)
	if b.popped > 0 {
		size := uint64(b.chains[b.popped-1].Writable)
		want = max(want, missing/max(size, 1)+1)
	}
	want = min(want, uint64(burstChains-b.popped))
	dst := b.chains[b.popped : b.popped+int(want)]
	n, err := r.q.Pop(dst)
	b.full = false
	if n == 0 && err == nil && b.popped > 0 {
		n, err = r.takeLate(b, dst)
	}
	b.popped += n
	return n > 0, err
}

// takeLate tells an empty ring from a full burst: the ring has chains now, and
// still none can be taken. They may just have come, so it has to try.
func (r *rxRing) takeLate(b *burst, dst []virtqueue.Chain) (n int, err error) {
	ready, err := r.q.Ready()
	if ready == 0 || err != nil {
		return 0, err
	}
	n, err = r.q.Pop(dst)
	b.full = n == 0
	return n, err
}

// bind lays a unit's receive NBL over its chains and notes what of them will
// be used: all of each but the last.
func (b *burst) bind(u *unit, headerLen uint32) {
	l := b.receive[b.straight+b.placed]
	l.Offset, l.Length = headerLen, u.list.Length
	left := headerLen + u.list.Length
	start := len(b.mdls)
	for i := u.first; i < u.first+u.count; i++ {
		c := &b.chains[i]
		b.mdls = append(b.mdls, c.WritableBlocks()...)
		n := min(left, c.Writable)
		b.used[i] = virtqueue.Used{Head: c.Head, Len: n}
		left -= n
	}
	l.MDLs = b.mdls[start:]
	u.whole = l.MDLs[0].Len() >= uint64(headerLen+l.Length)
	b.bytes += uint64(l.Length)
	b.lines.Add(l.MDLs[0])
}

// firstBytes are those of a buffer that are asked for ahead: virtio_net_hdr and
// the head of the frame.
const firstBytes = virtio.MaxNetHeaderLen + 64

// copyFrames writes virtio_net_hdr and makes the copy of every placed frame. The
// lines of all receive buffers are asked for first, so that they come while the
// others are written. That of a header is not when those of the burst before
// were there already: it would be taken from the driver, who shares it. A unit's
// header is always written.
func (r *rxRing) copyFrames(b *burst, batch []*nbl.List) {
	if b.placed > 0 {
		r.firstByte = 0
	}
	b.lines.WillWrite(r.firstByte, firstBytes-1)
	r.firstByte = 0
	if nbl.CopyFrames(b.receive[:b.straight], batch[:b.straight], r.headerLen) == 0 {
		r.firstByte = uint64(r.headerLen)
	}
	for i := range b.units[:b.placed] {
		u, to := &b.units[i], b.receive[b.straight+i]
		switch {
		case u.reason != metrics.ReasonNone:
		case u.whole:
			nbl.PutRxHeader(to.MDLs[0], u.list, uint16(u.count), r.headerLen)
			nbl.CopyFrame(&to.Buffer, u.list)
		default:
			r.copyScattered(to, u)
		}
	}
}

// copyScattered writes header and frame over as many MDLs as there are; the
// header itself may lie across several.
func (r *rxRing) copyScattered(to *nbl.List, u *unit) {
	h := nbl.RxHeader(u.list, uint16(u.count))
	var b [virtio.MaxNetHeaderLen]byte
	h.Encode(b[:r.headerLen])
	cursor := nbl.NewCursor(to.MDLs)
	cursor.Write(b[:r.headerLen])
	nbl.WriteFrame(&cursor, u.list)
}

// publish gives the filled chains to the driver in one step and the others
// back to the ring.
func (r *rxRing) publish(b *burst) (call bool) {
	if unused := b.popped - b.filled; unused > 0 {
		r.q.Unpop(unused)
		b.popped = b.filled
	}
	if b.filled > 0 {
		call = r.q.Push(b.used[:b.filled])
	}
	b.popped, b.filled = 0, 0
	return call
}

// settle returns the receive NBLs, counts, and answers how many frames of the
// batch are done and whether a part of the next one is.
func (r *rxRing) settle(b *burst, batch []*nbl.List) (accepted int, part bool) {
	r.pool.Put(b.receive[:b.lists])
	b.lists = 0
	r.count(b, batch)
	accepted = b.whole
	if b.placed < b.n {
		accepted = b.units[b.placed].frame
	}
	if b.n > 0 {
		part = r.keepProgress(b, batch, accepted)
	}
	return accepted, part
}

// count adds what became of what was placed to the counters. A softened packet
// counts with its first frame.
func (r *rxRing) count(b *burst, batch []*nbl.List) {
	delivered, softened := b.straight, 0
	for i := range b.units[:b.placed] {
		u := &b.units[i]
		if u.segment == 0 && u.list != batch[u.frame] {
			softened++
		}
		if u.reason != metrics.ReasonNone {
			r.nic.counters.Drops.Add(u.reason, 1)
		} else {
			delivered++
		}
	}
	if delivered > 0 {
		r.nic.counters.RxFrames.Add(uint64(delivered))
		r.nic.counters.RxBytes.Add(b.bytes)
	}
	if softened > 0 {
		r.nic.counters.SoftOffload.Add(uint64(softened))
	}
}

// undo gives everything back that was taken and not published.
func (r *rxRing) undo(b *burst) {
	r.q.Unpop(b.popped)
	r.pool.Put(b.receive[:b.lists])
	b.popped, b.filled, b.lists = 0, 0, 0
}
