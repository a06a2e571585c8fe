package vhostuser

import "vhostnet/metrics"

// counters are a server's; Stats is their snapshot.
type counters struct {
	sessions, messages, refused, closed, second, stranger, unreached metrics.Counter
}

// Stats count what happened on a port's socket since the server was made.
type Stats struct {
	Sessions       uint64 // front-ends that were served
	Messages       uint64 // requests read whole
	Refused        uint64 // requests that were not done
	Closed         uint64 // sessions that were ended for what the front-end sent or did not
	SecondFrontend uint64 // front-ends refused because another one was connected
	Strangers      uint64 // connections to an abstract socket by users that may not
	Unreached      uint64 // attempts to connect to a front-end that did not listen
}

// Stats are the counters at this moment. It may be called concurrently with
// everything.
func (s *Server) Stats() Stats {
	c := &s.counters
	return Stats{
		Strangers:      c.stranger.Value(),
		Unreached:      c.unreached.Value(),
		Sessions:       c.sessions.Value(),
		Messages:       c.messages.Value(),
		Refused:        c.refused.Value(),
		Closed:         c.closed.Value(),
		SecondFrontend: c.second.Value(),
	}
}
