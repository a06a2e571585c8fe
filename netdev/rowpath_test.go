package netdev

import (
	"encoding/binary"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
	"vhostnet/vswitch"
)

// Rows are ratios: two things that take turns within one run, so that a machine
// that grows slower favours neither. A round is some milliseconds of each; the
// row's figure is the median of the rounds' ratios. Of a path only the device's
// visit is timed, not the drivers on both sides, which this goroutine plays,
// too; reading the clock is 2 ns of each frame.

// rowRound is about how long each side of a round runs.
const rowRound = 5 * time.Millisecond

// side is one of the two: it does something once and says how long it took, for
// how many frames.
type side func() (took time.Duration, frames int)

// cost is the time of one frame over about rowRound.
func (s side) cost() float64 {
	var all time.Duration
	frames := 0
	for all < rowRound {
		took, n := s()
		all, frames = all+took, frames+n
	}
	return float64(all) / float64(frames)
}

// row runs rounds of both and reports the median of what ratio makes of their
// costs, which is to be below or above goal, as the row's name says.
func row(b *testing.B, goal float64, ours, theirs side, ratio func(ours, theirs float64) float64) {
	b.Helper()
	var a, t, r []float64
	err := sharedmem.Guard(func() error {
		ours.cost()
		theirs.cost()
		for round := 0; b.Loop(); round++ {
			var x, y float64
			if round%2 == 0 {
				x = ours.cost()
				y = theirs.cost()
			} else {
				y = theirs.cost()
				x = ours.cost()
			}
			a, t, r = append(a, x), append(t, y), append(r, ratio(x, y))
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(middle(a), "ns/frame")
	b.ReportMetric(middle(t), "ns/other")
	b.ReportMetric(middle(r), "ratio")
	b.ReportMetric(goal, "goal")
	b.ReportMetric(0, "ns/op") // of a round: says nothing
}

func middle(list []float64) float64 {
	slices.Sort(list)
	return (list[(len(list)-1)/2] + list[len(list)/2]) / 2
}

// times is how many times dearer the first is.
func times(ours, theirs float64) float64 { return ours / theirs }

// part is the part of the second's rate that the first reaches.
func part(ours, theirs float64) float64 { return theirs / ours }

// rowpath is a path whose frames this test lays out itself.
type rowpath struct {
	*path
	frames [][2]uint64 // where they lie: address and length, with virtio_net_hdr
}

// newRowPath is a path on a switch with so many ports and, at most, entries, in
// which n copies of a frame, header included, go round, and there are as many
// receive buffers of so many bytes as fit the ring, at most 256.
func newRowPath(tb testing.TB, f virtio.Features, ports, entries int, frame []byte, n, buffers, buffer int) *rowpath {
	tb.Helper()
	p := &rowpath{path: widePath(tb, f, ports, entries)}
	for range n {
		at, err := p.from.Driver.Alloc(len(frame))
		if err == nil {
			p.frames = append(p.frames, [2]uint64{at, uint64(len(frame))})
			p.from.Driver.At(at, uint64(len(frame))).CopyFrom(frame, 0)
			_, err = p.from.Driver.Put(vqtest.Layout{Buffers: []vqtest.Buffer{{GPA: at, Len: uint32(len(frame))}}})
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	for range buffers {
		if _, err := p.to.Driver.Add(vqtest.Request{In: []int{buffer}}); err != nil {
			tb.Fatal(err)
		}
	}
	for _, pair := range []*vqtest.Pair{p.from, p.to} {
		pair.Driver.NoCalls()
		pair.Driver.Publish()
	}
	p.teach(tb, 0)
	return p
}

// station is the i-th address behind the receiver.
func station(i int) [6]byte { return [6]byte{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)} }

// teach makes the switch know a station.
func (p *rowpath) teach(tb testing.TB, i int) {
	tb.Helper()
	if !p.receiver.o.Switch.Teach(p.c, p.receiver.Port(), vswitch.Address{MAC: station(i)}) {
		tb.Fatalf("the switch did not learn station %d", i)
	}
}

// visit lets the device carry what is posted, timed, and posts the same again.
func (p *rowpath) visit(tb testing.TB) (took time.Duration, frames int) {
	before := time.Now()
	busy := p.tx.Poll(p.c, visitChains)
	took = time.Since(before)
	if !busy {
		tb.Fatal("the device found nothing to do")
	}
	for i, pair := range []*vqtest.Pair{p.to, p.from} {
		n, err := pair.Driver.Reap(p.used[:])
		for ; n > 0 && err == nil; n, err = pair.Driver.Reap(p.used[:]) {
			for _, u := range p.used[:n] {
				pair.Driver.Post(u.Head)
			}
			frames += i * n
		}
		if err != nil {
			tb.Fatal(err)
		}
		pair.Driver.Publish()
	}
	return took, frames
}

// send is visit as a side of a row.
func (p *rowpath) send(tb testing.TB) side {
	return func() (time.Duration, int) { return p.visit(tb) }
}

// spread is visit with other destinations in all frames, so that each costs a
// lookup of another entry.
func (p *rowpath) spread(tb testing.TB, entries int) side {
	next := 0
	return func() (time.Duration, int) {
		for _, f := range p.frames {
			mac := station(next)
			p.from.Driver.At(f[0]+12, 6).CopyFrom(mac[:], 0)
			if next += 7919; next >= entries {
				next %= entries
			}
		}
		return p.visit(tb)
	}
}

// plainFrame is a frame of n bytes to station 0, behind a header of zeros.
func plainFrame(n int) []byte {
	mac := station(0)
	b := append(make([]byte, 12, 12+n), mac[:]...)
	b = append(b, 2, 0, 0, 0xff, 0, 1, 0x88, 0xb5)
	for len(b) < 12+n {
		b = append(b, byte(len(b)))
	}
	return b
}

// uncut is a frame of n bytes that is a TCP packet which nobody has cut.
func uncut(n int) []byte {
	b := plainFrame(n)
	h := virtio.NetHeader{Flags: virtio.NetFlagNeedsCsum, GSOType: virtio.GSOTCPv4, GSOSize: 1448, CsumStart: 34, CsumOffset: 16}
	h.Encode(b[:12])
	b[24], b[25] = 0x08, 0x00
	ip := b[26:]
	copy(ip, []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[20+12] = 0x50
	return b
}

// slots is memory in which frames lie so many bytes apart, through which one
// goes in a circle.
type slots struct {
	b        []byte
	step, at int
}

func newSlots(step, n int) *slots {
	s := &slots{b: make([]byte, step*n), step: step}
	for i := range s.b {
		s.b[i] = byte(i) // every page is there
	}
	return s
}

// next is the place of the next n bytes.
func (s *slots) next(n int) []byte {
	b := s.b[s.at : s.at+n]
	if s.at += s.step; s.at == len(s.b) {
		s.at = 0
	}
	return b
}

// copies is the bytes of frames of n bytes copied from one place to another, as
// a plain program would.
func copies(n int, from, to *slots) side {
	batch := max(1, 4096*visitChains/(n+4096))
	return func() (time.Duration, int) {
		before := time.Now()
		for range batch {
			copy(to.next(n), from.next(n))
		}
		return time.Since(before), batch
	}
}

// BenchmarkRowFrame is the whole way of a frame of 64 bytes against copying its
// 76 bytes: at most 5 times as much. The copy goes through 2 MiB of memory; what
// it costs between buffers that lie like those of the two rings, and of which
// the first level's cache holds most, is told, too.
func BenchmarkRowFrame(b *testing.B) {
	for _, name := range []string{"split", "packed"} {
		through := map[string]side{
			"2MiB":    copies(76, newSlots(2048, 512), newSlots(2048, 512)),
			"buffers": copies(76, newSlots(128, visitChains), newSlots(2048, 256)),
		}
		for _, memory := range []string{"2MiB", "buffers"} {
			b.Run(name+"/"+memory, func(b *testing.B) {
				p := newRowPath(b, pathFeatures|pathRings[name], 2, 0, plainFrame(64), visitChains, 256, 2048)
				row(b, 5, p.send(b), through[memory], times)
			})
		}
	}
}

// BenchmarkRowSegments is frames of 64 KiB that nobody has cut against plain
// copies of as many bytes through as much memory: at least 0.8 of their rate.
func BenchmarkRowSegments(b *testing.B) {
	const size, n = 65535 + 14, 8
	const f = pathFeatures | virtio.NetCsum | virtio.NetHostTSO4 | virtio.NetGuestCsum | virtio.NetGuestTSO4
	b.Run("buffers=64KiB", func(b *testing.B) {
		p := newRowPath(b, f, 2, 0, uncut(size), n, n, size+12)
		row(b, 0.8, p.send(b), copies(size, newSlots(128<<10, n), newSlots(128<<10, n)), part)
	})
	b.Run("buffers=4KiB", func(b *testing.B) {
		p := newRowPath(b, f, 2, 0, uncut(size), n, 17*n, 4096)
		row(b, 0.8, p.send(b), copies(size, newSlots(128<<10, n), newSlots(128<<10, n)), part)
	})
}

// BenchmarkRowPorts is a frame of 64 bytes where other ports are attached and
// idle, 256 or 2000 with the busy ones, against one where there are none: at most
// 1.05 times as much.
func BenchmarkRowPorts(b *testing.B) {
	for _, ports := range []int{256, 2000} {
		b.Run(strconv.Itoa(ports), func(b *testing.B) {
			many := newRowPath(b, pathFeatures, ports, 0, plainFrame(64), visitChains, 256, 2048)
			few := newRowPath(b, pathFeatures, 2, 0, plainFrame(64), visitChains, 256, 2048)
			row(b, 1.05, many.send(b), few.send(b), times)
		})
	}
}

// BenchmarkRowTable is a frame of 64 bytes with a table of 100,000 stations
// against one with a table of 10: at most 1.2 times as much. Frames go to ten
// stations. Where each goes to another one, the caches of the processor are
// asked as much as the table; that is told, too.
func BenchmarkRowTable(b *testing.B) {
	table := func(b *testing.B, entries, used int) side {
		p := newRowPath(b, pathFeatures, 2, 2*entries, plainFrame(64), visitChains, 256, 2048)
		for i := range entries {
			p.teach(b, i)
		}
		return p.spread(b, used)
	}
	b.Run("to-ten", func(b *testing.B) { row(b, 1.2, table(b, manyEntries, 10), table(b, 10, 10), times) })
	b.Run("to-all", func(b *testing.B) { row(b, 1.2, table(b, manyEntries, manyEntries), table(b, 10, 10), times) })
}

// manyEntries are the stations of a large network.
const manyEntries = 100_000

// BenchmarkRowWorkers is two disjoint pairs of ports by two workers against one
// worker: at least 1.8 times the rate. It takes a core for each worker and for
// each of the four guests.
func BenchmarkRowWorkers(b *testing.B) {
	if n := runtime.NumCPU(); n < 6 {
		b.Skipf("two workers cannot be told from one with %d processors; 6 are needed", n)
	}
	// rate is frames a nanosecond of so many paths at once.
	cost := func(paths []*rowpath) side {
		return func() (time.Duration, int) {
			var wg sync.WaitGroup
			before := time.Now()
			for _, p := range paths {
				wg.Go(func() {
					runtime.LockOSThread()
					defer runtime.UnlockOSThread()
					err := sharedmem.Guard(func() error {
						for range 2000 {
							p.visit(b)
						}
						return nil
					})
					if err != nil {
						b.Error(err)
					}
				})
			}
			wg.Wait()
			return time.Since(before), 2000 * visitChains * len(paths)
		}
	}
	var paths []*rowpath
	for range 2 {
		paths = append(paths, newRowPath(b, pathFeatures, 2, 0, plainFrame(64), visitChains, 256, 2048))
	}
	row(b, 1.8, cost(paths), cost(paths[:1]), part)
}
