package tap

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// Options is what an Uplink is made from. Switch, Group, Log and Queues are
// required.
type Options struct {
	Name   string // of the port
	Switch *vswitch.Switch
	Group  *worker.Group
	Log    hclog.Logger
	Mode   worker.Mode // how the queues are polled

	// Queues are those of one device (sys.OpenTAP, sys.TAPFrom). They are the
	// Uplink's from New on, also when that fails.
	Queues []*sys.TAP

	// Switching says how the switch treats the port: VLANs, and so on. Its Name
	// and Counters are the Uplink's.
	Switching vswitch.PortOptions
}

// Uplink is a TAP device as a port of a switch. It is made by New, works while
// Run runs, and is done then.
type Uplink struct {
	o        Options
	port     vswitch.PortID
	counters metrics.Port
	memory   *sharedmem.Allocator
	queues   []*queue

	gone     atomic.Bool   // the device was deleted
	lost     chan struct{} // closed when that was seen
	draining atomic.Bool   // nothing is read any more; see Drain
	held     atomic.Int64  // frames that the queues hold while the Uplink drains

	closing sync.Once
	err     error // of closing
}

// New makes an Uplink from o and attaches it to the switch. Nothing moves before
// Run.
func New(o Options) (*Uplink, error) {
	u := &Uplink{o: o, lost: make(chan struct{})}
	if err := u.open(); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), endWait)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("tap: %q: %w", o.Name, err), u.Close(ctx))
	}
	return u, nil
}

func (u *Uplink) open() (err error) {
	o := &u.o
	if o.Switch == nil || o.Group == nil || o.Log == nil || len(o.Queues) == 0 {
		return errors.New("a Switch, a Group, a Log and at least one queue are needed")
	}
	if u.memory, err = sharedmem.NewHostAllocator(uint64(len(o.Queues)) * visitFrames * stride); err != nil {
		return err
	}
	for _, t := range o.Queues {
		q, err := newQueue(u, t)
		if err != nil {
			return err
		}
		u.queues = append(u.queues, q)
	}
	s := o.Switching
	s.Name, s.Counters = o.Name, &u.counters
	u.port, err = o.Switch.Attach(u, s)
	return err
}

// Device is the interface's name.
func (u *Uplink) Device() string { return u.o.Queues[0].Name() }

// Port is the Uplink's place on its switch.
func (u *Uplink) Port() vswitch.PortID { return u.port }

// Snapshot is what the port counted. It may be called concurrently with
// everything.
func (u *Uplink) Snapshot() metrics.PortSnapshot { return u.counters.Snapshot() }

// endWait bounds how long the end waits for workers.
const endWait = 10 * time.Second

// Run carries frames until ctx ends. A device that goes away is told once, and
// Run waits on: the port counts what is lost.
func (u *Uplink) Run(ctx context.Context) error {
	workers := make([]*worker.Worker, len(u.queues))
	var err error
	for i, q := range u.queues {
		w := u.o.Group.Pick()
		if err = w.Add(ctx, q, u.o.Mode); err != nil {
			break
		}
		workers[i] = w
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case <-u.lost:
			u.o.Log.Error("TAP device is gone; no frames pass until the program is started again, or the uplink added again", "device", u.Device())
			<-ctx.Done()
		}
	}
	ending, cancel := context.WithTimeout(context.Background(), endWait)
	defer cancel()
	for i, w := range workers {
		if w == nil {
			continue
		}
		if rerr := w.Remove(ending, u.queues[i]); rerr != nil && !errors.Is(rerr, worker.ErrStopped) {
			err = errors.Join(err, rerr)
		}
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("tap: %q: %w", u.o.Name, err)
	}
	return nil
}

// Drain reads no more frames, for good, and returns when every frame that was
// read is delivered or dropped, or ctx ends.
func (u *Uplink) Drain(ctx context.Context) error {
	u.draining.Store(true)
	for {
		// A round lies between the first Quiesce, after which every visit sees
		// the mark, and the second: each queue has said by then what it holds.
		for range 2 {
			if err := u.o.Group.Quiesce(ctx); err != nil {
				return fmt.Errorf("tap: %q: workers did not come round, frames that were read may not be delivered: %w", u.o.Name, err)
			}
		}
		if u.held.Load() == 0 {
			return nil
		}
	}
}

// Close takes the port off the switch and gives everything back. Run has
// returned, or was never called. Closing again does nothing.
func (u *Uplink) Close(ctx context.Context) error {
	u.closing.Do(func() { u.err = u.close(ctx) })
	return u.err
}

func (u *Uplink) close(ctx context.Context) error {
	var errs []error
	if u.port != 0 {
		u.o.Switch.Detach(u.port)
		if err := u.o.Group.Quiesce(ctx); err != nil && !errors.Is(err, worker.ErrStopped) {
			return fmt.Errorf("tap: %q: a worker may still write to it: %w", u.o.Name, err)
		}
	}
	for _, q := range u.queues {
		errs = append(errs, q.end())
	}
	if u.memory != nil {
		errs = append(errs, u.memory.Close())
	}
	sys.CloseTAPs(u.o.Queues)
	return errors.Join(errs...)
}

// broken notes that the device is gone. It never waits.
func (u *Uplink) broken() {
	if !u.gone.Swap(true) {
		close(u.lost)
	}
}

// headerLen is what nbl reads in front of a frame, and what the device writes.
const headerLen = sys.TAPHeaderLen

// What one read may bring, and what a visit takes at most.
const (
	frameBytes  = headerLen + nbl.MaxFrame
	stride      = (frameBytes + 63) &^ 63
	visitFrames = 64
	visitBytes  = 1 << 20
)
