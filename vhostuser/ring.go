package vhostuser

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// maxRingSize is the largest ring (virtio 1.3, sections 2.7 and 2.8).
const maxRingSize = 32768

// errRing marks the failure of one ring, which costs nothing but that ring.
var errRing = errors.New("vhostuser: ring cannot run")

// ringState is where a ring is in its life; the package doc draws it.
type ringState uint8

const (
	stopped ringState = iota // something that a start needs has not come
	running                  // the device has a Queue
	parked                   // everything has come, but there is no Queue: it is disabled and something changed, its memory is not there, or it is malformed
)

// ring is what a front-end said about one ring.
type ring struct {
	index int
	state ringState
	retry bool // something changed since the last attempt to start

	// Of one start; GET_VRING_BASE forgets them.
	size    uint32 // entries, 0: not set
	addr    VringAddr
	addrSet bool
	kick    *sys.Event // nil with kickSet: the ring is polled
	kickSet bool
	call    *sys.Event       // nil: nobody is called
	saved   *virtqueue.State // of a ring that ran and was parked

	// These survive a stop.
	base    uint32     // what GET_VRING_BASE answers while the ring does not run
	baseSet bool       // it is of this front-end, or of a ring that ran
	err     *sys.Event // nil: nobody is told
	enabled bool
	ran     bool // in this session

	journal *virtqueue.Journal // where its position is kept; nil: nowhere
}

// forget closes the descriptors.
func (r *ring) forget() {
	r.kick.Close()
	r.call.Close()
	r.err.Close()
	r.kick, r.call, r.err = nil, nil, nil
}

// idle refuses a change to a ring in use, one that runs and is enabled. A ring
// that runs and is disabled is not: libkrun disables its rings and sets them
// up again without stopping them.
func (r *ring) idle() error {
	if r.state == running && r.enabled {
		return fmt.Errorf("vhostuser: ring %d runs and is enabled; it must be stopped (GET_VRING_BASE) or disabled first", r.index)
	}
	return nil
}

// exchange puts e into one of r's places. The old event is closed when no
// thread of the device can use it any more.
func (s *session) exchange(r *ring, place **sys.Event, e *sys.Event) error {
	old := *place
	*place = e
	defer old.Close()
	if r.state != running {
		return nil
	}
	return s.replace(r)
}

// ready reports whether an attempt to start r makes sense. A ring that was set
// up is started whether it is enabled or not; a parked one waits until it is
// enabled, as the addresses of a disabled one may name memory that serves
// another purpose by now: libkrun resets a device by disabling its rings.
func (r *ring) ready() bool {
	return r.retry && r.size != 0 && r.addrSet && r.kickSet && (r.state == stopped || r.state == parked && r.enabled)
}

// settle tries to start every ring that has become complete. It is called
// after each message, so that the order of messages does not matter.
func (s *session) settle() error {
	var failed error
	for i := range s.rings {
		r := &s.rings[i]
		if !s.negotiated || !r.ready() {
			continue
		}
		r.retry = false
		failed = errors.Join(failed, s.start(r))
	}
	return failed
}

// start makes the ring's Queue and gives it to the device. A ring whose
// addresses lie in no memory known yet is no error: it waits.
func (s *session) start(r *ring) error {
	q, err := s.queue(r, r.saved)
	if err == nil {
		if err = s.dev.StartRing(r.index, q); err != nil {
			q.Close()
		}
	}
	if err != nil {
		return s.park(r, r.saved, err)
	}
	if r.saved != nil {
		// What changed meanwhile may be the call descriptor, and one call too
		// many is harmless.
		tell(r.call)
	}
	s.tellRecovered(r, q)
	r.state, r.saved, r.ran = running, nil, true
	s.log(hclog.Debug, "ring started", "ring", r.index, "size", r.size)
	return nil
}

// replace gives a running ring a Queue made from the session's present
// memory, addresses and events, at the ring's own position. A new Queue writes
// to the ring, so a disabled ring gets it when it is enabled.
func (s *session) replace(r *ring) error {
	if !r.enabled {
		state := s.dev.StopRing(r.index)
		r.state, r.saved, r.retry = parked, &state, true
		s.log(hclog.Debug, "disabled ring parked", "ring", r.index, "base", state.Base())
		return nil
	}
	var saved *virtqueue.State
	var failed error
	err := s.dev.ReplaceRing(r.index, func(st virtqueue.State) (*virtqueue.Queue, error) {
		saved = &st
		q, err := s.queue(r, saved)
		failed = err
		if waits(err) {
			return nil, nil
		}
		return q, err
	})
	if err = errors.Join(err, failed); err != nil {
		return s.park(r, saved, err)
	}
	return nil
}

// park notes that a complete ring cannot run now, and why. Memory that is not
// there is no error: it comes or goes by messages of its own.
func (s *session) park(r *ring, saved *virtqueue.State, err error) error {
	waited := r.state == parked
	r.state, r.saved = parked, saved
	switch {
	case !waits(err):
	case errors.Is(err, errNoLog):
		s.log(hclog.Debug, "ring waits for the dirty log", "ring", r.index)
		return nil
	case saved == nil && !s.lacking:
		s.lacking = true // the rings to come lack it for the same reason
		s.log(hclog.Warn, "ring waits for its memory, and no frames pass: the front-end has not shared it; the VM's memory must be shared (QEMU: memory-backend-memfd with share=on)", "ring", r.index, "error", err)
		return nil
	case waited:
		return nil
	default:
		s.log(hclog.Info, "ring waits for its memory", "ring", r.index, "error", err)
		return nil
	}
	tell(r.err)
	s.log(hclog.Warn, "ring cannot run", "ring", r.index, "error", err)
	return fmt.Errorf("%w: ring %d: %w", errRing, r.index, err)
}

// queue makes a Queue over the ring's memory. It goes on from saved; when there
// is none, a split ring from the used index in memory, as front-ends disagree
// about the base after a crash, and a packed one, whose memory does not tell,
// from the position that its region or its file has, or from the base.
func (s *session) queue(r *ring, saved *virtqueue.State) (q *virtqueue.Queue, err error) {
	c := virtqueue.Config{
		Index:    r.index,
		Size:     int(r.size),
		Features: s.features,
		Kick:     r.kick,
		Call:     r.call,
		Err:      r.err,
		Resume:   saved,
	}
	if saved == nil && r.baseSet && s.features.Has(virtio.RingPacked) {
		at := virtqueue.StateOf(s.features, r.base)
		c.Resume = &at
	}
	m := s.memory.current
	if c.Desc, err = m.UserBlock(r.addr.Desc, virtqueue.DescLen(c.Size)); err != nil {
		return nil, fmt.Errorf("descriptors: %w", err)
	}
	if c.Avail, err = m.UserBlock(r.addr.Avail, virtqueue.AvailLen(c.Size, c.Features)); err != nil {
		return nil, fmt.Errorf("available ring: %w", err)
	}
	if c.Used, err = m.UserBlock(r.addr.Used, virtqueue.UsedLen(c.Size, c.Features)); err != nil {
		return nil, fmt.Errorf("used ring: %w", err)
	}
	if err = s.logInto(r, &c); err != nil {
		return nil, err
	}
	s.keepPosition(r, &c, saved == nil)
	if err = s.track(r, &c, saved == nil); err != nil {
		return nil, err
	}
	err = sharedmem.Guard(func() (err error) {
		if saved == nil {
			if err := s.land(r, &c); err != nil {
				return err
			}
		}
		q, err = virtqueue.New(c, m)
		return err
	})
	return q, err
}

// unseat takes a ring's Queue away, and with it the position it had; what it
// was configured with stays.
func (s *session) unseat(r *ring) {
	r.saved = nil
	if r.state != running {
		return
	}
	r.state = parked
	r.base, r.baseSet = s.dev.StopRing(r.index).Base(), true
	s.log(hclog.Debug, "ring stopped", "ring", r.index, "base", r.base)
}

// stop ends the ring's service and forgets what belongs to one start. With the
// last ring the dirty log goes: when the device starts again amid a migration
// its log comes last, and until then the old one would get the marks.
func (s *session) stop(r *ring) {
	if r.state != stopped {
		defer s.dropLog((*ring).live)
	}
	if r.saved != nil {
		r.base, r.baseSet = r.saved.Base(), true
	}
	s.unseat(r)
	r.state, r.retry = stopped, false
	r.size, r.addrSet, r.kickSet = 0, false, false
	r.kick.Close()
	r.call.Close()
	r.kick, r.call = nil, nil
}

// tellPatience is how long the write to an event may take before it is ended.
const tellPatience = 100 * time.Millisecond

// tell signals an event from the session's own goroutine. The front-end shares
// the event and can fill it at the very moment, which blocks the write; no
// worker's watchdog looks after us here.
func tell(e *sys.Event) {
	if e == nil {
		return
	}
	written, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(tellPatience)
		defer tick.Stop()
		for {
			select {
			case <-written:
				return
			case <-tick.C:
				if e.Full() { // else this process has lost its CPU; the write will go through
					e.Kill()
				}
			}
		}
	}()
	e.Signal()
	close(written)
	<-ended
}
