package vswitch

import (
	"fmt"

	"vhostnet/nbl"
)

// A port says in which VLANs it is:
//
//	             it sends           the switch takes it for    it gets
//	no options   any frame          what it is                 frames of other such ports, as they are
//	Access n     untagged           VLAN n                     VLAN n, untagged
//	             tagged             (dropped)
//	Trunk a, b   tagged a or b      that VLAN                  VLANs a and b, tagged
//	  Native n   untagged           VLAN n                     VLAN n, untagged
//	             other              (dropped)
//
// A tag with VLAN 0 is a priority: such a frame counts as untagged. Two VLANs
// never meet, nor do ports in VLANs and ports without options: each VLAN has
// keys of its own in the forwarding table, and floods go to its ports only.
//
// The tag of a frame is never changed in its List. Where a receiver wants
// another one than the frame has, a List is made for that delivery.

// VLANOptions say in which VLANs a port is. The zero value is none: the port
// exchanges frames with other such ports, whatever their tags say.
type VLANOptions struct {
	Access uint16   // the only VLAN, 1 to 4094; its frames have no tag at the port
	Trunk  []uint16 // VLANs whose frames have a tag at the port
	Native uint16   // of a trunk: the VLAN of frames without a tag; 0: they are dropped
}

// maxVLAN is the greatest VLAN id (IEEE 802.1Q, table 9-2).
const maxVLAN = 4094

// inVLAN marks the VLAN of a frame, and of a key, that the switch has decided
// on: it is apart from tags of ports without options.
const inVLAN = 1 << 12

// vlans is in which VLANs a port is. It does not change.
type vlans struct {
	native  uint16 // whose frames are untagged at the port; 0: none
	access  bool   // there is no other
	carried [(maxVLAN + 64) / 64]uint64
}

func (o VLANOptions) compile(name string) (*vlans, error) {
	if o.Access == 0 && len(o.Trunk) == 0 && o.Native == 0 {
		return nil, nil
	}
	if o.Access != 0 && (len(o.Trunk) != 0 || o.Native != 0) {
		return nil, fmt.Errorf("vswitch: attach port %q: VLAN %d alone and a trunk; it is one or the other", name, o.Access)
	}
	v := &vlans{native: max(o.Access, o.Native), access: o.Access != 0}
	list := o.Trunk
	if v.native != 0 {
		list = append([]uint16{v.native}, list...)
	}
	for _, id := range list {
		if id == 0 || id > maxVLAN {
			return nil, fmt.Errorf("vswitch: attach port %q: VLAN %d; 1 to %d exist", name, id, maxVLAN)
		}
		v.carried[id/64] |= 1 << (id % 64)
	}
	return v, nil
}

// carries reports whether the port is in a VLAN, marked by inVLAN or not.
func (v *vlans) carries(vlan uint16) bool {
	id := vlan & vlanMask
	return v.carried[id/64]&(1<<(id%64)) != 0
}

// enter decides on the VLAN of a frame that the port sends. It answers false
// when the port must not send it.
func (v *vlans) enter(l *nbl.List) bool {
	id := l.VLAN
	switch {
	case id == 0 && v.native == 0, id != 0 && (v.access || id > maxVLAN || !v.carries(id)):
		return false
	case id == 0:
		id = v.native
	}
	l.VLAN = id | inVLAN
	return true
}

// fits reports whether a frame is tagged as the port wants it.
func (v *vlans) fits(l *nbl.List) bool {
	id := l.VLAN & vlanMask
	if id == v.native {
		return !l.HasTag()
	}
	return l.HasTag() && l.TCI()&vlanMask == id
}

// leave makes out the frame as the port wants it. A priority stays if there is
// a tag.
func (v *vlans) leave(out, l *nbl.List) {
	if id := l.VLAN & vlanMask; id != v.native {
		out.WithTag(l, l.TCI()&^vlanMask|id)
	} else {
		out.WithoutTag(l)
	}
}

// retag is lists as p wants them; it is valid until the next retag.
func (b *batch) retag(p *port, lists []*nbl.List) []*nbl.List {
	if cap(b.view) < len(lists) {
		b.view, b.retagged = make([]*nbl.List, 0, cap(b.dests)), make([]nbl.List, cap(b.dests))
	}
	b.view = b.view[:0]
	for i, l := range lists {
		if !p.vlans.fits(l) {
			p.vlans.leave(&b.retagged[i], l)
			l = &b.retagged[i]
		}
		b.view = append(b.view, l)
	}
	return b.view
}

// reaches reports whether the policy lets b's sender send frames of a VLAN to
// p. It is asked once for each destination in a batch.
func (b *batch) reaches(p *port, vlan uint16) bool {
	switch {
	case p.sink:
		return false
	case p.vlans == nil || b.from.vlans == nil:
		return p.vlans == b.from.vlans
	}
	return p.vlans.carries(vlan)
}

// apart reports whether floods of b's sender, in a VLAN, do not go to p.
func (b *batch) apart(p *port, vlan uint16) bool {
	return p.protected && b.from.protected || !b.reaches(p, vlan)
}

// floodVLANs delivers the floods of a port that is in VLANs, those of each VLAN
// to its ports.
func (b *batch) floodVLANs() {
	for i, l := range b.floods {
		if decided(l) {
			continue
		}
		b.sameVLAN = b.sameVLAN[:0]
		for _, other := range b.floods[i:] {
			if other.VLAN == l.VLAN {
				b.sameVLAN = append(b.sameVLAN, other)
			}
		}
		clear(b.late)
		b.floodTaken, b.late = 0, b.late[:0]
		b.floodTo(b.sameVLAN)
		b.floodLate(b.sameVLAN)
	}
	clear(b.late)
	b.late = b.late[:0]
	clear(b.sameVLAN)
}

// key is the key of an address that port p wants in vlan: 0 (untagged) to 4094,
// or AnyVLAN. It answers false when the port is not in that VLAN.
func (p *port) key(vlan uint16, mac uint64) (uint64, bool) {
	v := p.vlans
	switch {
	case v == nil:
		return uint64(vlan)<<macBits | mac, vlan <= maxVLAN || vlan == AnyVLAN
	case vlan == AnyVLAN && !v.access:
		return anyInVLAN | mac, true
	case vlan == AnyVLAN, vlan == 0:
		vlan = v.native
	}
	if vlan == 0 || vlan > maxVLAN || !v.carries(vlan) {
		return 0, false
	}
	return uint64(vlan|inVLAN)<<macBits | mac, true
}
