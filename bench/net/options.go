package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// The networks, in the order of the table.
const (
	vhostnetNetwork = "vhostnet"
	slirpNetwork    = "slirp"
	passtNetwork    = "passt"
	tapNetwork      = "tap"
)

var networks = []string{vhostnetNetwork, slirpNetwork, passtNetwork, tapNetwork}

// options is what the command line asked for, validated.
type options struct {
	networks []string
	rounds   int
	duration time.Duration // of one throughput, and of the connections
	format   string        // "table" or "json"
	vhostnet string
	serve    string // an address: be the server of the connections
}

// usageError is a wrong command line: exit code 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// parseOptions reads the command line. Help and flag errors are written to w.
func parseOptions(args []string, w io.Writer) (options, error) {
	var o options
	fs := flag.NewFlagSet("net", flag.ContinueOnError)
	fs.SetOutput(w)
	list := fs.String("networks", strings.Join(networks, ","), "networks to measure, a list; tap needs root")
	fs.IntVar(&o.rounds, "rounds", 3, "rounds; the networks alternate within a round, each with a guest of its own")
	seconds := fs.Float64("seconds", 2, "seconds per throughput, and of the connections")
	fs.StringVar(&o.format, "o", "table", "output: table or json")
	fs.StringVar(&o.vhostnet, "vhostnet", "bin/vhostnet", "the vhostnet binary")
	fs.StringVar(&o.serve, "serve", "", "measure nothing: take connections at this address, and close them at once")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, &usageError{err.Error()}
	}
	o.duration = time.Duration(*seconds * float64(time.Second))
	o.networks = strings.Split(*list, ",")
	for i, n := range o.networks {
		if !slices.Contains(networks, n) || slices.Contains(o.networks[:i], n) {
			return o, usagef("-networks %s: %q; some of %s are accepted, each once", *list, n, strings.Join(networks, ", "))
		}
	}
	switch {
	case fs.NArg() > 0:
		return o, usagef("unexpected argument %q: only flags are accepted", fs.Arg(0))
	case o.rounds < 1:
		return o, usagef("-rounds %d: at least 1 is needed, 3 for a median worth the name", o.rounds)
	case o.duration < 500*time.Millisecond || o.duration > time.Minute:
		return o, usagef("-seconds %v: 0.5 to 60 is accepted", *seconds)
	case o.format != "table" && o.format != "json":
		return o, usagef("-o %s: table or json is accepted", o.format)
	}
	return o, nil
}

// missing names what the machine lacks for these networks.
func missing(networks []string) error {
	programs := []string{"qemu-system-x86_64", "iperf3"}
	if slices.Contains(networks, passtNetwork) {
		programs = append(programs, "passt")
	}
	if slices.Contains(networks, tapNetwork) {
		if os.Geteuid() != 0 {
			return usagef("-networks tap: a TAP and a network namespace take root; leave it out, or be root")
		}
		programs = append(programs, "ip")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%w: scripts/setup.sh bench gets it", err)
		}
	}
	return nil
}
