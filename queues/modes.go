package queues

import (
	"slices"

	"vhostnet/metrics"
	"vhostnet/nbl"
)

// Modes are what a driver wants to receive, as it said by its control queue
// (virtio 1.3, sections 5.1.6.5.1 to 5.1.6.5.3). A NIC without Modes receives
// everything. They are not changed once they were given to a NIC.
type Modes struct {
	Promiscuous bool // everything; nothing below counts

	MAC     uint64   // the NIC's own address, first byte on the wire most significant
	Unicast []uint64 // more of its addresses, sorted
	Groups  []uint64 // multicast addresses, sorted

	AllUnicast, NoUnicast     bool // No counts before All, All before the lists
	AllMulticast, NoMulticast bool
	NoBroadcast               bool

	VLANs *VLANs // ids of tagged frames; nil: all
}

// VLANs is a set of VLAN ids.
type VLANs [4096 / 64]uint64

// Set adds an id, which is below 4096, or takes it out.
func (v *VLANs) Set(id uint16, on bool) {
	if on {
		v[id/64] |= 1 << (id % 64)
	} else {
		v[id/64] &^= 1 << (id % 64)
	}
}

// Has reports whether an id below 4096 is in the set.
func (v *VLANs) Has(id uint16) bool { return v[id/64]&(1<<(id%64)) != 0 }

const (
	broadcast = 1<<48 - 1
	groupBit  = 1 << 40 // of an address
)

// SetModes makes m what the NIC receives from the next burst of each ring on;
// nil: everything. It may be called concurrently with everything.
func (n *NIC) SetModes(m *Modes) {
	if m != nil && m.Promiscuous {
		m = nil
	}
	n.modes.Store(m)
}

// UsePairs makes frames go by the first pairs only, which the driver said it
// uses (virtio 1.3, section 5.1.6.5.6); 0: by all that are started and enabled.
// It may be called concurrently with everything.
func (n *NIC) UsePairs(pairs int) { n.using.Store(int32(min(max(pairs, 0), len(n.rings)))) }

// choice are the rings that frames may go by.
func (n *NIC) choice() []rxRing {
	if using := n.using.Load(); using != 0 {
		return n.rings[:using]
	}
	return n.rings
}

// unwanted says why the NIC's driver does not want l.
func (n *NIC) unwanted(l *nbl.List) metrics.Reason {
	if m := n.modes.Load(); m != nil && !m.want(l) {
		return metrics.ReasonUnwanted
	}
	return metrics.ReasonNone
}

// want looks at the tag first, the one that the driver would see: it counts for
// every address. A frame with a tag for its priority only has no VLAN.
func (m *Modes) want(l *nbl.List) bool {
	if vlan := l.TCI() & 0xfff; m.VLANs != nil && vlan != 0 && !m.VLANs.Has(vlan) {
		return false
	}
	switch {
	case l.Dst == broadcast:
		return !m.NoBroadcast
	case l.Dst&groupBit != 0:
		return !m.NoMulticast && (m.AllMulticast || listed(m.Groups, l.Dst))
	}
	return !m.NoUnicast && (m.AllUnicast || l.Dst == m.MAC || listed(m.Unicast, l.Dst))
}

func listed(list []uint64, mac uint64) bool {
	_, ok := slices.BinarySearch(list, mac)
	return ok
}
