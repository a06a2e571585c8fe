package control

import (
	"net"
	"slices"
)

// GuestPolicy is what a port lets its guest do over the guest channel, besides
// looking at itself. The zero value lets it look only.
type GuestPolicy struct {
	Filters int // that the guest may have at a time
	// Buffers is the most receive buffers that the guest may say are good for
	// it; 0: it may not say.
	Buffers uint32
	GuestVLANs
}

// GuestVLANs are the VLANs in which a guest may have filters: those of its port.
type GuestVLANs struct {
	Untagged bool     // frames without a tag come to the port
	Tags     []uint16 // VLANs whose frames have a tag at the port
	Every    bool     // the port is in no VLAN, and tags are the VMs' own affair
}

// admits reads an address of which the guest may have a filter, as far as it
// alone decides on that.
func (p GuestPolicy) admits(a Address) (mac [6]byte, err error) {
	if p.Filters == 0 {
		return mac, Errorf(StatusNotAccepted, "the guest of this port may look and set no filters; its host would have to say guest=filters")
	}
	hw, err := net.ParseMAC(a.MAC)
	if err != nil || len(hw) != len(mac) {
		return mac, Errorf(StatusInvalidParameter, "%q: want an address such as 02:00:00:12:34:56", a.MAC)
	}
	mac = [6]byte(hw)
	if mac[0]&1 != 0 || mac == [6]byte{} {
		return mac, Errorf(StatusInvalidParameter, "%s is not the address of one station; frames to groups come without a filter", hw)
	}
	return mac, p.vlan(a)
}

// maxVLAN is the greatest VLAN (IEEE 802.1Q, table 9-2).
const maxVLAN = 4094

// vlan refuses VLANs that are not the port's. A filter of all VLANs would reach
// into those of others, unless there is only one network.
func (p GuestPolicy) vlan(a Address) error {
	switch {
	case a.AnyVLAN && a.VLAN != 0:
		return Errorf(StatusInvalidParameter, "vlan %d and all VLANs exclude each other", a.VLAN)
	case p.Every && a.VLAN <= maxVLAN:
		return nil
	case a.AnyVLAN:
		return Errorf(StatusNotAccepted, "a guest may have filters in VLANs of its port, one by one, and not in all")
	case a.VLAN == 0 && !p.Untagged:
		return Errorf(StatusNotAccepted, "all frames of this port have a tag; say in which VLAN the filter is to be")
	case a.VLAN != 0 && !slices.Contains(p.Tags, a.VLAN):
		return Errorf(StatusNotAccepted, "this port has no frames with a tag of VLAN %d", a.VLAN)
	}
	return nil
}
