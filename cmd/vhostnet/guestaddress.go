package main

import (
	"net"
	"slices"

	"vhostnet/uplink/usernet"
	"vhostnet/vswitch"
)

// has reports whether an address is a port's own: whether it was told it, or
// has it without being told. The switch may not have seen it yet.
func (p *portSpec) has(mac [6]byte) bool {
	return p.mac == mac ||
		slices.ContainsFunc(p.statics, func(a vswitch.Address) bool { return a.MAC == mac }) ||
		p.uplink != nil && p.uplink.has(mac)
}

// has reports whether an address is that of the user-mode network's gateway, or
// of this host's side of a TAP device.
func (u *uplinkSpec) has(mac [6]byte) bool {
	switch u.kind {
	case "user":
		return u.user.mac == mac || u.user.mac == [6]byte{} && mac == usernet.DefaultMAC
	case "tap":
		i, err := net.InterfaceByName(u.tap.device)
		return err == nil && slices.Equal(i.HardwareAddr, mac[:])
	}
	return false
}
