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
	ports   []*port
	events  *eventLog
}

// quiesceTimeout bounds waits for workers at the end of the program.
const quiesceTimeout = 2 * time.Second

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
// order: sessions, the reporter, ports, workers, queue 0.
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
	err := d.servePorts(serving)
	stop()
	reporting.Wait()
	if ctx.Err() != nil {
		d.log.Info("ending", "cause", context.Cause(ctx))
	}
	err = errors.Join(err, d.closePorts())
	stopBelow()
	lower.Wait()
	return errors.Join(groupErr, err, d.adapter.Halt())
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
