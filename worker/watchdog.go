package worker

import (
	"sync/atomic"
	"time"

	"vhostnet/internal/sys"
)

// The watchdog looks at every worker each watchTick. A worker seen in the same
// call for stuckTicks ticks in a row stands still. Ticks and not time are
// counted, so that a pause of the whole process (a debugger, a suspended
// machine) is nobody's fault.
//
// A worker that sleeps is in no call. When all have been found asleep
// restTicks times in a row, the watchdog rests until one wakes, so that a
// process in which nothing moves is not woken by its clock. A shorter rest
// would cost a signal at each of the many wake-ups of light traffic.
const (
	watchTick  = 20 * time.Millisecond
	stuckTicks = 5
	restTicks  = 10
)

// bell wakes the watchdog. Workers strike it when they wake.
type bell struct {
	resting atomic.Bool
	struck  chan struct{}
	ticks   atomic.Uint64 // looks of the watchdog so far
}

func newBell() bell { return bell{struck: make(chan struct{}, 1)} }

// strike ends the watchdog's rest, if it rests. The load of resting comes after
// the worker has said that it is awake; it pairs with rest, which stores resting
// before it looks at the workers.
func (b *bell) strike() {
	if !b.resting.Load() {
		return
	}
	select {
	case b.struck <- struct{}{}:
	default: // it has been told
	}
}

// asleep reports whether no worker is in a round.
func (g *Group) asleep() bool {
	for _, w := range g.workers {
		if w.phase.load().state() == phaseAwake {
			return false
		}
	}
	return true
}

// rest waits until a worker wakes; false: until quit is closed.
func (g *Group) rest(quit <-chan struct{}) bool {
	g.bell.resting.Store(true)
	defer g.bell.resting.Store(false)
	if !g.asleep() {
		return true
	}
	select {
	case <-g.bell.struck:
		return true
	case <-quit:
		return false
	}
}

// startWatch starts the watchdog; the function returned stops it and waits for
// its end.
func (g *Group) startWatch() (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		g.watch(quit)
	}()
	return func() {
		close(quit)
		<-ended
	}
}

// watch is the watchdog's goroutine.
func (g *Group) watch(quit <-chan struct{}) {
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	marks := make([]callMark, len(g.workers))
	for idle := 0; ; idle++ {
		select {
		case <-quit:
			return
		case <-tick.C:
		}
		g.bell.ticks.Add(1)
		switch {
		case !g.asleep():
			idle = 0
		case idle >= restTicks:
			tick.Stop()
			if !g.rest(quit) {
				return
			}
			tick.Reset(watchTick)
			idle = 0
		}
		for i, w := range g.workers {
			e, first := marks[i].look(&w.ctx.call)
			if e == nil {
				continue
			}
			if first && !e.Full() {
				marks[i].ticks = 0 // the worker has lost its CPU; the call would go through
				continue
			}
			// Repeated at each tick: the front-end may fill the counter again
			// before the worker's write gets its turn.
			e.Kill()
			if first && g.onStuck != nil {
				g.onStuck(e)
			}
		}
	}
}

// callMark is what the watchdog remembers of a worker's last call.
type callMark struct {
	seq   uint64
	ticks int // looks that found this call in progress
}

// look returns the event of a call that stands still, else nil; first is true
// once per call.
func (m *callMark) look(n *callNote) (e *sys.Event, first bool) {
	seq, e := n.current()
	if e == nil || seq != m.seq {
		m.seq, m.ticks = seq, 0
	}
	if e == nil {
		return nil, false
	}
	m.ticks++
	if m.ticks < stuckTicks {
		return nil, false
	}
	return e, m.ticks == stuckTicks
}
