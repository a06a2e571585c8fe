package netdev_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
)

// Traffic at 70 % of the highest rate that two guests reach is no reason to drop
// a frame, nor to let one overtake another of its flow. VHOSTNET_PACED is how
// long it goes on for each size; by default it is pacedFrames.
func TestPacedTrafficIsNotDropped(t *testing.T) {
	var length time.Duration
	if text := os.Getenv("VHOSTNET_PACED"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("VHOSTNET_PACED: %v", err)
		}
	}
	for _, size := range []int{64, 512, 1518} {
		t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) { paced(t, size, length) })
	}
}

const (
	pacedFrames = 10_000
	pacedPart   = 0.7 // of the highest rate
	pacedFlows  = 4
	pacedRing   = 8192 // entries: what guests' threads may be late by
	pacedBatch  = 32
)

func paced(t *testing.T, size int, length time.Duration) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	// Two rings full of buffers of a page each are 64 MiB.
	o := vutest.Options{MemorySize: 128 << 20, Guest: vutest.Guest{RingSize: pacedRing, RxBuffer: 12 + size}}
	s := newPacer(r.connect("a", o), r.connect("b", o), size)
	ctx, stop := context.WithCancel(context.Background())
	var receiving sync.WaitGroup
	receiving.Go(func() {
		if err := s.receive(ctx); err != nil {
			t.Error(err)
		}
	})
	defer receiving.Wait()
	defer stop()

	began := time.Now()
	r.must(s.send(pacedFrames, math.Inf(1)))
	r.waitFor("the frames", func() bool { return s.got.Load() == s.sent.Load() || t.Failed() })
	highest := pacedFrames / time.Since(began).Seconds()
	n := pacedFrames
	if length > 0 {
		n = int(length.Seconds() * pacedPart * highest)
	}
	s.late = 0
	before := stops()
	r.must(s.send(n, pacedPart*highest))
	r.waitFor("the frames", func() bool { return s.got.Load() == s.sent.Load() || t.Failed() })
	longest, count := before.since()
	t.Logf("%d frames of %d bytes at %.0f a second, 70 %% of the highest rate; %d times the receiver was so late that the sender waited; %d stops of the world, the longest at most %v",
		n, size, pacedPart*highest, s.late, count, longest)
	if d := r.drops(); d != 0 {
		t.Errorf("%d frames were dropped: %s", d, r.counters())
	}
}

// pacer sends numbered frames of several flows from one guest to another.
type pacer struct {
	from, to  *vutest.FrontEnd
	frames    [pacedBatch]vutest.Frame
	sent, got atomic.Uint64
	late      int // how often the receiver had no buffers for another batch
}

func newPacer(from, to *vutest.FrontEnd, size int) *pacer {
	s := &pacer{from: from, to: to}
	for i := range s.frames {
		f := flow(macB, macA, 1000+i%pacedFlows, 80)
		f.Data = append(f.Data[:numberAt:numberAt], make([]byte, size-numberAt)...)
		binary.BigEndian.PutUint16(f.Data[16:], uint16(size-14)) // IPv4 length
		binary.BigEndian.PutUint16(f.Data[38:], uint16(size-34)) // UDP length
		s.frames[i] = f
	}
	return s
}

// send sends n frames, so many a second. It waits while the receiver has no
// buffers for more: what it had none for would be lost, and rightly.
func (s *pacer) send(n int, rate float64) error {
	began, done := time.Now(), 0
	for done < n {
		due := min(n, int(time.Since(began).Seconds()*rate)+1)
		if math.IsInf(rate, 1) {
			due = n
		}
		k := min(due-done, pacedBatch)
		switch {
		case k <= 0:
			time.Sleep(20 * time.Microsecond)
			continue
		case s.sent.Load()-s.got.Load() > pacedRing-2*pacedBatch:
			s.late++
			time.Sleep(20 * time.Microsecond)
			continue
		}
		for i := range k {
			binary.BigEndian.PutUint64(s.frames[i].Data[numberAt:], s.sent.Load()+uint64(i))
		}
		s.sent.Add(uint64(k))
		if err := s.from.Send(0, s.frames[:k]...); err != nil {
			return err
		}
		done += k
	}
	return s.from.WaitSent(0)
}

// receive takes frames until ctx ends. Each is the one behind the last: all
// flows go by one ring, so that none may be overtaken at all.
func (s *pacer) receive(ctx context.Context) error {
	for ctx.Err() == nil {
		got, err := s.to.Recv(0, 5*time.Millisecond)
		if errors.Is(err, vutest.ErrTimeout) {
			continue
		}
		if err != nil {
			return err
		}
		if n := binary.BigEndian.Uint64(got.Data[numberAt:]); n != s.got.Load() {
			return fmt.Errorf("frame %d of %d bytes came in the place of frame %d", n, len(got.Data), s.got.Load())
		}
		s.got.Add(1)
	}
	return nil
}

// pauses are how often the world was stopped for so long, by the runtime's
// buckets.
type pauses struct {
	buckets []float64 // seconds: the ends of the buckets
	counts  []uint64
}

// stops are the pauses of this process up to now, of both kinds.
func stops() (p pauses) {
	samples := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}, {Name: "/sched/pauses/total/other:seconds"}}
	metrics.Read(samples)
	for _, s := range samples {
		h := s.Value.Float64Histogram()
		p.buckets = append(p.buckets, h.Buckets[1:]...)
		p.counts = append(p.counts, h.Counts...)
	}
	return p
}

// since is the longest stop since p, rounded up to the end of its bucket, and
// how many there were.
func (p pauses) since() (longest time.Duration, count uint64) {
	now := stops()
	for i, n := range now.counts {
		if n -= p.counts[i]; n > 0 {
			count += n
			longest = max(longest, time.Duration(now.buckets[i]*1e9))
		}
	}
	return longest, count
}
