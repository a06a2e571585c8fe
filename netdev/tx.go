package netdev

import (
	"context"
	"errors"
	"sync/atomic"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

// A visit takes at most this many chains and, beyond the first, this many
// bytes.
const (
	visitChains = 64
	visitBytes  = 1 << 20
)

// txRing is the transmit direction of a queue pair: a Task of its worker. Only
// that worker touches it, except before it was added and after it was removed.
type txRing struct {
	dev    *Device
	index  int // of the ring in the device
	q      *virtqueue.Queue
	sender nbl.Sender
	serial uint64
	pool   *nbl.Pool
	ctx    context.Context // of the commands to its worker

	chains [visitChains]virtqueue.Chain
	lists  [visitChains]*nbl.List // one per chain
	used   [visitChains]virtqueue.Used
	out    [visitChains]*nbl.List // those the switch is to decide on
	n      int                    // chains that were popped and not pushed back
	told   bool                   // the owner knows that q is broken
}

var (
	errWritable    = errors.New("netdev: a transmit chain has device-writable descriptors; frames are device-readable (virtio 1.3, 5.1.6.2)")
	errCallBlocked = errors.New("netdev: the call descriptor blocked; a front-end must leave it non-blocking and not fill it")
)

// serials keeps the packet names of all transmit rings apart: each ring counts
// in its own range of 2^40.
var serials atomic.Uint64

func newTxRing(d *Device, index int, q *virtqueue.Queue) *txRing {
	pool, err := nbl.NewPool(d.o.Name+" tx", visitChains)
	if err != nil {
		panic(err) // visitChains is a constant that NewPool takes
	}
	t := &txRing{dev: d, index: index, q: q, pool: pool, ctx: context.Background()}
	t.serial = serials.Add(1) << 40
	t.sender = nbl.NewSender(d.accepted(), &t.serial)
	return t
}

// Poll carries one batch from the guest to the switch and gives the chains
// back that are done with (worker.Task).
func (t *txRing) Poll(c *worker.Context, budget int) (busy bool) {
	defer t.recoverFault(&busy)
	if t.q.Broken() != nil {
		return false
	}
	if t.n == 0 && !t.take(min(budget, visitChains)) {
		return false
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
	if n == 0 {
		return false
	}
	n = t.limitBytes(n)
	t.pool.Get(t.lists[:n])
	t.n = n
	for i := range n {
		if t.chains[i].Writable != 0 {
			t.abandon()
			t.broken(errWritable)
			return false
		}
		if reason := t.sender.Wrap(t.lists[i], &t.chains[i]); reason != metrics.ReasonNone {
			t.dev.counters.Drops.Add(reason, 1)
		}
	}
	if t.dev.o.Pairs > 1 {
		t.dev.nic.NoteSent(t.index/2, t.lists[:n])
	}
	return true
}

// limitBytes gives chains back to the ring that are beyond the visit's bytes.
func (t *txRing) limitBytes(n int) int {
	bytes := 0
	for i := range n {
		bytes += int(t.chains[i].Readable)
		if bytes > visitBytes && i > 0 {
			t.q.Unpop(n - i)
			return i
		}
	}
	return n
}

// forward hands the switch what it has not decided on yet.
func (t *txRing) forward(c *worker.Context) {
	n := 0
	for _, l := range t.lists[:t.n] {
		if l.Status == nbl.Pending || l.Status == nbl.Busy {
			t.out[n] = l
			n++
		}
	}
	if n > 0 {
		t.dev.o.Switch.Forward(c, t.dev.port, t.out[:n])
	}
}

// complete pushes the chains up to the first whose frame is still busy, in the
// order they came, and keeps the others.
func (t *txRing) complete(c *worker.Context) {
	done := 0
	for done < t.n && t.lists[done].Status != nbl.Busy {
		t.used[done] = virtqueue.Used{Head: t.chains[done].Head}
		done++
	}
	if done == 0 {
		return
	}
	call := t.q.Push(t.used[:done])
	t.pool.Put(t.lists[:done])
	t.n = copy(t.lists[:], t.lists[done:t.n])
	if t.n > 0 {
		copy(t.chains[:], t.chains[done:done+t.n])
		t.rebase()
	}
	if call && !c.Call(t.q.Call()) {
		t.broken(errCallBlocked)
	}
}

// rebase points the kept Lists at their chains, which have moved.
func (t *txRing) rebase() {
	for i, l := range t.lists[:t.n] {
		l.MDLs = t.chains[i].ReadableBlocks()
	}
}

// Arm asks the guest for a kick (worker.Task).
func (t *txRing) Arm() (more bool) {
	defer t.recoverFault(&more)
	if t.q.Broken() != nil {
		return false
	}
	return t.q.Arm()
}

// FD is the kick (worker.Task).
func (t *txRing) FD() int { return t.q.Kick().FD() }

// finish drops what is still held and publishes it.
func (t *txRing) finish(c *worker.Context) {
	busy := false
	defer t.recoverFault(&busy)
	for _, l := range t.lists[:t.n] {
		if l.Status == nbl.Pending || l.Status == nbl.Busy {
			l.Drop(metrics.ReasonStopped)
			t.dev.counters.Drops.Add(metrics.ReasonStopped, 1)
		}
	}
	if t.q.Broken() == nil {
		t.complete(c)
	}
	t.abandon()
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
	t.dev.counters.Drops.Add(metrics.ReasonFault, uint64(t.n))
	t.abandon()
	t.broken(fault)
	*busy = false
}

// abandon forgets the chains that are held; the ring keeps them as not popped.
func (t *txRing) abandon() {
	if t.n == 0 {
		return
	}
	t.pool.Put(t.lists[:t.n])
	t.q.Unpop(t.n)
	t.n = 0
}

// broken ends the ring and tells the owner once.
func (t *txRing) broken(err error) {
	t.q.Break(err)
	if !t.told {
		t.told = true
		t.dev.rings[t.index].set(ringBroken, true)
		t.dev.o.OnBroken(t.index, err)
	}
}
