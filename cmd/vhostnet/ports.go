package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"vhostnet/netdev"
	"vhostnet/vhostuser"
)

// attachment is what is behind a port of the switch: a VM, or an uplink.
type attachment interface {
	// Serve brings frames from and to the port until ctx ends, or until there is
	// nothing left to serve.
	Serve(ctx context.Context) error
	// Drain takes no more frames, for good, and returns when those that were
	// taken are where they go.
	Drain(ctx context.Context) error
	// Close takes the port off the switch, after Serve has returned or instead
	// of it, and gives back what it has.
	Close(ctx context.Context) error
}

// vm is the attachment of a virtual machine.
type vm struct {
	device    *netdev.Device
	server    *vhostuser.Server
	connected atomic.Bool  // a front-end is
	away      atomic.Int64 // when the last one left, or the port was made; worker.Now
	guest     *guest       // nil: it may not call

	mu         sync.Mutex
	left       bool           // the control API allocates no queue for it any more
	allocating sync.WaitGroup // queues that it is about to allocate; added to under mu
}

// allocate notes that a queue is about to be allocated for the port, unless it
// leaves. The caller calls allocating.Done.
func (v *vm) allocate() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.left {
		v.allocating.Add(1)
	}
	return !v.left
}

// leave lets no queue be allocated any more, and waits for those that are.
func (v *vm) leave() {
	v.mu.Lock()
	v.left = true
	v.mu.Unlock()
	v.allocating.Wait()
}

func (v *vm) Serve(ctx context.Context) error { return v.guest.beside(ctx, v.server.Serve) }
func (v *vm) Drain(ctx context.Context) error { return v.device.Drain(ctx) }

func (v *vm) Close(ctx context.Context) error {
	v.guest.close()
	v.server.Close()
	return v.device.Close(ctx)
}

// port is a place on the switch. Its fields but vm and behind are guarded by
// ports.mu.
type port struct {
	name   string
	now    atomic.Pointer[portSpec] // never nil; may be read without the lock
	behind attachment               // nil until ports.open
	vm     *vm                      // behind, if it is one

	stop    context.CancelFunc // ends Serve; nil: it has not begun
	served  chan struct{}      // closed when Serve has returned
	err     error              // of Serve
	leaving bool               // it is being removed
	claims  string             // name of the port that is about to get its copies; "": of none

	changing sync.Mutex // held while it gets other options; before ports.mu
}

// spec describes the port as it is now. It is not to be changed.
func (p *port) spec() *portSpec { return p.now.Load() }

// ports are the program's ports by name, and the owner of what serves them.
// They come and go while it runs. Its methods may be called from any goroutine.
type ports struct {
	host string // what makes addresses of ports differ from host to host

	mu      sync.Mutex
	list    []*port         // in the order in which they were asked for
	ctx     context.Context // that they are served under; nil: not yet
	closed  bool            // none comes or goes any more but by the end
	serving int
	over    chan struct{}  // closed, once, when the last one has ended by itself
	changes sync.WaitGroup // adds and removals that are under way
}

var errEnding = errors.New("the program is ending")

func newPorts(host string) *ports {
	return &ports{host: host, over: make(chan struct{})}
}

// reserve makes places for ports that are in nobody's way. Each is given an
// attachment by open, or taken back by drop; the caller calls changes.Done
// then.
func (ps *ports) reserve(specs ...portSpec) ([]*port, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.closed {
		return nil, errEnding
	}
	all := make([]portSpec, 0, len(ps.list)+len(specs))
	for _, p := range ps.list {
		all = append(all, *p.spec())
	}
	before := len(all)
	all = append(all, specs...)
	if err := joinPorts(all, ps.host, before); err != nil {
		return nil, err
	}
	for i, p := range ps.list {
		if p.leaving && slices.ContainsFunc(specs, func(s portSpec) bool { return s.mirror == p.name }) {
			return nil, fmt.Errorf("port %s is being removed and gets no copies of another's frames any more", p.name)
		}
		if all[i].sink && !p.spec().sink {
			return nil, fmt.Errorf("port %s was added as a port that sends, so it cannot get copies of another's frames now; want one that was added with sink=on", p.name)
		}
	}
	added := make([]*port, len(specs))
	for i, spec := range all[before:] {
		added[i] = &port{name: spec.name}
		added[i].now.Store(&spec)
	}
	ps.list = append(ps.list, added...)
	ps.changes.Add(len(added))
	return added, nil
}

// drop takes a port off the list.
func (ps *ports) drop(p *port) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.list = slices.DeleteFunc(ps.list, func(q *port) bool { return q == p })
}

// open gives a reserved port what is behind it, and serves it if the others are
// served. On an error the attachment is the caller's to close.
func (ps *ports) open(p *port, behind attachment) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.closed {
		return errEnding
	}
	p.behind = behind
	p.vm, _ = behind.(*vm)
	if ps.ctx != nil {
		ps.start(p)
	}
	return nil
}

// start serves a port. The caller holds mu.
func (ps *ports) start(p *port) {
	ctx, cancel := context.WithCancel(ps.ctx)
	p.stop, p.served = cancel, make(chan struct{})
	if p.vm != nil {
		ps.serving++
	}
	go func() {
		err := p.behind.Serve(ctx)
		cancel()
		ps.mu.Lock()
		defer ps.mu.Unlock()
		p.err = err
		if p.vm == nil {
			close(p.served)
			return
		}
		ps.serving--
		if ps.serving == 0 && !p.leaving && !ps.closed {
			ps.closed = true // so none is started after this
			close(ps.over)
		}
		close(p.served)
	}()
}

// serve serves all ports until ctx ends, or until the last one has ended by
// itself, as those on a socket that was handed over do. It returns when all have
// ended.
func (ps *ports) serve(ctx context.Context) error {
	ps.mu.Lock()
	ps.ctx = ctx
	for _, p := range ps.list {
		if p.behind != nil && !p.leaving {
			ps.start(p)
		}
	}
	ps.mu.Unlock()
	select {
	case <-ctx.Done():
	case <-ps.over:
	}
	ps.close()
	var errs []error
	for _, p := range ps.all() {
		<-p.served
		errs = append(errs, p.err)
	}
	return errors.Join(errs...)
}

// end ends the service of a port, if it has begun, and waits for that.
func (ps *ports) end(p *port) {
	ps.mu.Lock()
	stop, served := p.stop, p.served
	ps.mu.Unlock()
	if stop != nil {
		stop()
		<-served
	}
}

// close lets no port come or go any more, and waits for those that are under
// way.
func (ps *ports) close() {
	ps.mu.Lock()
	ps.closed = true
	ps.mu.Unlock()
	ps.changes.Wait()
}

// all are the ports that are open, in their order.
func (ps *ports) all() []*port {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	var list []*port
	for _, p := range ps.list {
		if p.behind != nil {
			list = append(list, p)
		}
	}
	return list
}

// find is the open port of a name, nil: there is none.
func (ps *ports) find(name string) *port {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.list {
		if p.behind != nil && p.name == name {
			return p
		}
	}
	return nil
}

// specs describe all ports, also those that are not open yet.
func (ps *ports) specs() []portSpec {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	list := make([]portSpec, len(ps.list))
	for i, p := range ps.list {
		list[i] = *p.spec()
	}
	return list
}

// use reports whether a port is on a switch, or is about to be.
func (ps *ports) use(network string) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return slices.ContainsFunc(ps.list, func(p *port) bool { return p.spec().network == network })
}

// isLeaving reports whether a port is being removed, or has been.
func (ps *ports) isLeaving(p *port) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return p.leaving || ps.closed
}

// claim lets the port of a name not leave until release, as p is about to be mirrored
// to it. It reports whether there is such a port that does not leave.
func (ps *ports) claim(p *port, name string) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	there := name == "" || slices.ContainsFunc(ps.list, func(q *port) bool { return q.name == name && q.vm != nil && !q.leaving })
	if there {
		p.claims = name
	}
	return there
}

func (ps *ports) release(p *port) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p.claims = ""
}

// leave begins the removal of a port: it is left to the caller, who ends with
// drop and changes.Done.
func (ps *ports) leave(name string) (*port, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	at := slices.IndexFunc(ps.list, func(p *port) bool { return p.name == name && p.behind != nil })
	switch {
	case ps.closed:
		return nil, errEnding
	case at < 0:
		return nil, fmt.Errorf("there is no port %s", name)
	case ps.list[at].leaving:
		return nil, fmt.Errorf("port %s is being removed already", name)
	}
	for _, p := range ps.list {
		if p.spec().mirror == name || p.claims == name {
			return nil, fmt.Errorf("the frames of port %s are copied to port %s; remove that one first", p.name, name)
		}
	}
	p := ps.list[at]
	p.leaving = true
	ps.changes.Add(1)
	return p, nil
}
