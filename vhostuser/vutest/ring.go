package vutest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// ErrTimeout is wrapped by the error of a wait for the back-end's data path
// that ended without an answer.
var ErrTimeout = errors.New("vutest: nothing came in time")

// ring is one virtqueue of the guest: its driver, its events and what is
// outstanding.
type ring struct {
	index    int
	size     int
	features virtio.Features
	mem      *memory
	drv      *vqtest.Driver
	addr     vhostuser.VringAddr
	base     uint32 // the answer to the last GET_VRING_BASE; at first where the ring begins

	kick  *sys.Event
	kicks atomic.Uint64
	wake  *sys.Poller          // watches the interrupts; one per ring, as rings can share a line
	call  atomic.Pointer[line] // nil: there is no interrupt, the driver polls

	mu    sync.Mutex
	inUse sync.Mutex        // held within mu, except while its holder sleeps
	out   map[uint16]*chain // outstanding chains by head

	indirectRx bool // receive buffers have indirect tables
}

// newRing lays a ring out in the guest's memory.
func newRing(index, size int, features virtio.Features, mem *memory) (*ring, error) {
	c := vqtest.Config{Size: size, Features: features}
	gpa, err := mem.take(int(c.Bytes()))
	if err != nil {
		return nil, err
	}
	user, err := mem.user(gpa)
	if err != nil {
		return nil, err
	}
	c.GPA = gpa
	if c.Mem, err = mem.block(gpa, c.Bytes()); err != nil {
		return nil, err
	}
	r := &ring{index: index, size: size, features: features, mem: mem, out: make(map[uint16]*chain)}
	err = sharedmem.Guard(func() (err error) {
		r.drv, err = vqtest.NewDriver(c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("vutest: ring %d: %w", index, err)
	}
	if features.Has(virtio.RingPacked) {
		r.base = vqtest.WrapBit<<16 | vqtest.WrapBit
	}
	at := r.drv.Rings()
	r.addr = vhostuser.VringAddr{
		Index: uint32(index), Desc: user + at.Desc, Avail: user + at.Avail, Used: user + at.Used,
		Log: gpa + at.Used,
	}
	if r.wake, err = sys.NewPoller(); err != nil {
		return nil, fmt.Errorf("vutest: ring %d: %w", index, err)
	}
	if r.kick, err = sys.NewEvent(); err != nil {
		_ = r.wake.Close()
		return nil, fmt.Errorf("vutest: ring %d: %w", index, err)
	}
	return r, nil
}

// listen makes l the ring's interrupt. Whoever waits for the ring meanwhile
// hears it, too.
func (r *ring) listen(l *line) error {
	if err := r.wake.Add(l.event.FD(), 0); err != nil {
		return fmt.Errorf("vutest: ring %d: %w", r.index, err)
	}
	r.call.Store(l)
	return nil
}

// lock is held by whoever moves frames on the ring.
func (r *ring) lock() {
	r.mu.Lock()
	r.inUse.Lock()
}

func (r *ring) unlock() {
	r.inUse.Unlock()
	r.mu.Unlock()
}

func (r *ring) close() {
	r.kick.Close()
	_ = r.wake.Close()
}

// publish shows the device the chains that were made available and kicks it if
// it asks for that.
func (r *ring) publish() {
	if r.drv.Publish() {
		r.kicks.Add(1)
		r.kick.Signal()
	}
}

// ready is how many chains the device has returned that were not taken back.
func (r *ring) ready() (int, error) {
	n := r.drv.Ready()
	if n > len(r.out) {
		return 0, fmt.Errorf("vutest: ring %d: %d chains were returned, and %d are outstanding", r.index, n, len(r.out))
	}
	return n, nil
}

// stands is where the device stands if it holds no chain, as GET_VRING_BASE
// says it: the index, or in a packed ring both positions.
func (r *ring) stands() (base uint32, err error) {
	packed := r.features.Has(virtio.RingPacked)
	if packed { // found by going through the entries, which nobody may take meanwhile
		r.inUse.Lock()
		defer r.inUse.Unlock()
	}
	err = sharedmem.Guard(func() error {
		base = uint32(r.drv.UsedIdx())
		return nil
	})
	if packed {
		base |= base << 16
	}
	return base, err
}

const (
	pollPause = 50 * time.Microsecond // between two looks at a ring without interrupt
	napTime   = 20 * time.Millisecond // a sleeper's look at whether the ring still has one
	callGrace = time.Second           // for a call that is under way when the time is up
)

// await waits until the device has returned a chain. The error is ErrTimeout
// when end comes first. A chain that is there at the end although the device
// was asked to call and did not is a lost interrupt.
func (r *ring) await(end time.Time) error {
	for {
		n, err := r.ready()
		if n > 0 || err != nil {
			return err
		}
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("%w: ring %d: the device returned no chain; %d are outstanding", ErrTimeout, r.index, len(r.out))
		}
		if r.call.Load() == nil {
			r.inUse.Unlock()
			time.Sleep(min(left, pollPause))
			r.inUse.Lock()
			continue
		}
		if r.drv.WantCalls() {
			continue
		}
		called, err := r.sleep(end)
		if err != nil {
			return err
		}
		asked := r.call.Load()
		if n, err := r.ready(); err != nil || n == 0 || called || asked == nil {
			continue
		}
		if called, err = r.sleep(time.Now().Add(callGrace)); err != nil {
			return err
		}
		if !called && r.call.Load() == asked {
			return fmt.Errorf("vutest: ring %d: chains came back without the call that was asked for", r.index)
		}
	}
}

// sleep waits for a call: until there is one, until end, or until the ring has
// no interrupt any more.
func (r *ring) sleep(end time.Time) (called bool, err error) {
	r.inUse.Unlock()
	defer r.inUse.Lock()
	for {
		left := min(time.Until(end), napTime)
		if left <= 0 || r.call.Load() == nil {
			return false, nil
		}
		n, err := r.wake.Wait(make([]uint64, 1), int(left.Milliseconds())+1)
		if err != nil {
			return false, fmt.Errorf("vutest: ring %d: %w", r.index, err)
		}
		if n > 0 {
			return true, nil
		}
	}
}
