package worker

// Task is what a worker visits. All methods but FD are called by its worker
// only, one at a time; a task that is on no worker is called by nobody.
type Task interface {
	// Poll does at most budget items of work (chains; the task bounds the
	// bytes of a visit itself) and reports whether it should be visited again
	// at once: it did something, or it keeps work that it could not finish.
	Poll(c *Context, budget int) (busy bool)

	// Arm asks the peer for a kick and reports whether work came meanwhile:
	// then the task is visited again instead of sleeping. After more = true
	// the next Poll must find that work; a task that has ended (a broken ring)
	// answers false. Arm first empties the kick (sys.Event.Drain), because a
	// pipe that is full takes no further kick.
	Arm() (more bool)

	// FD is the descriptor that becomes readable when there is work; -1: the
	// task has no kick and is polled for ever. It is asked once, by
	// Worker.Add, and stays open until Worker.Remove has returned.
	FD() int
}

// Mode says what a worker does with a task that finds nothing to do.
type Mode uint8

// The modes of a task.
const (
	Adaptive  Mode = iota // polls as long as work is likely to come, see Arrivals, then sleeps until a kick
	Poll                  // never sleeps
	Interrupt             // sleeps until a kick at once
	numModes
)

// String is the mode's name in flags and messages.
func (m Mode) String() string {
	switch m {
	case Adaptive:
		return "adaptive"
	case Poll:
		return "poll"
	case Interrupt:
		return "interrupt"
	}
	return "unknown"
}

// entry is a Task on a worker, with the state of its visits.
type entry struct {
	task     Task
	mode     Mode
	fd       int    // registered with the poller; -1: not registered, never asleep
	token    uint64 // names the entry in the poller
	arrivals *Arrivals

	asleep    bool
	idleSince int64 // Worker.waited at the first visit of a gap; -1: there is none
	slept     bool  // in the gap
}

// busy notes a visit that found work.
func (e *entry) busy(now int64) {
	if e.idleSince < 0 {
		return
	}
	e.arrivals.came(now-e.idleSince, e.slept)
	e.idleSince, e.slept = -1, false
}

// idle notes a visit that found nothing and reports whether the task has been
// polled in vain for long enough to be armed.
func (e *entry) idle(now int64) bool {
	switch {
	case e.fd < 0:
		return false
	case e.mode == Interrupt:
		return true
	case e.idleSince < 0:
		e.idleSince = now
	}
	return now-e.idleSince >= e.arrivals.spin.Load()
}
