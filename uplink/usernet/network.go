package usernet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"vhostnet/sharedmem"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// Network is a user-mode network as a port of a switch. It is made by New, works
// while Run runs, and is done then.
type Network struct {
	o   Options
	mac uint64 // of the gateway

	linkLocal netip.Addr // of the gateway

	port       uplink
	counters   counters
	memory     *sharedmem.Allocator
	out        *outbound
	link       *link
	inbox      *inbox
	guests     guests
	stations   stations
	conns      connections
	dials      dials
	flows      *flows
	forwards   forwards
	asked      asked
	reassembly reassembly
	services   services
	ipID       atomic.Uint32
	silenced   atomic.Bool // the log has said that there is no ping

	state  sync.Mutex
	phase  phase
	stack  *stack.Stack    // while it runs
	ctx    context.Context // of what it has started
	cancel context.CancelFunc
	tasks  sync.WaitGroup // everything that it has started
	closed sync.Once
	err    error // of closing
}

// phase is where a Network stands.
type phase uint8

const (
	phaseMade phase = iota
	phaseRunning
	phaseEnding
)

// New makes a Network from o: it is attached to the switch, and its Forwards
// listen. Nothing moves before Run. An error says what to change.
func New(o Options) (*Network, error) {
	if err := o.fill(); err != nil {
		return nil, fmt.Errorf("usernet: %q: %w", o.Name, err)
	}
	n := &Network{
		o: o, mac: macNumber(o.MAC), linkLocal: linkLocal(o.MAC),
		inbox:  newInbox(o.Limits.GuestQueue),
		guests: guests{m: map[vswitch.PortID]*guest{}},
		dials:  dials{each: o.Limits.GuestConnecting, m: map[dialKey]*dial{}, waiting: map[dialKey]struct{}{}},
	}
	n.port.n = n
	n.reassembly = reassembly{o: &n.o.Limits, counters: &n.counters, m: map[piecesKey]*pieces{}}
	n.link = &link{n: n}
	n.stations = stations{
		mayHave: n.mayHave, moved: n.movedTo,
		m: map[netip.Addr]*station{}, limit: o.Limits.Addresses, each: o.Limits.GuestAddresses, learned: make(chan struct{}),
		conflicts: &n.counters.addressConflict, refused: &n.counters.addressLimit,
	}
	n.conns.m = map[*relay]struct{}{}
	n.asked.m = map[netip.Addr]int64{}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if err := n.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("usernet: %q: %w", o.Name, err), n.Close(context.Background()))
	}
	return n, nil
}

// open takes what the Network needs of the system and of the switch.
func (n *Network) open() (err error) {
	if err := n.newServices(); err != nil {
		return err
	}
	if n.memory, err = sharedmem.NewHostAllocator(sourceLists * sourceStride); err != nil {
		return err
	}
	if n.out, err = newOutbound(n, n.memory); err != nil {
		return err
	}
	if n.flows, err = newFlows(n); err != nil {
		return err
	}
	for _, f := range n.o.Forwards {
		if err := n.AddForward(f); err != nil {
			return err
		}
	}
	o := n.o.Switching
	o.Name, o.Counters = n.o.Name, &n.port.counters
	n.port.id, err = n.o.Switch.Attach(&n.port, o)
	return err
}

// Run carries packets until ctx ends, then gives everything back and returns: nil,
// or what could not be given back. It can be called once.
func (n *Network) Run(ctx context.Context) error {
	n.state.Lock()
	if n.phase != phaseMade {
		n.state.Unlock()
		return fmt.Errorf("usernet: %q: it runs already, or has ended; a new one is needed", n.o.Name)
	}
	n.phase = phaseRunning
	s, err := n.newStack()
	if err == nil {
		n.stack = s
		n.link.up()
	}
	n.state.Unlock()
	if err != nil {
		return errors.Join(err, n.Close(context.Background()))
	}
	w := n.o.Group.Pick()
	switch err := w.Add(ctx, n.out, n.o.Mode); {
	case err != nil && ctx.Err() != nil: // it was to end before it had begun
		return n.end(nil)
	case err != nil:
		return errors.Join(err, n.end(nil))
	}
	n.start(func() { n.serve(n.ctx.Done()) })
	n.start(n.flows.receive)
	n.start(n.sweep)
	n.runServices()
	n.forwards.start(n)
	<-ctx.Done()
	return n.end(w)
}

// start runs f as one of the Network's goroutines. It answers false, and does
// not, when the Network ends.
func (n *Network) start(f func()) bool {
	n.state.Lock()
	defer n.state.Unlock()
	if n.phase == phaseEnding {
		return false
	}
	n.tasks.Go(f)
	return true
}

// enter is start for a goroutine that somebody else has started: leave ends it.
func (n *Network) enter() bool {
	n.state.Lock()
	defer n.state.Unlock()
	if n.phase == phaseEnding {
		return false
	}
	n.tasks.Add(1)
	return true
}

func (n *Network) leave() { n.tasks.Done() }

// endWait bounds how long the end waits for workers.
const endWait = 10 * time.Second

// end stops what runs, in the order of the packets' way.
func (n *Network) end(w *worker.Worker) error {
	n.state.Lock()
	n.phase = phaseEnding
	n.state.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	var errs []error
	if err := n.farewell(ctx); err != nil && !errors.Is(err, worker.ErrStopped) {
		errs = append(errs, err)
	}
	n.o.Switch.Detach(n.port.id)
	n.link.dispatcher.Store(nil)
	if w != nil {
		if err := w.Remove(ctx, n.out); err != nil && !errors.Is(err, worker.ErrStopped) {
			errs = append(errs, err)
		}
	}
	if err := n.o.Group.Quiesce(ctx); err != nil && !errors.Is(err, worker.ErrStopped) {
		errs = append(errs, err)
	}
	n.cancel()
	n.flows.stop()
	n.forwards.close()
	n.conns.abort()
	n.stack.Close()
	n.tasks.Wait()
	n.stack.Wait()
	return errors.Join(append(errs, n.release())...)
}

// Drain sends no more to guests, for good, and returns when what was on its way
// to them has been delivered or dropped with its count. ctx bounds it when a
// worker is held up. It may be called while Run runs, by any goroutine.
func (n *Network) Drain(ctx context.Context) error {
	if err := n.farewell(ctx); err != nil {
		return err
	}
	n.out.draining.Store(true)
	for {
		// A visit that began before the mark was seen has ended after the first
		// Quiesce, and another one has told what it holds after the second.
		for range 2 {
			if err := n.o.Group.Quiesce(ctx); err != nil {
				return fmt.Errorf("usernet: %q: workers did not come round, packets to guests may not be delivered: %w", n.o.Name, err)
			}
		}
		if n.out.holds.Load() == 0 {
			return nil
		}
	}
}

// farewell takes the router back that guests were told of, so that they do not
// send to it when it is gone.
func (n *Network) farewell(ctx context.Context) error {
	if n.out.draining.Load() {
		return nil // it was said
	}
	p := newPacket(packetSize)
	n.sayOrFree(p, n.services.ndp.Farewell(p.frame[:0]))
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for range farewellTries {
		if n.out.empty() && n.out.holds.Load() == 0 {
			break
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("usernet: %q: workers did not come round: %w", n.o.Name, context.Cause(ctx))
		}
	}
	return nil
}

// farewellTries bounds how many milliseconds the end waits for what guests are
// to be told: more packets may come all the time.
const farewellTries = 50

// Close gives back a Network that never ran. After Run it does nothing. ctx
// bounds the wait for workers.
func (n *Network) Close(ctx context.Context) error {
	n.state.Lock()
	unused := n.stack == nil
	if unused {
		n.phase = phaseEnding
	}
	n.state.Unlock()
	if !unused {
		return nil
	}
	n.cancel()
	if n.port.id != 0 {
		n.o.Switch.Detach(n.port.id)
		if err := n.o.Group.Quiesce(ctx); err != nil && !errors.Is(err, worker.ErrStopped) {
			return err
		}
	}
	n.forwards.close()
	return n.release()
}

// release gives memory and descriptors back, once.
func (n *Network) release() error {
	n.closed.Do(func() {
		n.inbox.end()
		errs := []error{n.closeServices()}
		if n.flows != nil {
			errs = append(errs, n.flows.close())
		}
		if n.out != nil {
			errs = append(errs, n.out.end())
		}
		if n.memory != nil {
			errs = append(errs, n.memory.Close())
		}
		n.err = errors.Join(errs...)
	})
	return n.err
}

// sweepEvery is how often what is old is looked for.
const sweepEvery = time.Second

// sweep forgets what is old until the Network ends.
func (n *Network) sweep() {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-ticker.C:
		}
		now := worker.Now()
		n.tend(time.Now())
		n.flows.sweep(now)
		n.dials.sweep(now)
		n.asked.sweep(now)
		n.reassembly.sweep(now - piecesTime)
		n.stations.sweep(now - stationIdle)
		n.forget(n.guests.sweep(now - stationIdle))
	}
}

// linkLocal is the address that a station makes from its MAC address (RFC 4291,
// appendix A).
func linkLocal(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{
		0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
}

// isGateway reports whether a is one of the gateway's addresses.
func (n *Network) isGateway(a netip.Addr) bool {
	return a == n.o.IPv4.Addr() || a == n.o.IPv6.Addr() || a == n.linkLocal
}
