package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
	"vhostnet/netdev"
	"vhostnet/queues"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// build makes every part and binds the sockets; nothing runs yet. Whatever a
// user can mend about it is a usageError.
func build(c config, log hclog.Logger) (*daemon, error) {
	d := &daemon{c: c, log: log, events: newEventLog(log), ports: newPorts(hostID())}
	if err := d.assemble(c); err != nil {
		d.abandon()
		return nil, err
	}
	d.announce() // now that nothing is refused any more
	return d, nil
}

func (d *daemon) assemble(c config) (err error) {
	if err := checkCPUs(c.cpus, c.saidCPUs); err != nil {
		return usageError{err}
	}
	d.group, err = worker.NewGroup(worker.Options{Workers: c.workers, CPUs: c.cpus, OnStuck: func(*sys.Event) {
		d.events.post(notice{text: "a call descriptor blocked its worker and was given up"})
	}})
	if err != nil {
		return usageError{err}
	}
	d.vswitch, err = vswitch.New(vswitch.Options{})
	if err != nil {
		return err
	}
	d.adapter, err = queues.NewAdapter(queues.Options{Workers: c.workers, Quiesce: d.group.Quiesce, OnEvent: d.tell})
	if err != nil {
		return err
	}
	d.verbs = d.adapter.Bind("control API")
	d.guests = newGuestChannel(d)
	d.freeCtx, d.endFree = context.WithCancel(context.Background())
	if err := d.adapter.Restart(); err != nil {
		return err
	}
	if c.balance {
		if d.balancer, err = d.adapter.NewBalancer(balancing); err != nil {
			return err
		}
	}
	if d.budget, err = sharedmem.NewBudget(sharedmem.DefaultLimits()); err != nil {
		return err
	}
	if err := d.openPorts(c.ports); err != nil {
		return err
	}
	return d.openControl(c.control, c.saidCtl)
}

// openPorts makes the ports of the configuration, those first that watch others:
// what is mirrored names them.
func (d *daemon) openPorts(specs []portSpec) error {
	added, err := d.ports.reserve(specs...)
	if err != nil {
		return usageError{err}
	}
	for range added {
		defer d.ports.changes.Done()
	}
	for _, sinks := range []bool{true, false} {
		for _, p := range added {
			if p.spec().sink != sinks {
				continue
			}
			if err := d.openPort(p, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// announce logs what was built.
func (d *daemon) announce() {
	list := d.ports.all()
	d.log.Info("starting", "version", version(), "ports", len(list), "workers", d.c.workers)
	for _, p := range list {
		d.announcePort(*p.spec())
		waysInBehind(p).begin()
	}
}

// abandon gives back what assemble made before it failed. The error that made it
// fail is the one to tell.
func (d *daemon) abandon() {
	for _, p := range d.ports.all() {
		_ = closeSoon(p.behind)
	}
	d.control.close()
	d.guests.close()
	if d.adapter != nil {
		_ = d.adapter.Close(context.Background())
	}
}

// newVM attaches a device to the switch and binds its socket; an error names the
// flag that asked for them. Until the device is the caller's nothing of it is
// left on an error.
func (d *daemon) newVM(spec portSpec, o vswitch.PortOptions) (_ *vm, err error) {
	sw, err := d.switchOf(spec.network)
	if err != nil {
		return nil, err
	}
	home := 0 // a worker with few rings
	if d.balancer != nil {
		home = 1 + balancing.Home
	}
	v := &vm{} // its server is made from its device, and there before anybody connects
	v.away.Store(worker.Now())
	v.device, err = netdev.New(netdev.Options{
		Name: spec.name, MAC: spec.mac, MTU: spec.mtu, Pairs: spec.pairs, Mask: spec.mask, Mode: spec.mode, Queue: spec.queue, Switching: o, Home: home,
		Adapter: d.adapter, Switch: sw, Group: d.group, Log: d.log.With("port", spec.name),
		OnConfig: func() { v.server.ConfigChanged() },
		OnBroken: func(ring int, err error) {
			d.events.post(notice{port: spec.name, text: "ring broken", ring: ring, err: err})
			d.tellBroken(spec.name, ring, err)
		},
	})
	if err != nil {
		return nil, spec.said.wrong(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeSoon(v.device))
		}
	}()
	options, err := socketOptions(spec, d.c)
	if err != nil {
		return nil, err
	}
	options.Budget, options.Log, options.Inflight = d.budget, d.log, spec.inflight
	if d.c.stateDir != "" {
		options.Positions = filepath.Join(d.c.stateDir, spec.name+".rings")
	}
	options.OnFrontEnd = func(connected bool) { d.tellFrontEnd(spec.name, v, connected) }
	v.server, err = vhostuser.NewServer(v.device, options)
	if err != nil {
		return nil, spec.said.wrong(err)
	}
	for _, a := range spec.statics {
		if err := sw.AddStatic(v.device.Port(), a.VLAN, a.MAC); err != nil {
			v.server.Close()
			return nil, spec.said.wrong(err)
		}
	}
	if v.guest, err = d.newGuest(spec); err != nil {
		v.server.Close()
		return nil, err
	}
	return v, nil
}

// closer is a port, a VM's device, a binding.
type closer interface {
	Close(ctx context.Context) error
}

// closeSoon closes what is not served.
func closeSoon(c closer) error {
	ctx, cancel := context.WithTimeout(context.Background(), quiesceTimeout)
	defer cancel()
	return c.Close(ctx)
}

// socketOptions say where a port's front-ends come from.
func socketOptions(spec portSpec, c config) (vhostuser.Options, error) {
	o := vhostuser.Options{Name: spec.name}
	switch access := spec.access.or(c.access); {
	case spec.fd >= 0:
		if err := takeSocket(spec.fd, &o); err != nil {
			return o, fmt.Errorf("%s: %w", spec.from, err)
		}
	case spec.dial:
		o.Path, o.Dial = spec.path, true
	default:
		o.Path, o.Mode, o.Owner, o.Group = spec.path, access.mode, access.owner, access.group
	}
	return o, nil
}

// takeSocket puts an inherited socket in its place: a listening one or one
// that a front-end is connected to.
func takeSocket(fd int, o *vhostuser.Options) error {
	listening, err := sys.IsListening(fd)
	if err != nil {
		return fmt.Errorf("want a unix stream socket that this program inherited: %w", err)
	}
	if listening {
		o.Listener = sys.OwnFD(fd)
	} else {
		o.Conn = sys.OwnFD(fd)
	}
	return nil
}

// checkCPUs tries what the workers will do, on a thread that ends with it.
func checkCPUs(cpus []int, said origin) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for good, so that nobody gets a pinned thread
		for _, cpu := range cpus {
			if err := sys.PinThread(cpu); err != nil {
				result <- said.errorf("CPU %d: want CPUs of Cpus_allowed_list in /proc/self/status: %w", cpu, err)
				return
			}
		}
		result <- nil
	}()
	return <-result
}
