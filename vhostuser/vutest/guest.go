package vutest

import (
	"errors"
	"fmt"
	"slices"

	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// boot lets a guest come up: its driver chooses features, lays out its rings
// in empty memory and posts its receive buffers. The back-end hears of nothing.
func (f *FrontEnd) boot(g Guest) (err error) {
	pairs := 1
	f.accepted = f.choose(g)
	if g.Packed && !f.accepted.Has(virtio.RingPacked) {
		return fmt.Errorf("vutest: a guest with packed rings; the back-end offers %s, and %s lets through %s", f.offered, f.kind.name, f.kind.features)
	}
	if g.Legacy && !f.kind.legacy {
		return fmt.Errorf("vutest: a legacy guest of %s, which has none", f.kind.name)
	}
	if f.accepted.Has(virtio.NetMQ) {
		pairs = f.o.Pairs
	} else {
		g.Pairs = 1
	}
	if g, err = g.fill(pairs); err != nil {
		return err
	}
	f.guest, f.active = g, 0
	f.mem.reset()
	defer func() {
		if err != nil {
			f.shutdown()
		}
	}()
	for i := range 2 * pairs {
		r, err := newRing(i, g.RingSize, f.accepted, f.mem)
		if err != nil {
			return err
		}
		f.rings = append(f.rings, r)
	}
	if f.kind.forwards && f.accepted.Has(virtio.NetCtrlVQ) {
		if f.ctrl, err = newRing(f.controlIndex(), controlRingSize, f.accepted, f.mem); err != nil {
			return err
		}
	}
	if err := f.wire(g); err != nil {
		return err
	}
	return sharedmem.Guard(func() error {
		for _, r := range f.all() {
			r.drv.NoCalls()
			if r != f.ctrl && r.index%2 == 0 {
				if err := r.postReceive(g); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// wire gives the rings their interrupts.
func (f *FrontEnd) wire(g Guest) error {
	for _, r := range f.all() {
		switch {
		case f.kind.oneCall && len(f.lines) > 0:
		case g.NoVector && !f.kind.oneCall:
			continue
		default:
			l, err := newLine()
			if err != nil {
				return err
			}
			f.lines = append(f.lines, l)
		}
		if err := r.listen(f.lines[len(f.lines)-1]); err != nil {
			return err
		}
	}
	return nil
}

// shutdown ends the guest: its rings are gone, its memory can be had again.
func (f *FrontEnd) shutdown() {
	for _, r := range f.all() {
		r.close()
	}
	for _, l := range f.lines {
		l.close()
	}
	f.region.close()
	f.rings, f.ctrl, f.lines, f.region, f.active = nil, nil, nil, nil, 0
}

// controlRingSize is the entries of a control queue.
const controlRingSize = 64

// all are the rings that the back-end is told of.
func (f *FrontEnd) all() []*ring {
	if f.ctrl == nil {
		return f.rings
	}
	return append(slices.Clone(f.rings), f.ctrl)
}

var errNoGuest = errors.New("vutest: no guest has booted; Start it first")

// ring finds a ring of the guest.
func (f *FrontEnd) ring(i int) (*ring, error) {
	if f.rings == nil {
		return nil, errNoGuest
	}
	if i < 0 || i >= len(f.rings) {
		return nil, fmt.Errorf("vutest: ring %d of a guest with %d rings", i, len(f.rings))
	}
	return f.rings[i], nil
}

// mustRing is ring for accessors of tests that know their guest.
func (f *FrontEnd) mustRing(i int) *ring {
	r, err := f.ring(i)
	if err != nil {
		panic(err)
	}
	return r
}

// Rings is how many rings the guest has set up.
func (f *FrontEnd) Rings() int { return len(f.rings) }

// Driver is the driver of ring i, which gives raw access to its words, for a
// guest that misbehaves. Nothing may be sent or received by the ring meanwhile.
// It panics when there is no such ring.
func (f *FrontEnd) Driver(i int) *vqtest.Driver { return f.mustRing(i).drv }

// Kicks is how often ring i was kicked since its guest booted. It panics when
// there is no such ring.
func (f *FrontEnd) Kicks(i int) uint64 { return f.mustRing(i).kicks.Load() }

// Calls is how often the device signalled the interrupt of ring i since its
// guest booted, 0 when it has none. Rings of a libkrun guest share one. It
// panics when there is no such ring.
func (f *FrontEnd) Calls(i int) uint64 {
	return f.mustRing(i).call.Load().signals()
}

// Outstanding is how many chains of ring i are with the device, or returned
// and not taken back yet. It panics when there is no such ring.
func (f *FrontEnd) Outstanding(i int) int {
	r := f.mustRing(i)
	r.lock()
	defer r.unlock()
	return len(r.out)
}

// Base is the answer to the last GET_VRING_BASE of ring i. It panics when there
// is no such ring.
func (f *FrontEnd) Base(i int) uint32 { return f.mustRing(i).base }

// VringAddr is what the front-end says of the addresses of ring i: those of its
// parts in the front-end, and the guest address of its used ring as the log
// address. It panics when there is no such ring.
func (f *FrontEnd) VringAddr(i int) vhostuser.VringAddr { return f.mustRing(i).addr }
