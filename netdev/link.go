package netdev

import (
	"context"
	"fmt"
)

// SetLink takes the port's link down or up again; it begins up. While it is
// down no frame passes in either direction, each is counted, and a driver that
// accepted STATUS and whose front-end takes the configuration space from here is
// told. When it returns nil after down, no worker is delivering a frame any
// more that entered before; ctx bounds that wait. It may be called concurrently
// with everything.
func (d *Device) SetLink(ctx context.Context, up bool) error {
	d.link.Lock()
	changed := d.linkDown.Swap(!up) == up
	d.o.Switch.SetLink(d.port, up)
	d.link.Unlock()
	if changed {
		d.o.OnConfig()
	}
	if up {
		return nil
	}
	if err := d.o.Group.Quiesce(ctx); err != nil {
		return fmt.Errorf("netdev: port %q: its link is down, but frames may still be on their way: %w", d.o.Name, err)
	}
	return nil
}

// LinkUp reports whether the port's link is up, as [Device.SetLink] left it. A
// link without a front-end is up, too.
func (d *Device) LinkUp() bool { return !d.linkDown.Load() }
