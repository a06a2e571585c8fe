package vswitch

import (
	"fmt"
	"sync/atomic"
	"time"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/worker"
)

// Port takes the frames that the switch sends out of it.
//
// Deliver is called by several workers at once and answers how many Lists,
// from the first on, the port accepts: those it has copied, or has dropped and
// counted itself. The rest it could not take now; the switch tries them again,
// or drops them. part says that the port took a part of the first of the rest
// in this call: for a packet that it cuts up it may need several. Deliver keeps no List and no slice after it has returned, and
// changes nothing in a List: the same List may go to other ports. It never
// waits and never calls the switch.
//
// The switch calls Deliver once per visit and port, so a port that does its
// work in several short holds of a lock makes all of them in that call.
type Port interface {
	Deliver(c *worker.Context, batch []*nbl.List) (accepted int, part bool)
}

// PortID names an attached port of one Switch. 0 is no port.
type PortID uint32

// Storm is how much one Forward may flood for a port. What a frame costs is
// its length times the number of ports that it goes to; a frame that does not
// fit into what is left is dropped, so one whose copies cost more than Bytes
// is never flooded (64 KiB to more than 64 ports, by default).
type Storm struct {
	Frames int // 0 means 128
	Bytes  int // 0 means 4 MiB
}

// Defaults of PortOptions. Frames is what a visit of a transmit ring takes: what a
// guest has sent at once is not dropped for its number, only for what its copies
// cost.
const (
	DefaultWait        = 200 * time.Microsecond
	DefaultStormFrames = 128
	DefaultStormBytes  = 4 << 20
)

// PortOptions says how the switch treats a port.
type PortOptions struct {
	Name string // in errors

	// Wait is how long a frame to this port may be Busy before it is dropped
	// and the port counts as stalled. 0 means 200 us; less than 0: not at all.
	Wait time.Duration

	// Storm bounds what frames from this port may cost when they are flooded.
	Storm Storm

	// Transparent floods what this port sends to 01:80:C2:00:00:00 to 0F
	// (spanning tree, LACP, LLDP, pause: never forwarded by a bridge) instead
	// of dropping it.
	Transparent bool

	// VLAN says in which VLANs the port is.
	VLAN VLANOptions

	// Protected ports exchange no frames with each other, only with the
	// others.
	Protected bool

	// Mirror is the port to which all frames of this one are copied; 0: none.
	// It was attached before, with Sink.
	Mirror PortID

	// Sink makes this a port that gets copies of others' frames and nothing
	// else, and may not send.
	Sink bool

	// Counters are the port's. The switch counts in them what the port sends
	// and why it was dropped; what becomes of frames inside Deliver the port
	// counts itself. nil: nobody looks.
	Counters *metrics.Port
}

// port is an attached Port. Only stalled and down change.
type port struct {
	// First what each frame to the port needs.

	out Port
	id  PortID

	// stalled: frames have waited for the port in vain, and it has accepted
	// none since. Set and cleared by any worker.
	stalled atomic.Bool
	down    atomic.Bool // its link: see Switch.SetLink

	plain  bool // not protected, no sink, in no VLAN: floods of others like it reach it
	direct bool // what it is handed is what it gets, and goes nowhere else
	mirror PortID
	vlans  *vlans // nil: in none

	counters    *metrics.Port
	wait        int64 // ns
	stormFrames int
	stormBytes  uint64
	transparent bool
	protected   bool
	sink        bool
	options     PortOptions
}

func newPort(p Port, o PortOptions) (*port, error) {
	if p == nil {
		return nil, fmt.Errorf("vswitch: attach port %q: it is nil; a Port is needed", o.Name)
	}
	if o.Storm.Frames < 0 || o.Storm.Bytes < 0 {
		return nil, fmt.Errorf("vswitch: attach port %q: a flood budget of %d frames, %d bytes; both are 0 (the default) or more",
			o.Name, o.Storm.Frames, o.Storm.Bytes)
	}
	v, err := o.VLAN.compile(o.Name)
	if err != nil {
		return nil, err
	}
	if o.Sink && (o.Mirror != 0 || v != nil || o.Protected) {
		return nil, fmt.Errorf("vswitch: attach port %q: a sink is in no VLAN, neither mirrored nor protected", o.Name)
	}
	a := &port{
		out:         p,
		wait:        int64(o.Wait),
		stormFrames: o.Storm.Frames,
		stormBytes:  uint64(o.Storm.Bytes),
		options:     o,
		transparent: o.Transparent,
		protected:   o.Protected,
		sink:        o.Sink,
		plain:       !o.Protected && !o.Sink && v == nil,
		mirror:      o.Mirror,
		vlans:       v,
		counters:    o.Counters,
	}
	a.direct = v == nil && o.Mirror == 0
	if o.Wait == 0 {
		a.wait = int64(DefaultWait)
	}
	if o.Storm.Frames == 0 {
		a.stormFrames = DefaultStormFrames
	}
	if o.Storm.Bytes == 0 {
		a.stormBytes = DefaultStormBytes
	}
	if a.counters == nil {
		a.counters = new(metrics.Port)
	}
	return a, nil
}

// deliver hands lists to p, and ends a stall when p accepts one, or a part of
// one. A port whose link is down loses them.
func (p *port) deliver(c *worker.Context, lists []*nbl.List) (accepted int, part bool) {
	if p.down.Load() {
		p.counters.Drops.Add(metrics.ReasonLinkDown, uint64(len(lists)))
		return len(lists), false
	}
	n, part := p.out.Deliver(c, lists)
	n = max(0, min(n, len(lists)))
	if (n > 0 || part) && p.stalled.Load() {
		p.stalled.Store(false)
	}
	return n, part
}

// portSet is an immutable snapshot of the attached ports.
type portSet struct {
	byIndex [MaxPorts]*port
	all     []*port
	simple  bool // all are plain and direct
}

// find is the port with id, nil when it is not attached.
func (s *portSet) find(id PortID) *port {
	if p := s.byIndex[tag(id).index()]; p != nil && p.id == id {
		return p
	}
	return nil
}

// with is a copy of s in which p, if not nil, has the index.
func (s *portSet) with(index int, p *port) *portSet {
	next := &portSet{byIndex: s.byIndex}
	next.byIndex[index] = p
	next.simple = true
	for _, q := range next.byIndex {
		if q != nil {
			next.all = append(next.all, q)
			next.simple = next.simple && q.plain && q.direct
		}
	}
	return next
}
