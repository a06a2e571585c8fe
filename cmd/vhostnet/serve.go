package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
	"vhostnet/netdev"
	"vhostnet/queues"
	"vhostnet/sharedmem"
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

// serve builds the graph, runs it until ctx ends and takes it down in order:
// sessions first, then what they used, the workers last.
func serve(ctx context.Context, c config, o *runOptions, log hclog.Logger) error {
	d, err := build(c, o, log)
	if err != nil {
		return err
	}
	restore := worker.RaiseProcs(c.workers)
	defer restore()

	var running sync.WaitGroup
	workersCtx, stopWorkers := context.WithCancel(context.Background())
	defer stopWorkers()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	running.Go(func() { d.events.run(workersCtx) })
	running.Go(func() {
		if err := d.group.Run(workersCtx); err != nil {
			fail(err)
		}
	})
	var reporting sync.WaitGroup
	reporting.Go(func() { d.report(ctx, newReporter(o.out, c.json), o.stats) })

	err = d.servePorts(ctx, fail)
	reporting.Wait()
	err = errors.Join(err, d.takeDown())
	stopWorkers()
	running.Wait()
	return errors.Join(err, d.adapter.Halt())
}

// build makes every part and binds the sockets; nothing runs yet. Whatever a
// user can mend about it is a usageError.
func build(c config, o *runOptions, log hclog.Logger) (d *daemon, err error) {
	d = &daemon{log: log, events: newEventLog(log)}
	defer func() {
		if err != nil {
			d.abandon()
		}
	}()
	d.group, err = worker.NewGroup(worker.Options{Workers: c.workers, CPUs: c.cpus, OnStuck: func(*sys.Event) {
		d.events.post(notice{text: "a call descriptor blocked its worker and was given up"})
	}})
	if err != nil {
		return nil, usageError{err}
	}
	d.vswitch, err = vswitch.New(vswitch.Options{})
	if err != nil {
		return nil, err
	}
	d.adapter, err = queues.NewAdapter(queues.Options{Workers: c.workers, Quiesce: d.group.Quiesce, OnEvent: d.events.queueEvent})
	if err != nil {
		return nil, err
	}
	budget, err := sharedmem.NewBudget(sharedmem.DefaultLimits())
	if err != nil {
		return nil, err
	}
	for _, spec := range c.ports {
		p, err := d.newPort(spec, c, o, budget)
		if err != nil {
			return nil, err
		}
		d.ports = append(d.ports, p)
	}
	return d, nil
}

// abandon gives back what build made before it failed. The error that made it
// fail is the one to tell.
func (d *daemon) abandon() {
	for _, p := range d.ports {
		p.server.Close()
	}
	if d.adapter != nil {
		_ = d.adapter.Halt()
	}
}

func (d *daemon) newPort(spec portSpec, c config, o *runOptions, budget *sharedmem.Budget) (*port, error) {
	log := d.log.Named(spec.name)
	device, err := netdev.New(netdev.Options{
		Name: spec.name, MAC: spec.mac, MTU: spec.mtu, Pairs: spec.pairs, Mask: spec.mask, Mode: spec.mode,
		Adapter: d.adapter, Switch: d.vswitch, Group: d.group, Log: log,
		OnBroken: func(ring int, err error) {
			d.events.post(notice{port: spec.name, text: "ring broken", ring: ring, err: err})
		},
	})
	if err != nil {
		return nil, usageError{err}
	}
	options := vhostuser.Options{Name: spec.name, Path: spec.path, Mode: c.mode, Group: o.socketGroup, Budget: budget, Log: log}
	if spec.fd >= 0 {
		if err := takeSocket(spec.fd, &options); err != nil {
			return nil, usageError{err}
		}
	}
	server, err := vhostuser.NewServer(device, options)
	if err != nil {
		return nil, usageError{err}
	}
	log.Info("port is open", "socket", spec.path, "mac", net.HardwareAddr(spec.mac[:]).String())
	return &port{name: spec.name, device: device, server: server}, nil
}

// takeSocket puts an inherited socket in its place: a listening one or one
// that a front-end is connected to.
func takeSocket(fd int, o *vhostuser.Options) error {
	listening, err := sys.IsListening(fd)
	if err != nil {
		return fmt.Errorf("--fd %d is not a socket that this program inherited: %w", fd, err)
	}
	o.Path, o.Group = "", ""
	if listening {
		o.Listener = sys.OwnFD(fd)
	} else {
		o.Conn = sys.OwnFD(fd)
	}
	return nil
}

// servePorts serves every port until ctx ends, or until all sockets that were
// handed over are done.
func (d *daemon) servePorts(ctx context.Context, fail context.CancelCauseFunc) error {
	var serving sync.WaitGroup
	for _, p := range d.ports {
		serving.Go(func() {
			if err := p.server.Serve(ctx); err != nil {
				fail(fmt.Errorf("port %s: %w", p.name, err))
			}
		})
	}
	serving.Wait()
	cause := context.Cause(ctx)
	fail(nil)
	if errors.Is(cause, context.Canceled) {
		return nil
	}
	return cause
}

// takeDown takes the ports off the switch after their last session.
func (d *daemon) takeDown() error {
	ctx, cancel := context.WithTimeout(context.Background(), quiesceTimeout)
	defer cancel()
	var errs []error
	for _, p := range d.ports {
		errs = append(errs, p.device.Close(ctx))
	}
	return errors.Join(errs...)
}

// report prints counters at every interval and at SIGUSR1.
func (d *daemon) report(ctx context.Context, r *reporter, interval time.Duration) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	defer signal.Stop(asked)
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
			d.log.Error("counters not printed", "error", err)
			return
		}
	}
}
