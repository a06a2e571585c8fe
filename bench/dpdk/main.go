// Command dpdk runs DPDK's virtio-user as the front-end of two virtual NICs and
// lets a vhost-user back-end forward between them: vhostnet or, for comparison,
// DPDK's own net_vhost, Open vSwitch with DPDK, or bench/bare. It either measures
// (the default) or checks in a closed loop that no frame is lost or altered
// (-check). See bench/README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// The kernel sends a child its parent-death signal when the thread that started
// it ends, not the process. Every child is started by the main goroutine, which
// this keeps on the main thread: the one that lives as long as the process.
func init() { runtime.LockOSThread() }

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
	machine, err := inspectMachine(o)
	if err != nil {
		return err
	}
	b := &bench{options: o, machine: machine, progress: progress}
	if o.check {
		return b.checkAll(ctx, out)
	}
	return b.measureAll(ctx, out)
}

// bench is one invocation: what was asked for and where it runs.
type bench struct {
	options  options
	machine  machine
	progress io.Writer
	rigs     int // rigs made so far: makes prefixes unique
}

// logf writes one line of progress.
func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(b.progress, format+"\n", args...)
}
