package netdev_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
	"vhostnet/worker"
)

// spinning is a rig with as many workers as processors, each of which a polled
// port keeps busy while its guest is connected, and one more port.
type spinning struct {
	*rig
	asked *vutest.FrontEnd
	ports []*vutest.FrontEnd
}

func newSpinning(t testing.TB) *spinning {
	workers := runtime.NumCPU()
	ports := []netdev.Options{{Name: "asked", MAC: macA}}
	for i := range workers {
		ports = append(ports, netdev.Options{Name: fmt.Sprint("polled", i), Mode: worker.Poll, Home: 1 + i})
	}
	s := &spinning{rig: newRig(t, workers, ports...)}
	s.asked = s.connect("asked", vutest.Options{})
	for i := range workers {
		s.ports = append(s.ports, s.connect(fmt.Sprint("polled", i), vutest.Options{}))
	}
	return s
}

// ask has n requests answered.
func (s *spinning) ask(n int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range n {
		s.must(s.asked.Barrier(ctx))
	}
}

// Sessions are served while every processor has a worker that spins: they have
// threads of their own (worker.RaiseProcs), also one that begins then.
func TestRequestsWhileAllWorkersSpin(t *testing.T) {
	s := newSpinning(t)
	if procs, want := runtime.GOMAXPROCS(0), runtime.NumCPU()+len(s.ports); procs < want {
		t.Errorf("GOMAXPROCS is %d with %d workers and %d processors, want %d", procs, len(s.ports), runtime.NumCPU(), want)
	}
	before := make([]worker.Stats, len(s.ports))
	for i, w := range s.group.Workers() {
		s.waitFor("each worker to spin", func() bool {
			n := w.Stats()
			time.Sleep(time.Millisecond)
			return w.Stats().Rounds > n.Rounds+10 && w.Stats().Sleeps == n.Sleeps
		})
		before[i] = w.Stats()
	}
	s.ask(200)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := s.asked.Reconnect(ctx)
	s.must(err)
	s.ask(200)
	for i, w := range s.group.Workers() {
		if now := w.Stats(); now.Sleeps != before[i].Sleeps || now.Rounds == before[i].Rounds {
			t.Errorf("worker %d did not spin: %+v, and then %+v", i, before[i], now)
		}
	}
}

// BenchmarkRowRequests is a request of a front-end while every worker spins
// against one while all sleep.
func BenchmarkRowRequests(b *testing.B) {
	const requests = 50
	s := newSpinning(b)
	ask := func() float64 {
		began := time.Now()
		s.ask(requests)
		return float64(time.Since(began)) / requests
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*patience)
	defer cancel()
	var busy, idle, ratios []float64
	for b.Loop() {
		x := ask()
		for _, f := range s.ports {
			s.must(f.Stop(ctx))
		}
		y := ask()
		for _, f := range s.ports {
			_, err := f.Start(ctx)
			s.must(err)
		}
		busy, idle, ratios = append(busy, x), append(idle, y), append(ratios, x/y)
	}
	for _, m := range []struct {
		list []float64
		unit string
	}{{busy, "ns/request"}, {idle, "ns/other"}, {ratios, "ratio"}} {
		slices.Sort(m.list)
		b.ReportMetric(m.list[len(m.list)/2], m.unit)
	}
	b.ReportMetric(0, "ns/op") // of a round: says nothing
}
