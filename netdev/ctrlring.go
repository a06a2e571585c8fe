package netdev

import (
	"errors"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/worker"
)

const (
	visitCommands = 8        // a visit carries out at most so many commands
	maxCommand    = 16 << 10 // longest command, bytes: tables of 2,700 addresses
)

// ctrlRing is the control queue (virtio 1.3, section 5.1.6.5): a Task of its
// worker, which alone touches it except before it was added and after it was
// removed. It is always interrupt-driven: commands are rare.
type ctrlRing struct {
	dev   *Device
	index int // of the ring in the device
	q     *virtqueue.Queue
	state *control

	chains  [visitCommands]virtqueue.Chain
	command []byte // private copy of the one that is carried out
	told    bool   // the owner knows that q is broken
}

var errControlBlocked = errors.New("netdev: the call descriptor of the control queue blocked; a front-end must leave it non-blocking and not fill it")

func newCtrlRing(d *Device, index int, q *virtqueue.Queue, state *control) *ctrlRing {
	return &ctrlRing{dev: d, index: index, q: q, state: state}
}

// Poll carries out commands (worker.Task).
func (t *ctrlRing) Poll(c *worker.Context, budget int) (busy bool) {
	defer t.recoverFault(&busy)
	if t.q.Broken() != nil {
		c.Call(t.q.TakeErr())
		return false
	}
	n, err := t.q.Pop(t.chains[:min(budget, visitCommands)])
	if err != nil {
		t.broken(err)
		return true
	}
	call := false
	for i := range n {
		used := virtqueue.Used{Head: t.chains[i].Head, Len: t.answer(&t.chains[i])}
		call = t.q.Push([]virtqueue.Used{used}) || call
	}
	if call && !c.Call(t.q.Call()) {
		t.broken(errControlBlocked)
	}
	return n > 0
}

// answer carries out the command in a chain and says how many bytes of the
// chain were written: the acknowledgement, or nothing when there is no room for
// one, and then nothing was done.
func (t *ctrlRing) answer(chain *virtqueue.Chain) uint32 {
	t.dev.commands.Add(1)
	if chain.Writable == 0 {
		t.dev.refused.Add(1)
		return 0
	}
	ack := virtio.CtrlOK
	if !t.fetch(chain) || t.state.execute(t.command) != nil {
		ack = virtio.CtrlErr
		t.dev.refused.Add(1)
	}
	chain.WritableBlocks()[0].Store8(0, ack)
	return 1
}

// fetch copies the command out of guest memory, once.
func (t *ctrlRing) fetch(chain *virtqueue.Chain) bool {
	if chain.Readable > maxCommand {
		return false
	}
	if cap(t.command) < int(chain.Readable) {
		t.command = make([]byte, chain.Readable)
	}
	t.command = t.command[:chain.Readable]
	at := uint64(0)
	for _, b := range chain.ReadableBlocks() {
		b.CopyTo(t.command[at:at+b.Len()], 0)
		at += b.Len()
	}
	return true
}

// Arm asks the driver for a kick (worker.Task).
func (t *ctrlRing) Arm() (more bool) {
	defer t.recoverFault(&more)
	if t.q.Broken() != nil {
		return false
	}
	t.q.Kick().Drain()
	return t.q.Arm()
}

// FD is the kick (worker.Task).
func (t *ctrlRing) FD() int { return t.q.Kick().FD() }

// recoverFault ends a visit in which guest memory was gone.
func (t *ctrlRing) recoverFault(busy *bool) {
	p := recover()
	if p == nil {
		return
	}
	fault := sharedmem.AsFault(p)
	if fault == nil || fault.Map != t.q.Mem() {
		panic(p)
	}
	t.broken(fault)
	*busy = true
}

func (t *ctrlRing) queue() *virtqueue.Queue { return t.q }

// held: a visit ends what it begins.
func (t *ctrlRing) held() int { return 0 }

func (t *ctrlRing) finish(*worker.Context, metrics.Reason) {}

// broken ends the ring and tells the owner once; the next visit tells the
// front-end.
func (t *ctrlRing) broken(err error) {
	t.q.Break(err)
	if !t.told {
		t.told = true
		t.dev.ringBroken(t.index, err)
	}
}
