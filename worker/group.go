package worker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vhostnet/internal/sys"
)

// Options is what a Group is made from. The zero value is fit for use.
type Options struct {
	// Workers is the number of workers; 0: one per entry of CPUs, or, without
	// CPUs, half of the processor's cores, at least one.
	Workers int

	// CPUs pins worker i to CPU CPUs[i]; empty: no worker is pinned. Its
	// length is that of the workers, no CPU is named twice.
	CPUs []int

	// Spin is how long an Adaptive task is polled in vain, at most, before it
	// sleeps; 0: 50 us. It is about what a kick, a sleep and a wake-up cost both
	// sides. At most an hour.
	Spin time.Duration

	// Batch is the budget given to each Poll; 0: 128.
	Batch int

	// OnStuck is told the event on which a worker stood still in Context.Call,
	// after the event was killed, once per call. It runs on the watchdog's
	// goroutine, which watches nothing meanwhile, so it must not wait. May be
	// nil.
	OnStuck func(e *sys.Event)
}

const (
	defaultSpin  = 50 * time.Microsecond
	defaultBatch = 128
	maxSpin      = time.Hour
	maxWorkers   = 1024 // far beyond any machine's cores; a typing error
)

// Group is a set of workers and their watchdog. Its methods may be called by
// any goroutine that does not run on a worker, except for Workers and Pick,
// which any may call.
type Group struct {
	workers []*Worker
	bell    bell
	onStuck func(*sys.Event)
	started atomic.Bool
	turn    atomic.Uint64 // where Pick begins, so that equals take turns
}

// NewGroup checks o and makes a Group that does nothing until Run.
func NewGroup(o Options) (*Group, error) {
	n := o.Workers
	if n == 0 {
		n = len(o.CPUs)
	}
	if n == 0 {
		n = max(1, runtime.NumCPU()/2)
	}
	if err := o.validate(n); err != nil {
		return nil, err
	}
	if o.Spin == 0 {
		o.Spin = defaultSpin
	}
	if o.Batch == 0 {
		o.Batch = defaultBatch
	}
	g := &Group{onStuck: o.OnStuck, bell: newBell()}
	for i := range n {
		g.workers = append(g.workers, newWorker(i, o, &g.bell))
	}
	return g, nil
}

// validate checks o for n workers.
func (o Options) validate(n int) error {
	switch {
	case n < 0 || n > maxWorkers:
		return fmt.Errorf("worker: %d workers are not possible; use 1 to %d, or 0 for the default", n, maxWorkers)
	case len(o.CPUs) != 0 && len(o.CPUs) != n:
		return fmt.Errorf("worker: %d CPUs are named for %d workers; name one for each, or none", len(o.CPUs), n)
	case o.Spin < 0:
		return fmt.Errorf("worker: a spin of %v is not possible; use 0 for the default, and mode interrupt for none", o.Spin)
	case o.Spin > maxSpin:
		return fmt.Errorf("worker: a spin of %v is not possible; use at most %v, and mode poll for ever", o.Spin, maxSpin)
	case o.Batch < 0:
		return fmt.Errorf("worker: a batch of %d is not possible; use 1 and up, or 0 for the default", o.Batch)
	}
	for i, cpu := range o.CPUs {
		if cpu < 0 {
			return fmt.Errorf("worker: CPU %d is not possible; the first is 0", cpu)
		}
		if slices.Contains(o.CPUs[:i], cpu) {
			return fmt.Errorf("worker: CPU %d is named for two workers, which would share it; name each once", cpu)
		}
	}
	return nil
}

func newWorker(i int, o Options, b *bell) *Worker {
	w := &Worker{
		index: i,
		cpu:   -1,
		batch: o.Batch,
		spin:  o.Spin.Nanoseconds(),
		ctx:   Context{worker: i},
		bell:  b,
		tasks: make(map[uint64]*entry),
		known: make(map[Task]*entry),
	}
	if len(o.CPUs) > 0 {
		w.cpu = o.CPUs[i]
	}
	return w
}

// Workers is all workers, by index. The slice is the Group's: do not change it.
func (g *Group) Workers() []*Worker { return g.workers }

// Pick is a worker with the fewest tasks. Equals are picked in turn, so
// callers at the same time spread too.
func (g *Group) Pick() *Worker {
	first := int(g.turn.Add(1) % uint64(len(g.workers)))
	best := g.workers[first]
	for i := 1; i < len(g.workers); i++ {
		w := g.workers[(first+i)%len(g.workers)]
		if w.load.Load() < best.load.Load() {
			best = w
		}
	}
	return best
}

// Run starts the workers and the watchdog, and returns when ctx has ended and
// they have: nil. Tasks that are still there are no longer visited. It returns
// early, with an error, if the system refuses what a worker needs, such as its
// CPU. Run can be called once; afterwards every command answers ErrStopped.
func (g *Group) Run(ctx context.Context) error {
	if g.started.Swap(true) {
		return errors.New("worker: a Group runs once; make a new one")
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer g.close()
	if err := g.open(); err != nil {
		return err
	}
	stopWatch := g.startWatch()
	defer stopWatch() // after the workers: one may stand in a call until then

	failed := make(chan error, len(g.workers))
	var running sync.WaitGroup
	for _, w := range g.workers {
		running.Go(func() {
			if err := w.run(); err != nil {
				failed <- err
				fail(err)
			}
		})
	}
	<-ctx.Done()
	for _, w := range g.workers {
		w.stop()
	}
	running.Wait()
	close(failed)
	return <-failed // nil when nothing was sent
}

// open takes the descriptors of all workers; close gives them back, also after
// open has failed halfway.
func (g *Group) open() error {
	for _, w := range g.workers {
		if err := w.open(); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) close() {
	for _, w := range g.workers {
		w.close()
	}
}

// Quiesce returns when each worker has passed a safe point since the call, so
// that none still uses what was unlinked before it. A worker that sleeps or
// does not run holds nothing: it counts as passed and is not woken. An error
// is ctx's: some worker may not have passed.
//
// What is unlinked must be unlinked by an atomic store, and read by an atomic
// load on the workers: the store comes before Quiesce reads a worker's phase,
// a worker that wakes stores its phase before it loads. One of the two sees
// the other.
func (g *Group) Quiesce(ctx context.Context) error {
	seen := make([]phaseWord, len(g.workers))
	for i, w := range g.workers {
		seen[i] = w.phase.load()
	}
	for i, w := range g.workers {
		if seen[i].state() != phaseAwake || w.phase.load() != seen[i] {
			continue
		}
		nothing := func(*Worker) error { return nil }
		if err := w.do(ctx, "quiesce", nothing); err != nil && !errors.Is(err, ErrStopped) {
			return err
		}
	}
	return nil
}
