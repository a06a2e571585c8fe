package netdev

import (
	"errors"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

// A visit takes at most this many chains and, beyond the first, this many
// bytes.
const (
	visitChains = 128
	visitBytes  = 1 << 20
)

// txRing is the transmit direction of a queue pair: a Task of its worker. Only
// that worker touches it, except before it was added and after it was removed.
type txRing struct {
	dev    *Device
	index  int // of the ring in the device
	q      *virtqueue.Queue
	sender nbl.Sender
	serial *nbl.Serial
	pool   *nbl.Pool // of Lists that are Pending, so that a stale status decides nothing

	chains [visitChains]virtqueue.Chain
	lists  [visitChains]*nbl.List // one per chain
	heads  sharedmem.Lines        // the first buffers of chains that are about to be wrapped
	n      int                    // chains that were popped and not pushed back
	holds  int                    // of them those that a device that drains knows of
	told   bool                   // the owner knows that q is broken

	givenUp bool // what is taken is dropped, see givenup.go; changed while no worker polls the ring
}

var (
	errWritable    = errors.New("netdev: a transmit chain has device-writable descriptors; frames are device-readable (virtio 1.3, 5.1.6.2)")
	errCallBlocked = errors.New("netdev: the call descriptor blocked; a front-end must leave it non-blocking and not fill it")
)

func newTxRing(d *Device, index int, q *virtqueue.Queue) *txRing {
	t := &txRing{dev: d, index: index, q: q, pool: newTxPool(d.o.Name), serial: &d.rings[index].serial}
	t.sender = nbl.NewSender(d.accepted(), (*uint64)(t.serial))
	return t
}

// Poll carries one batch from the guest to the switch and gives the chains
// back that are done with (worker.Task). When it finds the ring broken it asks
// for another visit, which tells the front-end.
func (t *txRing) Poll(c *worker.Context, budget int) (busy bool) {
	defer t.recoverFault(&busy)
	if t.q.Broken() != nil {
		c.Call(t.q.TakeErr())
		return false
	}
	if t.dev.draining.Load() {
		return t.pour(c)
	}
	if t.givenUp {
		return t.discard(c, min(budget, visitChains))
	}
	if t.n == 0 && !t.take(min(budget, visitChains)) {
		return t.q.Broken() != nil
	}
	t.forward(c)
	t.complete(c)
	return true
}

// take pops chains and wraps each as a List.
func (t *txRing) take(budget int) bool {
	n, err := t.q.Pop(t.chains[:budget])
	if err != nil {
		t.broken(err)
		return false
	}
	if n = t.limit(n); n == 0 {
		return false
	}
	t.serial.Reserve(visitChains)
	t.pool.Get(t.lists[:n])
	t.n = n
	t.sender.Ahead(&t.heads)
	t.sender.WrapAll(t.lists[:n], t.chains[:n], &t.dev.counters.Drops)
	if t.dev.o.Pairs > 1 {
		t.dev.nic.NoteSent(t.index/2, t.lists[:n])
	}
	return true
}

// limit answers how many of n chains are for this visit, notes their heads, and
// gives the others back to the ring: those beyond the visit's bytes, and those from
// one on that is no frame. That one ends the ring when it is the first.
func (t *txRing) limit(n int) int {
	bytes, chains := 0, t.chains[:n]
	for i := range chains {
		c := &chains[i]
		bytes += int(c.Readable)
		if c.Writable == 0 && (bytes <= visitBytes || i == 0) {
			t.heads.Add(c.First())
			continue
		}
		t.q.Unpop(n - i)
		if i == 0 {
			t.broken(errWritable)
		}
		return i
	}
	return n
}

// forward hands the switch what is here; it leaves alone what is decided.
func (t *txRing) forward(c *worker.Context) {
	t.dev.o.Switch.Forward(c, t.dev.port, t.lists[:t.n])
}

// undecided reports whether the switch has still to say what becomes of l.
func undecided(l *nbl.List) bool { return l.Status == nbl.Pending || l.Status == nbl.Busy }

// complete pushes the chains up to the first whose frame is still busy, in the
// order they came, and keeps the others.
func (t *txRing) complete(c *worker.Context) {
	done := 0
	for _, l := range t.lists[:t.n] {
		if l.Status == nbl.Busy {
			break
		}
		done++
	}
	if done == 0 {
		return
	}
	call := t.q.PushRead(done)
	t.putBack(done)
	t.n = copy(t.lists[:], t.lists[done:t.n])
	if t.n > 0 {
		copy(t.chains[:], t.chains[done:done+t.n])
		t.rebase()
	}
	if call && !c.Call(t.q.Call()) {
		t.broken(errCallBlocked)
	}
}

// putBack returns the first n Lists to the pool.
func (t *txRing) putBack(n int) {
	for _, l := range t.lists[:n] {
		l.Status = nbl.Pending
	}
	t.pool.Put(t.lists[:n])
}

// rebase points the kept Lists at their chains, which have moved.
func (t *txRing) rebase() {
	for i, l := range t.lists[:t.n] {
		l.MDLs = t.chains[i].ReadableBlocks()
	}
}

// Arm asks the guest for a kick (worker.Task). Kicks that came before are taken
// first: a pipe would run full of them.
func (t *txRing) Arm() (more bool) {
	defer t.recoverFault(&more)
	if t.q.Broken() != nil {
		return false
	}
	t.q.Kick().Drain()
	if t.dev.draining.Load() {
		return t.n > 0
	}
	return t.q.Arm()
}

// FD is the kick (worker.Task).
func (t *txRing) FD() int { return t.q.Kick().FD() }

// Arrivals is kept by the device, for the task that follows this one
// (worker.Learner).
func (t *txRing) Arrivals() *worker.Arrivals { return &t.dev.rings[t.index].arrivals }

func (t *txRing) queue() *virtqueue.Queue { return t.q }

func (t *txRing) held() int { return t.n }

// finish drops what is still held for reason, publishes it and makes the call
// for it. Without c, the worker having ended, the drop is all.
func (t *txRing) finish(c *worker.Context, reason metrics.Reason) {
	busy := false
	defer t.recoverFault(&busy)
	t.drop(reason)
	if c != nil && t.q.Broken() == nil {
		t.complete(c)
	}
	t.abandon()
}

// drop counts what the switch has not decided on as lost for reason.
func (t *txRing) drop(reason metrics.Reason) {
	n := uint64(0)
	for _, l := range t.lists[:t.n] {
		if undecided(l) {
			l.Drop(reason)
			n++
		}
	}
	t.dev.counters.Drops.Add(reason, n)
}

// recoverFault ends a visit in which guest memory was gone. A receiver's
// memory is the NIC's to settle, so what comes here is the sender's own.
func (t *txRing) recoverFault(busy *bool) {
	p := recover()
	if p == nil {
		return
	}
	fault := sharedmem.AsFault(p)
	if fault == nil || fault.Map != t.q.Mem() {
		panic(p)
	}
	t.drop(metrics.ReasonFault)
	t.abandon()
	t.broken(fault)
	*busy = true
}

// abandon forgets the chains that are held; the ring keeps them as not popped.
func (t *txRing) abandon() {
	t.hold(0)
	if t.n == 0 {
		return
	}
	t.putBack(t.n)
	t.q.Unpop(t.n)
	t.n = 0
}

// broken ends the ring and tells the owner once; the next visit tells the
// front-end.
func (t *txRing) broken(err error) {
	t.q.Break(err)
	if !t.told {
		t.told = true
		t.dev.ringBroken(t.index, err)
	}
}
