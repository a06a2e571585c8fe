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

	"github.com/hashicorp/go-hclog"

	"vhostnet/netdev"
	"vhostnet/queues"
	"vhostnet/vhostuser"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// port is a running port: its device and the socket that front-ends come by.
type port struct {
	name   string
	device *netdev.Device
	server *vhostuser.Server
}

// daemon is the running program: everything below level 7, joined.
type daemon struct {
	log     hclog.Logger
	group   *worker.Group
	vswitch *vswitch.Switch
	adapter *queues.Adapter

	balancer *queues.Balancer // nil: ports stay where they began

	ports  []*port
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
	if d.balancer != nil {
		reporting.Go(func() { d.balance(serving) })
	}
	sessions, endSessions := context.WithCancel(context.Background())
	defer endSessions()
	reporting.Go(func() {
		<-serving.Done()
		d.drain()
		endSessions()
	})
	err := d.servePorts(sessions)
	stop()
	reporting.Wait()
	if ctx.Err() != nil {
		d.log.Info("ending", "cause", context.Cause(ctx))
	}
	err = errors.Join(err, d.closePorts())
	stopBelow()
	lower.Wait()
	return errors.Join(groupErr, err, d.adapter.Close(context.Background())) // no worker is left to wait for
}

// drain brings what was taken from the guests to an end, on all ports before
// the session of any one ends.
func (d *daemon) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	var draining sync.WaitGroup
	for _, p := range d.ports {
		draining.Go(func() {
			if err := p.device.Drain(ctx); err != nil {
				d.log.Warn("frames may be lost at the end", "port", p.name, "error", err)
			}
		})
	}
	draining.Wait()
}

// servePorts serves every port until ctx ends, or until all sockets that were
// handed over are done.
func (d *daemon) servePorts(ctx context.Context) error {
	errs := make([]error, len(d.ports))
	var serving sync.WaitGroup
	for i, p := range d.ports {
		serving.Go(func() { errs[i] = p.server.Serve(ctx) })
	}
	serving.Wait()
	return errors.Join(errs...)
}

// closePorts takes the ports off the switch after their last session.
func (d *daemon) closePorts() error {
	ctx, cancel := context.WithTimeout(context.Background(), quiesceTimeout)
	defer cancel()
	errs := make([]error, len(d.ports))
	for i, p := range d.ports {
		errs[i] = p.device.Close(ctx)
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
		if err := r.print(time.Now(), d.ports); err != nil {
			d.log.Error("counters cannot be printed", "error", err)
		}
	}
}
