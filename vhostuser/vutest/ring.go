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
// outstanding. mu is held by whoever moves frames on it.
type ring struct {
	index    int
	size     int
	features virtio.Features
	mem      *memory
	drv      *vqtest.Driver
	addr     vhostuser.VringAddr
	base     uint32 // the answer to the last GET_VRING_BASE

	kick  *sys.Event
	kicks atomic.Uint64
	wake  *sys.Poller          // watches the interrupts; one per ring, as rings can share a line
	call  atomic.Pointer[line] // nil: there is no interrupt, the driver polls

	mu    sync.Mutex
	free  []uint16          // descriptors, used first in, first out
	out   map[uint16]*chain // outstanding chains by head
	order []uint16          // their heads as they were made available
	avail uint16            // behind the last chain made available
	told  uint16            // behind the last chain published
	used  uint16            // behind the last chain taken back
	fence uint32

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
	at := r.drv.Rings()
	r.addr = vhostuser.VringAddr{
		Index: uint32(index), Desc: user + at.Desc, Avail: user + at.Avail, Used: user + at.Used,
		Log: gpa + at.Used,
	}
	for i := range size {
		r.free = append(r.free, uint16(i))
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

func (r *ring) close() {
	r.kick.Close()
	_ = r.wake.Close()
}

// publish shows the device the chains that were made available and kicks it if
// it asks for that (virtio 1.3, section 2.7.13.3).
func (r *ring) publish() {
	old := r.told
	r.told = r.avail
	if r.told == old {
		return
	}
	r.drv.SetAvailIdx(r.avail)
	// The release store above and this acquire load are in order: pairs with
	// the device's fence between asking for kicks and its look at avail.idx.
	r.drv.UsedIdx()
	wanted := r.drv.UsedFlags()&1 == 0
	if r.features.Has(virtio.EventIdx) {
		wanted = r.avail-r.drv.AvailEvent()-1 < r.avail-old
	}
	if wanted {
		r.kicks.Add(1)
		r.kick.Signal()
	}
}

// ready is how many chains the device has returned that were not taken back.
func (r *ring) ready() (int, error) {
	n := r.drv.UsedIdx() - r.used
	if int(n) > len(r.out) {
		return 0, fmt.Errorf("vutest: ring %d: used.idx is %d entries ahead, and %d chains are outstanding", r.index, n, len(r.out))
	}
	return int(n), nil
}

// wantCalls asks for a call at the next used entry and reports whether one
// came before the device could know.
func (r *ring) wantCalls() (more bool) {
	if r.features.Has(virtio.EventIdx) {
		r.drv.SetUsedEvent(r.used)
	} else {
		r.drv.SetAvailFlags(0)
	}
	// Pairs with the device's fence between its store of used.idx and its look
	// at our wish.
	sharedmem.Fence(&r.fence)
	return r.drv.UsedIdx() != r.used
}

// noCalls says that the driver looks by itself for now.
func (r *ring) noCalls() {
	if r.features.Has(virtio.EventIdx) {
		r.drv.SetUsedEvent(r.used - 1)
	} else {
		r.drv.SetAvailFlags(1)
	}
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
			time.Sleep(min(left, pollPause))
			continue
		}
		if r.wantCalls() {
			continue
		}
		called, err := r.sleep(end)
		if err != nil {
			return err
		}
		if n, err := r.ready(); err != nil || n == 0 || called || r.call.Load() == nil {
			continue
		}
		if called, err = r.sleep(time.Now().Add(callGrace)); err != nil {
			return err
		}
		if !called {
			return fmt.Errorf("vutest: ring %d: chains came back without the call that was asked for", r.index)
		}
	}
}

// sleep waits for a call: until there is one, until end, or until the ring has
// no interrupt any more.
func (r *ring) sleep(end time.Time) (called bool, err error) {
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
