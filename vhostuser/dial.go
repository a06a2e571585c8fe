package vhostuser

import (
	"context"
	"net"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
)

// The pauses between two attempts to reach a front-end double from firstPause
// to Options.DialPause: a virtual machine monitor that restarts is found again
// at once, and one that stays away costs nothing.
const (
	firstPause   = 10 * time.Millisecond
	defaultPause = time.Second
)

// backoff is the pause before the next attempt.
type backoff struct{ pause, longest time.Duration }

// next is the pause to make now.
func (b *backoff) next() time.Duration {
	d := min(max(b.pause, firstPause), b.longest)
	b.pause = 2 * d
	return d
}

// dial connects to the front-end and serves it, again and again until ctx
// ends. A connection that lasted is followed by a new attempt at once; of those
// that do not (nobody listens, or whoever listens hangs up) each one waits
// longer. The log gets a line when the reason for waiting changes, not for each
// attempt.
func (s *Server) dial(ctx context.Context) {
	pause := backoff{longest: s.o.DialPause}
	var told string
	for ctx.Err() == nil {
		c, err := s.reach(ctx)
		if err == nil {
			told = ""
			began := time.Now()
			<-s.start(ctx, c).done
			if time.Since(began) > s.o.DialPause {
				pause.pause = 0
			}
		} else if ctx.Err() == nil {
			s.counters.unreached.Add(1)
			if why := sys.Cause(err).Error(); why != told {
				told = why
				s.log.write(hclog.Info, "waiting for a front-end to listen", "port", s.o.Name, "path", s.o.Path, "error", why)
			}
		}
		rest(ctx, pause.next())
	}
}

// reach makes one attempt.
func (s *Server) reach(ctx context.Context) (*sys.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.o.DialPause) // a front-end whose queue of newcomers is full
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", s.o.Path)
	if err != nil {
		return nil, err
	}
	return sys.NewConn(c.(*net.UnixConn))
}
