package vswitch

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"vhostnet/nbl"
	"vhostnet/worker"
)

// null is a Port that accepts everything and does nothing.
type null struct{}

func (null) Deliver(_ *worker.Context, batch []*nbl.List) (int, bool) { return len(batch), false }

// reluctant accepts half of what it is handed.
type reluctant struct{}

func (reluctant) Deliver(_ *worker.Context, batch []*nbl.List) (int, bool) {
	return len(batch) / 2, false
}

// bench is a switch with null ports, stations behind them, and a batch of 64
// frames from port 0 that dst addresses.
type bench struct {
	s     *Switch
	c     *worker.Context
	from  PortID
	batch []*nbl.List
}

func newBench(tb testing.TB, p Port, ports, stations int, dst func(i int) uint64) *bench {
	tb.Helper()
	s, err := New(Options{MaxEntries: max(stations, 1024)})
	if err != nil {
		tb.Fatal(err)
	}
	b := &bench{s: s, c: worker.NewTestContext()}
	ids := make([]PortID, ports)
	for i := range ids {
		if ids[i], err = s.Attach(p, PortOptions{}); err != nil {
			tb.Fatal(err)
		}
	}
	b.from = ids[0]
	tick := uint32(b.c.Now() / s.tick)
	for i := range stations {
		s.table.learn(station(i), s.table.tagOf(tag(ids[1+i%(ports-1)]).index()), tick)
	}
	for i := range 64 {
		b.batch = append(b.batch, frame(dst(i), station(-1)))
	}
	return b
}

func (b *bench) run() {
	for _, l := range b.batch {
		l.Status = nbl.Pending
	}
	b.s.Forward(b.c, b.from, b.batch)
}

func (b *bench) measure(tb *testing.B) {
	tb.ReportAllocs()
	for tb.Loop() {
		b.run()
	}
	tb.ReportMetric(float64(tb.Elapsed().Nanoseconds())/float64(tb.N)/float64(len(b.batch)), "ns/frame")
}

func TestForwardDoesNotAllocate(t *testing.T) {
	for _, c := range []struct {
		name     string
		port     Port
		ports    int
		stations int
		dst      func(i int) uint64
	}{
		{"one destination", null{}, 2, 1, func(int) uint64 { return station(0) }},
		{"many destinations", null{}, 65, 64, station},
		{"flood", null{}, 65, 0, func(int) uint64 { return broadcast }},
		{"hairpin and unknown", null{}, 3, 0, func(i int) uint64 { return station(i%2 - 1) }},
		{"busy", reluctant{}, 9, 8, func(i int) uint64 { return station(i % 8) }},
		{"flood to busy ports", reluctant{}, 9, 0, func(int) uint64 { return broadcast }},
	} {
		b := newBench(t, c.port, c.ports, c.stations, c.dst)
		b.run() // the first one makes the worker's scratch memory
		now := b.c.Now()
		if n := testing.AllocsPerRun(100, func() {
			now += b.s.tick // so that the table is written, too
			b.c.SetNow(now)
			b.run()
		}); n != 0 {
			t.Errorf("%s: %v allocations for each batch", c.name, n)
		}
	}
}

func BenchmarkForwardUnicast(tb *testing.B) {
	for _, entries := range []int{10, 100_000} {
		for _, ports := range []int{2, 256} {
			tb.Run(fmt.Sprintf("entries=%d/ports=%d", entries, ports), func(tb *testing.B) {
				// All to one station, as a bulk transfer is.
				newBench(tb, null{}, ports, entries, func(int) uint64 { return station(0) }).measure(tb)
			})
		}
	}
}

// BenchmarkForwardSpread sends each frame of a batch to another station, and
// each batch to other ones: every frame costs a lookup.
func BenchmarkForwardSpread(tb *testing.B) {
	for _, entries := range []int{10, 100_000} {
		tb.Run(fmt.Sprintf("entries=%d/ports=2", entries), func(tb *testing.B) {
			b := newBench(tb, null{}, 2, entries, func(i int) uint64 { return station(i % entries) })
			next := 0
			tb.ReportAllocs()
			for tb.Loop() {
				for _, l := range b.batch {
					l.Dst = station(next)
					if next += 7919; next >= entries {
						next %= entries
					}
				}
				b.run()
			}
			tb.ReportMetric(float64(tb.Elapsed().Nanoseconds())/float64(tb.N)/float64(len(b.batch)), "ns/frame")
		})
	}
}

func BenchmarkForwardManyPorts(tb *testing.B) {
	newBench(tb, null{}, 65, 64, station).measure(tb)
}

// BenchmarkForwardFlood is frames to an unknown station: with one other port
// it costs what unicast costs.
func BenchmarkForwardFlood(tb *testing.B) {
	for _, ports := range []int{2, 256} {
		tb.Run(fmt.Sprintf("ports=%d", ports), func(tb *testing.B) {
			newBench(tb, null{}, ports, 10, func(int) uint64 { return station(1 << 30) }).measure(tb)
		})
	}
}

// counting is a Port that fails the test on a frame that is not for it.
type counting struct {
	t   *testing.T
	mac uint64 // its station's, which has a filter; 0: it has none
	n   atomic.Int64
}

func (p *counting) Deliver(_ *worker.Context, batch []*nbl.List) (int, bool) {
	for _, l := range batch {
		if l.Dst < filtered && l.Dst != p.mac && l.QueueID != 0 {
			p.t.Errorf("a frame to %012x, queue %d, came to the port of %012x", l.Dst, l.QueueID, p.mac)
		}
		if l.Dst&^0xff == filtered && l.Dst != p.mac {
			p.t.Errorf("a frame to %012x, which has a filter, came to the port of %012x", l.Dst, p.mac)
		}
	}
	p.n.Add(int64(len(batch)))
	return len(batch), false
}

// filtered is the first address of stations with filters that stay.
const filtered = 0x02ffffffff00

// Several workers forward while ports come and go and filters change. What has
// a filter all the time is never delivered elsewhere, whatever else happens;
// each frame is decided.
func TestForwardWhileTheSwitchChanges(t *testing.T) {
	const workers, fixedPorts, rounds = 3, 4, 300
	s, err := New(Options{MaxEntries: 16}) // small: windows overflow and change all the time
	if err != nil {
		t.Fatal(err)
	}
	ports := make([]*counting, fixedPorts)
	ids := make([]PortID, fixedPorts)
	for i := range ports {
		ports[i] = &counting{t: t, mac: filtered + uint64(i)}
		if ids[i], err = s.Attach(ports[i], PortOptions{}); err != nil {
			t.Fatal(err)
		}
		s.Steering(ids[i]).Set(AnyVLAN, mac(ports[i].mac), 1, 1)
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 1))
			c := worker.NewTestContext()
			batch := make([]*nbl.List, 32)
			for round := range rounds {
				from := rng.IntN(fixedPorts)
				for i := range batch {
					batch[i] = tagged(uint16(rng.IntN(3)), station(rng.IntN(200)), station(rng.IntN(200)))
					switch rng.IntN(4) {
					case 0:
						batch[i].Dst = broadcast
					case 1, 2:
						batch[i].Dst = filtered + uint64(rng.IntN(fixedPorts))
					}
				}
				c.SetNow(c.Now() + int64(round%2)*s.tick)
				s.Forward(c, ids[from], batch)
				for _, l := range batch {
					if l.Status != nbl.Done && l.Status != nbl.Dropped {
						t.Errorf("a frame to %012x is in status %d", l.Dst, l.Status)
					}
				}
			}
		})
	}
	wg.Go(func() {
		rng := rand.New(rand.NewPCG(workers, 1))
		for range rounds {
			guest := &counting{t: t}
			id, err := s.Attach(guest, PortOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			st := s.Steering(id)
			for range 4 {
				st.Set(uint16(rng.IntN(3)), mac(station(rng.IntN(200))), 0, 1)
			}
			st.Set(AnyVLAN, mac(filtered), 0, 2) // second to the owner's
			s.Forget(ids[rng.IntN(fixedPorts)])
			st.Clear(AnyVLAN, mac(filtered))
			s.Detach(id)
		}
	})
	wg.Wait()
	for i, p := range ports {
		if p.n.Load() == 0 {
			t.Errorf("port %d got nothing; the test tests nothing", i)
		}
	}
	if n := len(s.claims); n != fixedPorts {
		t.Errorf("%d addresses have claims, want %d", n, fixedPorts)
	}
}
