package vswitch

import (
	"cmp"
	"slices"
	"time"

	"vhostnet/sharedmem"
)

// PortInfo is an attached port as Ports tells it.
type PortInfo struct {
	ID      PortID
	Options PortOptions // that it was attached with; treat it as read-only
	Stalled bool        // it gives no buffers, and frames to it are dropped at once
	Down    bool        // its link is; see [Switch.SetLink]
}

// Ports lists the attached ports in the order of their places in the switch.
func (s *Switch) Ports() []PortInfo {
	var list []PortInfo
	for _, p := range s.ports.Load().all {
		list = append(list, PortInfo{ID: p.id, Options: p.options, Stalled: p.stalled.Load(), Down: p.down.Load()})
	}
	return list
}

// TableEntry is an address that the switch knows.
type TableEntry struct {
	MAC  [6]byte
	VLAN uint16 // 0: untagged; AnyVLAN: all
	// Tagged says that VLAN is only a tag on frames between ports that are in
	// no VLAN.
	Tagged bool
	Kind   string // filter, static or learned
	Port   PortID
	Queue  sharedmem.QueueID // of a filter
	Unseen time.Duration     // learned: since its last frame, to within a tick
}

// Table lists what the switch knows, ordered by address and VLAN. now is the
// clock of a worker (worker.Context.Now). It may be called while workers
// forward: each entry is right, not all at one moment.
func (s *Switch) Table(now int64) []TableEntry {
	ports, tick := s.ports.Load(), uint32(now/s.tick)
	var list []TableEntry
	add := func(key uint64, e entry) {
		p := ports.byIndex[e.tag().index()]
		if p == nil || e == 0 || !e.isFixed() && !s.table.live(e, tick) {
			return
		}
		list = append(list, s.describe(key, e, p.id, tick))
	}
	for i := range s.table.windows {
		w := &s.table.windows[i]
		for slot := range w.keys {
			seq := w.seq.Load()
			key := w.keys[slot].Load()
			if e, ok := w.read(slot, key, seq); ok && key != 0 {
				add(key, e)
			}
		}
	}
	if o := s.table.overflow.Load(); o != nil {
		for key, e := range *o {
			add(key, e)
		}
	}
	slices.SortFunc(list, func(x, y TableEntry) int {
		return cmp.Or(slices.Compare(x.MAC[:], y.MAC[:]), cmp.Compare(x.VLAN, y.VLAN), cmp.Compare(x.Port, y.Port))
	})
	return list
}

func (s *Switch) describe(key uint64, e entry, port PortID, tick uint32) TableEntry {
	t := TableEntry{Port: port, VLAN: uint16(key >> macBits)}
	for i := range t.MAC {
		t.MAC[i] = byte(key >> (40 - 8*i))
	}
	switch {
	case isAny(key):
		t.VLAN = AnyVLAN
	case t.VLAN&inVLAN != 0:
		t.VLAN &= vlanMask
	default:
		t.Tagged = t.VLAN != 0
	}
	switch e.kind() {
	case filter:
		t.Kind, t.Queue = "filter", sharedmem.QueueID(e.low())
	case static:
		t.Kind = "static"
	default:
		t.Kind, t.Unseen = "learned", time.Duration(max(int32(tick-e.low()), 0))*time.Duration(s.tick)
	}
	return t
}
