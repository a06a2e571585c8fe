package netdev

import (
	"math"

	"vhostnet/virtio"
)

// defaultMTU is what the configuration space says when nobody else has.
const defaultMTU = 1500

// Config is the configuration space that a front-end shows to its driver when
// it takes it from here (virtio 1.3, section 5.1.4): crosvm and libkrun do,
// Cloud Hypervisor in parts; QEMU makes its own. A link is up unless
// [Device.SetLink] took it down, and knows no speed.
func (d *Device) Config() []byte {
	c := virtio.NetConfig{
		MAC:      d.o.MAC,
		Status:   virtio.NetStatusLinkUp,
		MaxPairs: uint16(d.o.Pairs),
		MTU:      d.mtu,
		Speed:    d.o.Speed,
		Duplex:   virtio.NetDuplexFull,
	}
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.Speed == 0 {
		c.Speed, c.Duplex = virtio.NetSpeedUnknown, virtio.NetDuplexUnknown
	}
	if d.linkDown.Load() {
		c.Status &^= virtio.NetStatusLinkUp
	}
	if d.announcing.Load() {
		c.Status |= virtio.NetStatusAnnounce
	}
	return c.Encode()
}

// AskAnnounce makes the driver announce itself to the network, if it accepted
// GUEST_ANNOUNCE: the status in the configuration space says so until
// [Device.AnnounceDone], and Options.OnConfig is told. It may be called
// concurrently with everything.
func (d *Device) AskAnnounce() {
	if d.accepted().Has(virtio.NetGuestAnnounce) && !d.announcing.Swap(true) {
		d.o.OnConfig()
	}
}

// AnnounceDone is the driver's acknowledgement (virtio 1.3, section 5.1.6.5.4).
// It may be called concurrently with everything.
func (d *Device) AnnounceDone() { d.announcing.Store(false) }

// maxSpeed is the largest Options.Speed (virtio 1.3, section 5.1.4).
const maxSpeed = math.MaxInt32
