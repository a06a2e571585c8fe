// Command net measures what a guest gets of four networks: vhostnet's user-mode
// network, QEMU's own (slirp), passt, and a TAP that QEMU opens itself. The guest,
// its kernel and the programs are the same; the networks take turns. See
// bench/README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"vhostnet/integration"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	if _, wrongFlags := errors.AsType[*usageError](err); wrongFlags {
		os.Exit(2)
	}
	os.Exit(1)
}

// run is the program: figures go to out, progress and failures to progress.
func run(ctx context.Context, args []string, out, progress io.Writer) error {
	o, err := parseOptions(args, progress)
	if err != nil {
		return err
	}
	if o.serve != "" {
		return serveEnds(ctx, o.serve, out)
	}
	if err := missing(o.networks); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vhostnet-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// passt goes on as nobody once it has its socket.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	b := &bench{options: o, dir: dir, progress: progress}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	all, err := b.measureAll(ctx)
	if len(all) > 0 { // also what there is of a run that was broken off
		err = errors.Join(err, writeReport(out, o.format, all))
	}
	return err
}

// bench is one invocation: what was asked for, and what all its guests share.
type bench struct {
	options  options
	dir      string
	progress io.Writer
	self     string // this program, to be run again as a server
	machine  *integration.Machine
	image    *integration.Image
	rigs     int // made so far
}

// prepareTime bounds the making of what guests boot.
const prepareTime = 3 * time.Minute

func (b *bench) prepare(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, prepareTime)
	defer cancel()
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.machine, err = integration.Find(ctx); err != nil {
		return err
	}
	b.image, err = integration.BuildImage(ctx, b.machine.Kernel, b.dir)
	return err
}

// measureAll measures each network once in each round, in changing order. It
// answers what was measured also when it fails.
func (b *bench) measureAll(ctx context.Context) ([]measurement, error) {
	var all []measurement
	for round := range b.options.rounds {
		for i := range b.options.networks {
			network := b.options.networks[(i+round)%len(b.options.networks)]
			m, err := b.measureNetwork(ctx, network)
			if err != nil {
				return all, fmt.Errorf("round %d, %s: %w", round+1, network, err)
			}
			m.Network, m.Round = network, round+1
			fmt.Fprintf(b.progress, "round %d, %-8s %5.2f Gbps up, %5.2f down, ping %.0f us, %.0f connections/s\n",
				m.Round, network, m.Up.Gbps, m.Down.Gbps, m.PingMicroseconds, m.ConnectsPerSecond)
			all = append(all, m)
		}
	}
	return all, nil
}

// roundTime bounds one network in one round, beside what is measured.
const roundTime = time.Minute

func (b *bench) measureNetwork(ctx context.Context, network string) (m measurement, err error) {
	ctx, cancel := context.WithTimeout(ctx, roundTime+4*b.options.duration)
	defer cancel()
	r, err := b.start(ctx, network)
	defer func() {
		if err != nil {
			r.showLogs(b.progress)
		}
		err = errors.Join(err, r.close())
	}()
	if err != nil {
		return m, err
	}
	return r.measure(ctx, b.options.duration)
}
