package main

import (
	"sync"

	"vhostnet/sharedmem"
	"vhostnet/worker"
)

const (
	ports     = 2
	batch     = 128
	headerLen = 12 // of virtio_net_hdr
	ahead     = 64 // bytes of a frame that are asked for ahead
)

// wire joins the rings of two ports. The lock is taken once for a batch, by the
// worker, and when a ring comes or goes.
type wire struct {
	frames bool // are copied

	mu    sync.Mutex
	rings [ports][ringsOfPort]*ring
}

// set puts r, or nothing, in a ring's place and answers what was there. Nobody uses that
// any more.
func (w *wire) set(port, i int, r *ring) (old *ring) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old, w.rings[port][i] = w.rings[port][i], r
	return old
}

// lane carries what one port sends to the other: a Task of the worker.
type lane struct {
	wire     *wire
	from, to int

	src, dst buffers
	lengths  [batch]uint32
	lines    sharedmem.Lines
}

// Poll carries one batch (worker.Task).
func (l *lane) Poll(_ *worker.Context, _ int) (busy bool) {
	l.wire.mu.Lock()
	defer l.wire.mu.Unlock()
	from, to := l.wire.rings[l.from][tx], l.wire.rings[l.to][rx]
	if from == nil || to == nil {
		return false
	}
	n := from.take(&l.src, batch)
	if n == 0 {
		return false
	}
	n = to.take(&l.dst, n)
	if l.wire.frames {
		l.copy(n)
	}
	for i := range n {
		l.lengths[i] = uint32(l.src.block[i].Len())
	}
	to.give(&l.dst, n, l.lengths[:n])
	from.give(&l.src, n, nil)
	return true
}

// copy copies n frames. A driver finds in a buffer the header of the last frame
// that was in it, which is that of this one.
func (l *lane) copy(n int) {
	for i := range n {
		l.lines.Add(l.src.block[i])
	}
	l.lines.WillRead(headerLen, headerLen+ahead-1)
	for i := range n {
		l.lines.Add(l.dst.block[i])
	}
	l.lines.WillWrite(headerLen, headerLen+ahead-1)
	for i := range n {
		src, dst := l.src.block[i], l.dst.block[i]
		if dst.Load64(0) != 0 || dst.Load32(8) != 1<<16 { // num_buffers is 1
			dst.Store64(0, 0)
			dst.Store32(8, 1<<16)
		}
		sharedmem.CopyRange(dst, headerLen, src, headerLen, src.Len()-headerLen)
	}
}

// Arm is never asked: the worker never sleeps (worker.Task).
func (l *lane) Arm() (more bool) { return true }

// FD is none (worker.Task).
func (l *lane) FD() int { return -1 }
