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
	Adaptive  Mode = iota // polls for Options.Spin, then sleeps until a kick
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
	task  Task
	mode  Mode
	fd    int    // registered with the poller; -1: not registered, never asleep
	token uint64 // names the entry in the poller

	asleep    bool
	idleSince int64 // Context.Now of the first visit of an idle spell; -1: was busy
}

// busy starts a new spell of polling.
func (e *entry) busy() { e.idleSince = -1 }

// idle notes a visit that found nothing and reports whether the task has
// polled in vain for long enough to be armed.
func (e *entry) idle(now, spin int64) bool {
	switch {
	case e.fd < 0:
		return false
	case e.mode == Interrupt:
		return true
	case e.idleSince < 0:
		e.idleSince = now
		return false
	}
	return now-e.idleSince >= spin
}
