package worker

import (
	"time"

	"vhostnet/internal/sys"
)

// The watchdog looks at every worker each watchTick. A worker seen in the same
// call for stuckTicks ticks in a row stands still. Ticks and not time are
// counted, so that a pause of the whole process (a debugger, a suspended
// machine) is nobody's fault.
const (
	watchTick  = 20 * time.Millisecond
	stuckTicks = 5
)

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
	for {
		select {
		case <-quit:
			return
		case <-tick.C:
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
