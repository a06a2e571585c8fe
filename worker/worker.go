package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"sync/atomic"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
)

const (
	lookEvery  = 20_000 // ns between looks for kicks while every round is busy
	wakeToken  = 0      // the worker's own eventfd in its poller
	tokenBatch = 64     // kicks taken by one epoll_wait
	waitedPart = 8      // a round takes a waitedPart-th of Options.Spin to tasks that wait, see tick
)

// Errors of Add and Remove that say something about the task.
var (
	errKnown   = errors.New("worker: the task is on this worker already")
	errUnknown = errors.New("worker: the task is not on this worker")
)

// Worker visits its Tasks. Its exported methods may be called by any
// goroutine that does not run on a worker.
type Worker struct {
	index int
	cpu   int   // -1: not pinned
	batch int   // budget of a visit
	spin  int64 // ns

	mail  mailbox
	phase phase
	bell  *bell        // the Group's, for its watchdog
	load  atomic.Int64 // tasks added or being added
	slept atomic.Uint64

	// What follows belongs to the worker's goroutine; open fills it before
	// the goroutine starts.
	poller   *sys.Poller
	wake     *sys.Event
	ctx      Context
	tasks    map[uint64]*entry // by token
	known    map[Task]*entry   // the same, for commands
	active   []*entry          // visited in this order
	tokens   [tokenBatch]uint64
	lastTok  uint64
	looked   int64 // Context.Now of the last look for kicks
	waited   int64 // ns that tasks without work have waited, see tick
	stopping bool
}

// Index is the worker's place in its Group, counted from 0.
func (w *Worker) Index() int { return w.index }

// Add puts t on the worker. t is visited once at once, then as m says; a task
// without a descriptor is polled whatever m says. Add waits for the worker's
// safe point or the end of ctx; with an error t is not on the worker.
func (w *Worker) Add(ctx context.Context, t Task, m Mode) error {
	if t == nil || !reflect.ValueOf(t).Comparable() {
		return fmt.Errorf("worker: add: a Task of type %T cannot be told from others; a pointer can", t)
	}
	if m >= numModes {
		return fmt.Errorf("worker: add: mode %d is unknown; use Adaptive, Poll or Interrupt", m)
	}
	fd := t.FD()
	w.load.Add(1)
	err := w.do(ctx, "add", func(w *Worker) error { return w.add(t, m, fd) })
	if err != nil {
		w.load.Add(-1)
	}
	return err
}

// Remove takes t off the worker. When it has returned nil, or ErrStopped, the
// worker does not touch t nor its descriptor any more, and will not. Only when
// ctx ended first t may still be on the worker; then Remove can be repeated.
func (w *Worker) Remove(ctx context.Context, t Task) error {
	return w.do(ctx, "remove", func(w *Worker) error { return w.remove(t) })
}

// Do runs f on the worker, between two visits, and waits for it. Functions of
// one caller run in the order of their calls. f must not wait for anything,
// and recovers the memory faults it may cause (package sharedmem, AsFault).
// With ctx's error or ErrStopped f has not run and never will.
func (w *Worker) Do(ctx context.Context, f func(*Context)) error {
	return w.do(ctx, "do", func(w *Worker) error {
		f(&w.ctx)
		return nil
	})
}

// Stats is what a worker has done so far.
type Stats struct {
	Rounds uint64 // rounds begun; the worker's epoch
	Sleeps uint64 // times it went to sleep
	Asleep bool   // it sleeps now
	Tasks  int    // tasks on it, asleep or not
}

// Stats may be called at any time; the figures are each right, not taken at
// one moment.
func (w *Worker) Stats() Stats {
	p := w.phase.load()
	return Stats{
		Rounds: p.epoch(),
		Sleeps: w.slept.Load(),
		Asleep: p.state() == phaseAsleep,
		Tasks:  int(w.load.Load()),
	}
}

// wakeUp ends the worker's sleep, if it sleeps. The load of phase comes after
// the push on the mailbox; it pairs with sleep, which stores phase before it
// looks at the mailbox.
func (w *Worker) wakeUp() {
	if w.phase.load().state() == phaseAsleep {
		w.wake.Signal()
	}
}

// open takes what the worker needs of the system.
func (w *Worker) open() (err error) {
	if w.wake, err = sys.NewEvent(); err != nil {
		return fmt.Errorf("worker: wake-up event: %w", err)
	}
	if w.poller, err = sys.NewPoller(); err != nil {
		return fmt.Errorf("worker: poller: %w", err)
	}
	if err = w.poller.Add(w.wake.FD(), wakeToken); err != nil {
		return fmt.Errorf("worker: poller: %w", err)
	}
	return nil
}

// close answers every command, now and later, with ErrStopped, and gives back
// what open took. The goroutine of the worker has ended or was never started.
func (w *Worker) close() {
	w.end()
	if w.poller != nil {
		_ = w.poller.Close() // an epoll instance has nothing that could be lost
	}
	w.wake.Close()
}

// end marks the worker as one that runs nothing any more.
func (w *Worker) end() {
	w.phase.end()
	for c := w.mail.close(); c != nil; {
		next := c.next // c belongs to its sender once it is answered
		c.refuse(ErrStopped)
		c = next
	}
}

// run is the worker's goroutine.
func (w *Worker) run() error {
	// The thread is never unlocked: it ends with the goroutine, and its
	// affinity with it.
	runtime.LockOSThread()
	defer w.end()
	if w.cpu >= 0 {
		if err := sys.PinThread(w.cpu); err != nil {
			return fmt.Errorf("worker: pinning worker %d to CPU %d: %w", w.index, w.cpu, err)
		}
	}
	defer sharedmem.GuardThread()()
	w.wakes()
	return w.loop()
}

// loop makes rounds until a command stops it. An error is a defect of the
// poller's use, not a task's.
func (w *Worker) loop() (err error) {
	for err == nil {
		w.safePoint()
		if w.stopping {
			return nil
		}
		switch busy := w.visit(); {
		case busy && w.ctx.now-w.looked < lookEvery:
			// Go on at once.
		case busy:
			err = w.look()
		case len(w.active) > 0:
			sys.Yield()
			err = w.look()
		default:
			err = w.sleep()
		}
	}
	return err
}

// safePoint is where the worker holds nothing: no task is being visited, all
// that it read of shared tables before is forgotten.
func (w *Worker) safePoint() {
	w.phase.next()
	w.tick(clock(), max(1, w.spin/waitedPart))
	if !w.mail.pending() {
		return
	}
	for c := w.mail.take(); c != nil; {
		next := c.next // c belongs to its sender once it is answered
		c.execute(w)
		c = next
	}
}

// tick begins a round. To tasks that wait for work the one before took no longer
// than most: if it did, others had work, or somebody else had the processor, which
// says nothing of when a guest's next frame comes.
func (w *Worker) tick(now, most int64) {
	w.waited += min(now-w.ctx.now, most)
	w.ctx.now = now
}

// visit gives each active task one visit, puts to sleep those that have been
// idle for long enough, and reports whether any did something.
func (w *Worker) visit() (busy bool) {
	for i := 0; i < len(w.active); {
		e := w.active[i]
		if e.task.Poll(&w.ctx, w.batch) {
			busy = true
			e.busy(w.waited)
		} else if e.idle(w.waited) && !e.task.Arm() {
			w.deactivate(i) // the last one takes its place, and its turn
			continue
		}
		i++
	}
	return busy
}

// look activates the tasks that were kicked, without waiting.
func (w *Worker) look() error {
	w.looked = w.ctx.now
	if len(w.active) == len(w.tasks) {
		return nil
	}
	return w.wait(0)
}

// sleep waits for a kick or a command. The mailbox is looked at after the
// worker has said that it sleeps; that pairs with wakeUp.
func (w *Worker) sleep() error {
	w.slept.Add(1)
	w.phase.sleep()
	timeout := -1
	if w.mail.pending() {
		timeout = 0
	}
	err := w.wait(timeout)
	w.tick(clock(), math.MaxInt64)
	w.wakes()
	return err
}

// wakes says that the worker runs again. The watchdog may have gone to rest.
func (w *Worker) wakes() {
	w.phase.wake()
	w.bell.strike()
}

// wait takes kicks for at most timeout ms (-1: no limit) and activates their
// tasks. Tokens of removed tasks name nothing.
func (w *Worker) wait(timeout int) error {
	n, err := w.poller.Wait(w.tokens[:], timeout)
	if err != nil {
		return fmt.Errorf("worker: waiting for kicks: %w", err)
	}
	for _, token := range w.tokens[:n] {
		if e := w.tasks[token]; e != nil && e.asleep {
			w.activate(e)
		}
	}
	return nil
}

// activate begins to visit e.
func (w *Worker) activate(e *entry) {
	e.asleep = false
	w.active = append(w.active, e)
}

// deactivate ends the visits of the i-th active task.
func (w *Worker) deactivate(i int) {
	w.active[i].asleep, w.active[i].slept = true, true
	last := len(w.active) - 1
	w.active[i] = w.active[last]
	w.active[last] = nil
	w.active = w.active[:last]
}

// add is Add at the safe point.
func (w *Worker) add(t Task, m Mode, fd int) error {
	if w.find(t) != nil {
		return errKnown
	}
	w.lastTok++
	e := &entry{task: t, mode: m, fd: fd, token: w.lastTok, idleSince: -1, arrivals: new(Arrivals)}
	if l, ok := t.(Learner); ok {
		e.arrivals = l.Arrivals()
	}
	e.arrivals.begin(w.spin)
	if m == Poll {
		e.fd = -1
	}
	if e.fd >= 0 {
		if err := w.poller.Add(e.fd, e.token); err != nil {
			return fmt.Errorf("worker: add: descriptor %d cannot be waited for: %w", e.fd, err)
		}
	}
	w.tasks[e.token], w.known[t] = e, e
	// Room for all, so that activate does not allocate later.
	w.active = slices.Grow(w.active, len(w.tasks)-len(w.active))
	w.activate(e)
	return nil
}

// remove is Remove at the safe point.
func (w *Worker) remove(t Task) error {
	e := w.find(t)
	if e == nil {
		return errUnknown
	}
	delete(w.tasks, e.token)
	delete(w.known, t)
	w.load.Add(-1)
	if !e.asleep {
		w.deactivate(slices.Index(w.active, e))
	}
	if e.fd < 0 {
		return nil
	}
	if err := w.poller.Del(e.fd); err != nil {
		return fmt.Errorf("worker: remove: the task is removed, but its descriptor %d was closed before: %w", e.fd, err)
	}
	return nil
}

// find is t's entry, nil when t is not here. Commands only.
func (w *Worker) find(t Task) *entry {
	if t == nil || !reflect.ValueOf(t).Comparable() {
		return nil // Add has refused it
	}
	return w.known[t]
}

// stop makes the worker leave its loop at its next safe point.
func (w *Worker) stop() {
	if w.mail.push(&command{
		run:  func(w *Worker) error { w.stopping = true; return nil },
		done: make(chan struct{}),
	}) {
		w.wakeUp()
	}
}
