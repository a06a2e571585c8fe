package netdev

import (
	"vhostnet/metrics"
	"vhostnet/virtio"
	"vhostnet/worker"
)

// Snapshot is what a Device counts and where its rings are.
type Snapshot struct {
	metrics.PortSnapshot
	Features virtio.Features // accepted by the driver
	Rings    []RingInfo
	Memory   uint64 // bytes of this process that the device takes, without the guest's

	Commands        uint64 // that came by a control queue
	CommandsRefused uint64 // of those: unknown, malformed or out of range
}

// RingInfo is the state of one ring.
type RingInfo struct {
	Index   int  `json:"index"`
	Started bool `json:"started"`
	Enabled bool `json:"enabled"`
	Broken  bool `json:"broken"`

	Polling *PollInfo `json:"polling,omitempty"` // of a transmit ring in the mode adaptive
}

// PollInfo is how a ring has been polled while it was empty; see
// [worker.ArrivalStats].
type PollInfo struct {
	Spin     int64  `json:"spin_ns"`  // when it is empty the next time, at most; 0: not at all
	Found    uint64 `json:"found"`    // times that the next frame came meanwhile
	Vain     uint64 `json:"vain"`     // times that it did not, so the worker left the ring to its kick
	Unpolled uint64 `json:"unpolled"` // times that it was left to its kick at once
}

// Snapshot may be called concurrently with everything.
func (d *Device) Snapshot() Snapshot {
	s := Snapshot{PortSnapshot: d.counters.Snapshot(), Features: d.accepted(), Memory: d.footprint(), Rings: make([]RingInfo, len(d.rings))}
	s.Commands, s.CommandsRefused = d.commands.Value(), d.refused.Value()
	for i := range d.rings {
		r := &d.rings[i]
		s.Rings[i] = RingInfo{Index: i, Started: r.is(ringStarted), Enabled: r.is(ringEnabled), Broken: r.is(ringBroken)}
		if i%2 == 1 && worker.Mode(d.mode.Load()) == worker.Adaptive {
			s.Rings[i].Polling = pollInfo(r.arrivals.Stats())
		}
		if i%2 == 0 && d.paired(i) && d.nic.RxBroken(i/2) {
			s.Rings[i].Broken = true
		}
	}
	return s
}

func pollInfo(s worker.ArrivalStats) *PollInfo {
	return &PollInfo{Spin: s.Spin.Nanoseconds(), Found: s.Found, Vain: s.Vain, Unpolled: s.Unpolled}
}

// DropsByReason are the counts of frames lost, without those that are zero.
func (s *Snapshot) DropsByReason() map[string]uint64 {
	drops := map[string]uint64{}
	for r, n := range s.Drops {
		if n > 0 {
			drops[metrics.Reason(r).String()] = n
		}
	}
	return drops
}

// DropNames are all keys of DropsByReason, in the order of the reasons.
func DropNames() []string {
	list := make([]string, 0, metrics.NumReasons)
	for r := range metrics.NumReasons {
		list = append(list, r.String())
	}
	return list
}
