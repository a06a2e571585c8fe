package queues

import (
	"errors"
	"fmt"
)

// Dynamic VMQ: all queues live on one home worker, which alone is awake while
// there is little to do. When a worker's load passes a threshold one of its
// queues moves to the least loaded one; when the home worker has room again a
// queue comes back.
//
// Load is counted, not timed: what the NICs' guests have sent since the last
// Step, in frames and in bytes, as copying a frame costs its sender's worker.
// Whoever owns the Balancer decides how often it steps; the packet's way knows
// nothing of it.

// BalancerOptions say when queues move. Loads are those of one interval between
// two Steps: frames plus bytes/LoadBytes.
type BalancerOptions struct {
	Home   int    // index of the home worker
	Spread uint64 // a worker with more than this gives a queue away
	Fold   uint64 // a queue comes home when the home worker has at most this with it; less than Spread
}

// LoadBytes is how many bytes cost about what another frame costs.
const LoadBytes = 512

// Balancer moves the queues of an Adapter between workers by their load. One
// goroutine at a time may use it.
type Balancer struct {
	a    *Adapter
	o    BalancerOptions
	last map[*NIC]uint64 // what each NIC had sent at the last Step
}

// QueueMove is what a Step has done.
type QueueMove struct {
	Queue    QueueID
	From, To int
}

// NewBalancer makes a Balancer that has seen nothing yet: the first Step counts
// from now on.
func (a *Adapter) NewBalancer(o BalancerOptions) (*Balancer, error) {
	if o.Home < 0 || o.Home >= a.workers {
		return nil, fmt.Errorf("queues: home worker %d; there are %d, the first is 0", o.Home, a.workers)
	}
	if o.Spread == 0 || o.Fold >= o.Spread {
		return nil, fmt.Errorf("queues: balancer that spreads above a load of %d and folds back below %d; the former must be more", o.Spread, o.Fold)
	}
	b := &Balancer{a: a, o: o, last: map[*NIC]uint64{}}
	b.measure()
	return b, nil
}

// loaded is a queue with its load of the last interval.
type loaded struct {
	q    *Queue
	p    Placement
	at   int // its worker
	load uint64
}

// measure is the load of each queue that may be moved, in no order, and of all
// workers. A queue whose Affinity was chosen counts, but stays.
func (b *Balancer) measure() (queues []loaded, workers []uint64) {
	a := b.a
	a.mu.Lock()
	defer a.mu.Unlock()
	workers = make([]uint64, a.workers)
	next := map[*NIC]uint64{}
	for _, q := range a.queues {
		nic, p := q.params.NIC, q.params.Placement
		if p == nil || nic.queue.Load() != q {
			continue
		}
		sent := nic.counters.TxFrames.Value() + nic.counters.TxBytes.Value()/LoadBytes
		next[nic] = sent
		before, known := b.last[nic]
		if !known {
			before = sent
		}
		l := loaded{q: q, p: p, at: p.Worker(), load: sent - before}
		workers[l.at] += l.load
		if q.params.Affinity == 0 && !q.moving {
			queues = append(queues, l)
		}
	}
	b.last = next
	return queues, workers
}

// Step looks at what was sent since the last Step and moves queues: one away
// from each worker that has too much, else home what the home worker has room
// for. It waits for the workers that are concerned. A queue that cannot move is
// named in the error and stays.
func (b *Balancer) Step() (moves []QueueMove, err error) {
	queues, workers := b.measure()
	moves = b.plan(queues, workers)
	var errs []error
	done := moves[:0]
	for _, m := range moves {
		if err := b.move(m); err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, m)
	}
	return done, errors.Join(errs...)
}

// plan chooses the moves.
func (b *Balancer) plan(queues []loaded, workers []uint64) (moves []QueueMove) {
	for w := range workers {
		if workers[w] <= b.o.Spread {
			continue
		}
		to := lightest(workers)
		if l := heaviest(queues, w, workers[w]-workers[to]); l != nil {
			moves = append(moves, b.assign(l, to, workers))
		}
	}
	if len(moves) > 0 {
		return moves
	}
	for i := range queues {
		if l := &queues[i]; l.at != b.o.Home && workers[b.o.Home]+l.load <= b.o.Fold {
			moves = append(moves, b.assign(l, b.o.Home, workers))
		}
	}
	return moves
}

// assign notes that a queue moves.
func (b *Balancer) assign(l *loaded, to int, workers []uint64) QueueMove {
	m := QueueMove{Queue: l.q.id, From: l.at, To: to}
	workers[l.at] -= l.load
	workers[to] += l.load
	l.at = to
	return m
}

func lightest(workers []uint64) int {
	best := 0
	for i, load := range workers {
		if load < workers[best] {
			best = i
		}
	}
	return best
}

// heaviest is the queue with the greatest load on worker w that makes things
// better elsewhere: its load is less than the difference. nil: there is none.
func heaviest(queues []loaded, w int, difference uint64) *loaded {
	var best *loaded
	for i := range queues {
		l := &queues[i]
		if l.at == w && l.load > 0 && l.load < difference && (best == nil || l.load > best.load || l.load == best.load && l.q.id < best.q.id) {
			best = l
		}
	}
	return best
}

// move moves a queue unless it has gone meanwhile.
func (b *Balancer) move(m QueueMove) error {
	a := b.a
	a.mu.Lock()
	q := a.queues[m.Queue]
	if q == nil || q.moving || q.params.Affinity != 0 {
		a.mu.Unlock()
		return nil
	}
	q.moving = true
	p := q.params.Placement
	a.mu.Unlock()
	err := p.Move(m.To)
	a.mu.Lock()
	q.moving = false
	a.mu.Unlock()
	if err != nil {
		return fmt.Errorf("queues: queue %d stays on worker %d: %w", m.Queue, m.From, err)
	}
	return nil
}
