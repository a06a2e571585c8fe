package tap

import (
	"vhostnet/internal/sys"
	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/worker"
)

// queue is the receive side of one queue of the device: a Task of its worker.
type queue struct {
	u      *Uplink
	tap    *sys.TAP
	source *nbl.Source
	sender nbl.Sender
	serial nbl.Serial

	drawn [visitFrames]*nbl.List
	held  [visitFrames]*nbl.List // indicated, and not returned
	out   [visitFrames]*nbl.List // of them, those the switch is to decide on
	n     int                    // how many are held
	holds int                    // of them those that an Uplink that drains knows of
}

func newQueue(u *Uplink, t *sys.TAP) (*queue, error) {
	q := &queue{u: u, tap: t}
	var err error
	q.source, err = nbl.NewSource(nbl.SourceParameters{
		Tag: u.o.Name + " " + t.Name(), Lists: visitFrames, DataSize: frameBytes, Memory: u.memory,
		Indicate: func(batch []*nbl.List, _ nbl.IndicateFlags) { q.n = copy(q.held[:], batch) },
	})
	q.sender = nbl.NewSender(nbl.UplinkFeatures, (*uint64)(&q.serial))
	return q, err
}

// Poll carries one batch from the device to the switch (worker.Task).
func (q *queue) Poll(c *worker.Context, budget int) (busy bool) {
	if q.u.draining.Load() {
		q.forward(c)
		q.hold(q.n)
		return q.n > 0
	}
	if q.n == 0 && !q.take(min(budget, visitFrames)) {
		return false
	}
	q.forward(c)
	return true
}

// take reads frames and makes a List of each. It answers whether there were
// any.
func (q *queue) take(budget int) bool {
	if q.u.gone.Load() {
		return false
	}
	q.serial.Reserve(visitFrames)
	budget = q.source.Get(q.drawn[:budget])
	good, last := 0, 0
	for bytes := 0; last < budget && bytes < visitBytes; last++ {
		n := q.read(q.drawn[last])
		if n == 0 {
			break
		}
		bytes += n
		if reason := q.sender.WrapOwn(q.drawn[last], uint32(n)); reason != metrics.ReasonNone {
			q.u.counters.Drops.Add(reason, 1)
			_ = q.source.Put(q.drawn[last : last+1]) // it was drawn just now, as the others are
			continue
		}
		q.drawn[good] = q.drawn[last]
		good++
	}
	_ = q.source.Put(q.drawn[last:budget])
	_ = q.source.Indicate(q.drawn[:good])
	return last > 0
}

// read reads a frame; 0: there is none.
func (q *queue) read(l *nbl.List) int {
	n, err := q.tap.Read(l.Own())
	if err != nil {
		q.u.broken()
	}
	return n
}

// forward hands the switch what is here, returns the Lists that it has decided
// on, and keeps the others, in order.
func (q *queue) forward(c *worker.Context) {
	q.u.o.Switch.Forward(c, q.u.port, q.held[:q.n])
	kept, gone := 0, 0
	for _, l := range q.held[:q.n] {
		if l.Status == nbl.Busy {
			q.held[kept] = l
			kept++
		} else {
			q.out[gone] = l
			gone++
		}
	}
	_ = q.source.Return(q.out[:gone]) // they are out by this Source
	q.n = kept
}

// hold tells an Uplink that drains how many frames the queue holds.
func (q *queue) hold(n int) {
	q.u.held.Add(int64(n - q.holds))
	q.holds = n
}

// Arm has nothing to ask: a frame that comes is an edge on the descriptor, and
// the last Poll has seen the end of what there was (worker.Task).
func (q *queue) Arm() (more bool) { return q.n > 0 }

// FD is the device's descriptor (worker.Task).
func (q *queue) FD() int { return q.tap.FD() }

// end gives back what is held. No worker visits q any more.
func (q *queue) end() error {
	_ = q.source.Return(q.held[:q.n]) // they are out by this Source
	q.n = 0
	return q.source.Halt()
}
