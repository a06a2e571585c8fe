package conform

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"
)

// Options say what back-end is asked, and how patiently.
type Options struct {
	Path string // of its socket, at which it listens
	Peer string // of the socket of a port that the first one exchanges frames with; "": none

	// Timeout bounds each wait for the back-end; default 3 s.
	Timeout time.Duration
	// Only are the scenarios to play, by name; default: all.
	Only []string
}

const defaultTimeout = 3 * time.Second

// waits is how many waits a scenario may use up whole before it is ended.
const waits = 10

// Result is what came of a scenario.
type Result string

// The results.
const (
	Pass       Result = "pass"
	Fail       Result = "fail"
	NotOffered Result = "not offered" // the back-end, or the call of Run, lacks what the scenario needs
)

// Outcome is a scenario and what came of it.
type Outcome struct {
	Name   string `json:"name"`
	About  string `json:"about"` // what a back-end has to do
	Result Result `json:"result"`
	Detail string `json:"detail,omitempty"` // why it failed, what was not offered
}

// Scenario is one thing that is asked of a back-end.
type Scenario struct {
	Name  string // one word; trap-N.M-... is the trap of that number
	About string // what a back-end has to do
	play  func(s *subject) error
}

// Scenarios are all of them, in the order in which they are played.
func Scenarios() []Scenario {
	return slices.Concat(starts(), messages(), rings(), memories(), data(), inflights(), lives())
}

// lacking is the error of a scenario that cannot be played.
type lacking string

func (l lacking) Error() string { return string(l) }

// Run plays scenarios, one after the other, and tells each outcome to progress,
// if there is one, with its number and how many there are. The error says why
// nothing could be asked: wrong options, nobody at the sockets, ctx ended.
func Run(ctx context.Context, o Options, progress func(done, all int, out Outcome)) ([]Outcome, error) {
	chosen, err := o.fill()
	if err != nil {
		return nil, err
	}
	for _, path := range []string{o.Path, o.Peer} {
		if path == "" {
			continue
		}
		if err := reachable(path, o.Timeout); err != nil {
			return nil, err
		}
	}
	var list []Outcome
	for i, sc := range chosen {
		out := play(ctx, o, sc)
		if ctx.Err() != nil {
			return list, fmt.Errorf("conform: ended in scenario %s: %w", sc.Name, context.Cause(ctx))
		}
		list = append(list, out)
		if progress != nil {
			progress(i+1, len(chosen), out)
		}
	}
	return list, nil
}

// fill checks o, fills in the defaults and picks the scenarios.
func (o *Options) fill() ([]Scenario, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	switch {
	case o.Path == "":
		return nil, errors.New("conform: the path of the back-end's socket is missing")
	case o.Timeout < 0:
		return nil, fmt.Errorf("conform: timeout of %v; waits are bounded by a positive one", o.Timeout)
	}
	all := Scenarios()
	if len(o.Only) == 0 {
		return all, nil
	}
	var chosen []Scenario
	for _, name := range o.Only {
		i := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("conform: no scenario is called %q", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// reachable asks whether somebody listens at path.
func reachable(path string, timeout time.Duration) error {
	c, err := net.DialTimeout("unix", path, timeout)
	if err != nil {
		return fmt.Errorf("conform: nobody to ask: %w", err)
	}
	return c.Close()
}

// play plays one scenario and ends its connections.
func play(ctx context.Context, o Options, sc Scenario) Outcome {
	out := Outcome{Name: sc.Name, About: sc.About, Result: Pass}
	bounded, cancel := context.WithTimeout(ctx, waits*o.Timeout)
	defer cancel()
	s := &subject{ctx: bounded, o: o}
	err := sc.play(s)
	s.end()
	if err == nil {
		return out
	}
	out.Result, out.Detail = Fail, err.Error()
	if missing, ok := errors.AsType[lacking](err); ok {
		out.Result, out.Detail = NotOffered, string(missing)
	}
	return out
}

// Failed counts the outcomes that are failures.
func Failed(list []Outcome) (n int) {
	for _, out := range list {
		if out.Result == Fail {
			n++
		}
	}
	return n
}
