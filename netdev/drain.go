package netdev

import (
	"context"
	"fmt"

	"vhostnet/worker"
)

// Drain takes no more frames from the guest, for good, and returns when every
// frame taken before has been delivered or dropped with its count and its chain
// is back in the used ring. Those that wait for a receiver wait as long as they
// would have anyway (vswitch.PortOptions.Wait), so that a Drain is short; ctx
// bounds it when a worker is held up. Deliveries to the guest go on.
//
// It may be called concurrently with the session's calls. To bring everything
// that was taken to its receivers, drain all ports of a switch before the
// session of any one ends.
func (d *Device) Drain(ctx context.Context) error {
	d.draining.Store(true)
	for {
		// A round lies between the first Quiesce, after which every visit sees
		// the mark, and the second: each ring has said by then what it holds.
		for range 2 {
			if err := d.o.Group.Quiesce(ctx); err != nil {
				return fmt.Errorf("netdev: port %q: workers did not come round, frames that were taken may not be delivered: %w", d.o.Name, err)
			}
		}
		if d.held.Load() == 0 {
			return nil
		}
	}
}

// pour is a visit while the device drains: what is held is decided on and given
// back, nothing is taken.
func (t *txRing) pour(c *worker.Context) (busy bool) {
	if t.n > 0 {
		t.forward(c)
		t.complete(c)
	}
	t.hold(t.n)
	return t.n > 0
}

// hold tells a device that drains how many chains the ring holds.
func (t *txRing) hold(n int) {
	t.dev.held.Add(int64(n - t.holds))
	t.holds = n
}
