package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"

	"vhostnet/control"
	"vhostnet/queues"
	"vhostnet/sharedmem"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// daemon is the running program: everything below level 7, joined.
type daemon struct {
	c        config
	log      hclog.Logger
	group    *worker.Group
	vswitch  *vswitch.Switch // of ports that name none
	switches switches        // the others
	adapter  *queues.Adapter

	balancer *queues.Balancer // nil: ports stay where they began

	verbs   *queues.Binding // the control API's
	freeing sync.WaitGroup  // FREE_QUEUE of the control API, in the background
	freeCtx context.Context // of those
	endFree context.CancelFunc
	hub     control.Hub
	control *controlSocket
	guests  *guestChannel

	budget *sharedmem.Budget // of all guests' memory
	ports  *ports
	events *eventLog
}

// At the end of the program quiesceTimeout bounds waits for workers, and
// drainTimeout the wait for frames that were taken from guests: it is long for
// those, which are delivered or dropped within a millisecond, and short for
// who waits for the program to end.
const (
	quiesceTimeout = 2 * time.Second
	drainTimeout   = 200 * time.Millisecond
)

// reportQueue is how many reports wait for whoever reads them: old ones are of
// no use.
const reportQueue = 2

// serve builds the graph, runs it until ctx ends and takes it down. Counters go
// to out.
func serve(ctx context.Context, c config, out io.Writer, log hclog.Logger) error {
	// Before there is a socket by which others know that the program is up:
	// SIGUSR1 ends a process that has not asked for it.
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	defer signal.Stop(asked)

	d, err := build(c, log)
	if err != nil {
		return err
	}
	counters := newOutlet(out, reportQueue, func(lost uint64, err error) {
		if err != nil {
			log.Error("counters cannot be printed", "error", err)
			return
		}
		log.Warn("counters were left out, as standard output was not read", "count", lost)
	})
	go counters.run()
	defer counters.end()
	if len(c.vms) > 0 {
		if err := printRecipes(counters, c.ports, c.vms, c.json); err != nil {
			return err
		}
	}
	d.tellStrangers(c)
	return d.run(ctx, c, newReporter(counters, c.json), asked)
}

// run serves the ports until ctx ends, until what they need has failed, or
// until all sockets that were handed over are done. Then everything ends in
// order: the frames that were taken, sessions, the reporter, ports, workers,
// queue 0.
func (d *daemon) run(ctx context.Context, c config, r *reporter, asked <-chan os.Signal) error {
	defer worker.RaiseProcs(c.workers)()
	serving, stop := context.WithCancel(ctx)
	defer stop()
	below, stopBelow := context.WithCancel(context.Background()) // sessions end while workers run
	defer stopBelow()

	var lower, reporting sync.WaitGroup
	var groupErr error
	lower.Go(func() { d.events.run(below) })
	lower.Go(func() {
		groupErr = d.group.Run(below)
		stop()
	})
	reporting.Go(func() { d.report(serving, r, c.interval, asked) })
	var controlErr error
	if d.control != nil {
		reporting.Go(func() { controlErr = d.control.serve(serving) })
	}
	reporting.Go(func() { d.guests.serve(serving) })
	notify(d.log, sd.SdNotifyReady)
	if c.reload != nil {
		reporting.Go(func() { d.reloads(serving, c) })
	}
	if d.balancer != nil {
		reporting.Go(func() { d.balance(serving) })
	}
	sessions, endSessions := context.WithCancel(context.Background())
	defer endSessions()
	reporting.Go(func() {
		<-serving.Done()
		notify(d.log, sd.SdNotifyStopping)
		d.ports.close()
		d.drain()
		endSessions()
	})
	err := d.ports.serve(sessions)
	stop()
	reporting.Wait()
	d.endFreeing()
	if ctx.Err() != nil {
		d.log.Info("ending", "cause", context.Cause(ctx))
	}
	err = errors.Join(err, controlErr, d.closePorts(), d.endVerbs())
	stopBelow()
	lower.Wait()
	return errors.Join(groupErr, err, d.adapter.Close(context.Background())) // no worker is left to wait for
}

// drain brings what was taken from the guests to an end, on all ports before
// the session of any one ends.
func (d *daemon) drain() {
	var draining sync.WaitGroup
	for _, p := range d.ports.all() {
		draining.Go(func() { d.drainPort(p) })
	}
	draining.Wait()
}

// closePorts takes the ports off the switch after their last session.
func (d *daemon) closePorts() error {
	ctx, cancel := context.WithTimeout(context.Background(), quiesceTimeout)
	defer cancel()
	var errs []error
	for _, p := range d.ports.all() {
		errs = append(errs, d.freeManual(p), p.behind.Close(ctx))
	}
	return errors.Join(errs...)
}

// report prints counters at every interval and whenever asked.
func (d *daemon) report(ctx context.Context, r *reporter, interval time.Duration, asked <-chan os.Signal) {
	var tick <-chan time.Time
	if interval > 0 {
		t := time.NewTicker(interval)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		case <-asked:
		}
		if err := r.print(time.Now(), d.ports.all()); err != nil {
			d.log.Error("counters cannot be printed", "error", err)
		}
	}
}
