package vswitch

import (
	"math/rand/v2"
	"testing"
	"time"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/worker"
)

// sink is a Port that accepts room Lists in each Deliver and remembers them.
type sink struct {
	room     int  // -1: all
	part     bool // a part of the next, too
	calls    int
	got      []*nbl.List
	counters metrics.Port
}

func (s *sink) Deliver(_ *worker.Context, batch []*nbl.List) (int, bool) {
	s.calls++
	n := len(batch)
	if s.room >= 0 {
		n = min(n, s.room)
	}
	s.got = append(s.got, batch[:n]...)
	return n, s.part && n < len(batch)
}

// take is what the port got since the last take.
func (s *sink) take() []*nbl.List {
	got := s.got
	s.got = nil
	return got
}

func (s *sink) drops(r metrics.Reason) uint64 { return s.counters.Drops[r].Value() }

// lab is a switch with sinks at its ports, and a worker's Context.
type lab struct {
	t     *testing.T
	s     *Switch
	c     *worker.Context
	ports []*sink
	ids   []PortID
}

// newLab attaches n sinks; o is each port's PortOptions but for the Counters.
func newLab(t *testing.T, n int, so Options, o PortOptions) *lab {
	t.Helper()
	s, err := New(so)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, s: s, c: worker.NewTestContext()}
	l.c.SetNow(int64(time.Hour))
	for range n {
		l.attach(o)
	}
	return l
}

func (l *lab) attach(o PortOptions) int {
	l.t.Helper()
	p := &sink{room: -1}
	o.Counters = &p.counters
	id, err := l.s.Attach(p, o)
	if err != nil {
		l.t.Fatal(err)
	}
	l.ports = append(l.ports, p)
	l.ids = append(l.ids, id)
	return len(l.ports) - 1
}

func (l *lab) wait(d time.Duration) { l.c.SetNow(l.c.Now() + int64(d)) }

func (l *lab) forward(from int, lists ...*nbl.List) {
	l.s.Forward(l.c, l.ids[from], lists)
}

// teach makes the switch learn mac at a port and forgets what was delivered.
func (l *lab) teach(from int, mac uint64) {
	l.forward(from, frame(broadcast, mac))
	for _, p := range l.ports {
		p.take()
	}
}

// reaches sends one frame and fails unless exactly these ports get it.
func (l *lab) reaches(f *nbl.List, from int, want ...int) {
	l.t.Helper()
	l.forward(from, f)
	wanted := map[int]bool{}
	for _, i := range want {
		wanted[i] = true
	}
	for i, p := range l.ports {
		if got := len(p.take()); got != 0 != wanted[i] || got > 1 {
			l.t.Errorf("frame to %012x from port %d: port %d got it %d times, want at ports %v", f.Dst, from, i, got, want)
		}
	}
}

func (l *lab) status(f *nbl.List, want nbl.Status, reason metrics.Reason) {
	l.t.Helper()
	if f.Status != want || f.Reason != reason {
		l.t.Errorf("frame to %012x is in status %d (%v), want %d (%v)", f.Dst, f.Status, f.Reason, want, reason)
	}
}

const broadcast = 1<<48 - 1

// station is the MAC address of the i-th station.
func station(i int) uint64 { return 0x020000000000 + uint64(i) + 1 }

func mac(n uint64) (m [6]byte) {
	for i := range m {
		m[i] = byte(n >> (40 - 8*i))
	}
	return m
}

func frame(dst, src uint64) *nbl.List {
	l := &nbl.List{Dst: dst, Src: src}
	l.Length = 60
	return l
}

func tagged(vlan uint16, dst, src uint64) *nbl.List {
	l := frame(dst, src)
	l.VLAN = vlan
	return l
}

// seeded is a generator whose seed is in the log of a failing test.
func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %#x", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
