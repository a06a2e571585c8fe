package vswitch

import "vhostnet/worker"

// Address is a station's address as the switch knows it. VLAN 0: untagged.
type Address struct {
	VLAN uint16
	MAC  [6]byte
}

// Addresses are up to most addresses that the switch has learned at a port and
// not forgotten, in no order. It looks through the whole table.
func (s *Switch) Addresses(id PortID, most int) (list []Address) {
	if s.ports.Load().find(id) == nil {
		return nil
	}
	of := s.table.tagOf(tag(id).index())
	for i := range s.table.windows {
		w := &s.table.windows[i]
		for j := range w.keys {
			seq, key := w.seq.Load(), w.keys[j].Load()
			e, ok := w.read(j, key, seq)
			if !ok || key == 0 || e.isFixed() || e.tag() != of {
				continue
			}
			if len(list) == most {
				return list
			}
			a := Address{VLAN: uint16(key>>macBits) & vlanMask}
			for k := range a.MAC {
				a.MAC[k] = byte(key >> (40 - 8*k))
			}
			list = append(list, a)
		}
	}
	return list
}

// Teach makes the switch learn an address as if a frame from it had come from
// the port: with no more right than that. It answers false when it did not.
func (s *Switch) Teach(c *worker.Context, id PortID, a Address) bool {
	var mac uint64
	for _, b := range a.MAC {
		mac = mac<<8 | uint64(b)
	}
	if mac == 0 || mac&groupBit != 0 || a.VLAN > vlanMask {
		return false
	}
	b := batches.Get(c)
	if !b.begin(c, s, id, 0) {
		return false
	}
	defer b.end()
	if v := b.from.vlans; v != nil {
		if a.VLAN == 0 {
			a.VLAN = v.native
		}
		if a.VLAN == 0 || !v.carries(a.VLAN) {
			return false
		}
		a.VLAN |= inVLAN
	}
	lesson := b.learn(frameKey(a.VLAN, mac))
	return lesson != foreign && lesson != full
}
