package limit

import "time"

// quiet is how long an Edge says nothing after it has said something: a guest
// that drives a state up and down fills no log.
const quiet = time.Minute

// Edge tells changes of a state, for the log. The zero Edge is off; it is not
// safe for concurrent use.
type Edge struct {
	told bool // what was said last
	at   time.Time
}

// Set says what the state is at now. It reports whether that is news: another
// state than was told last, and not within a minute of it. A change that was
// kept back is told by the first Set after that minute, if it still holds.
func (e *Edge) Set(now time.Time, on bool) bool {
	if on == e.told || !e.at.IsZero() && now.Sub(e.at) < quiet {
		return false
	}
	e.told, e.at = on, now
	return true
}
