package netdev_test

import (
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
)

// BenchmarkRowPingPong is a frame there and back between two guests of one
// worker, in adaptive mode, against the same ping-pong of two threads over two
// eventfds: at most 3 times as much. They take turns within the run; the figure
// is the median of the rounds' ratios. The guests' drivers, which vutest plays,
// are in it.
func BenchmarkRowPingPong(b *testing.B) {
	const trips = 200 // of each, in a round
	frames, counts := framePong(b)
	events := eventPong(b)
	var ours, theirs, ratios []float64
	for b.Loop() {
		x := perTrip(frames, trips)
		y := perTrip(events, trips)
		ours, theirs, ratios = append(ours, x), append(theirs, y), append(ratios, x/y)
	}
	for _, m := range []struct {
		list []float64
		unit string
	}{{ours, "ns/trip"}, {theirs, "ns/other"}, {ratios, "ratio"}} {
		slices.Sort(m.list)
		b.ReportMetric(m.list[len(m.list)/2], m.unit)
	}
	b.ReportMetric(3, "goal")
	counts()
	b.ReportMetric(0, "ns/op") // of a round: says nothing
}

// perTrip is the time of one of n round trips, ns.
func perTrip(trip func(), n int) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	trip()
	before := time.Now()
	for range n {
		trip()
	}
	return float64(time.Since(before)) / float64(n)
}

// framePong is a round trip of a frame between two guests. The second answers
// on a thread of its own until the benchmark ends. counts reports how many kicks
// and calls a trip took, and how often the worker slept.
func framePong(b *testing.B) (trip, counts func()) {
	r := newRig(b, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	// Short buffers: the guests look at every byte of theirs.
	o := vutest.Options{Guest: vutest.Guest{RxBuffer: 128, RxBuffers: 16}}
	here, there := r.connect("a", o), r.connect("b", o)
	last := frame(macB, macA, 61, 0)
	answer := frame(macA, macB, 60, 1)
	onThread(b, func() bool {
		got, err := there.Recv(0, patience)
		if errors.Is(err, vutest.ErrTimeout) {
			return true
		}
		if err == nil && len(got.Data) == len(last.Data) {
			return false
		}
		if err == nil {
			err = there.Send(0, answer)
		}
		if err != nil {
			b.Error(err)
		}
		return err == nil
	}, func() error { return here.Send(0, last) })
	question := frame(macB, macA, 60, 2)
	trips := 0
	trip = func() {
		trips++
		if err := here.Send(0, question); err != nil {
			b.Fatal(err)
		}
		if _, err := here.Recv(0, patience); err != nil {
			b.Fatal(err)
		}
	}
	slept := r.group.Workers()[0].Stats().Sleeps
	return trip, func() {
		b.ReportMetric(float64(here.Kicks(1)+there.Kicks(1))/float64(trips), "kicks/trip")
		b.ReportMetric(float64(here.Calls(0)+there.Calls(0))/float64(trips), "calls/trip")
		b.ReportMetric(float64(r.group.Workers()[0].Stats().Sleeps-slept)/float64(trips), "sleeps/trip")
	}
}

// eventPong is the same of two eventfds.
func eventPong(b *testing.B) (trip func()) {
	ping, pong := blockingEvent(b), blockingEvent(b)
	onThread(b, func() bool {
		n := await(b, ping)
		if n == 1 {
			tell(b, pong, 1)
		}
		return n == 1
	}, func() error { tell(b, ping, 2); return nil })
	return func() {
		tell(b, ping, 1)
		await(b, pong)
	}
}

// onThread runs f on a thread of its own until it answers false; end makes it.
func onThread(b *testing.B, f func() bool, end func() error) {
	var running sync.WaitGroup
	running.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for f() {
		}
	})
	b.Cleanup(func() {
		if err := end(); err != nil {
			b.Error(err)
		}
		running.Wait()
	})
}

func blockingEvent(b *testing.B) int {
	b.Helper()
	fd, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC, 0)
	if errno != 0 {
		b.Fatal(errno)
	}
	b.Cleanup(func() { _ = syscall.Close(int(fd)) })
	return int(fd)
}

func tell(b *testing.B, fd int, n uint64) {
	if _, err := syscall.Write(fd, binary.NativeEndian.AppendUint64(nil, n)); err != nil {
		b.Error(err)
	}
}

func await(b *testing.B, fd int) uint64 {
	var buf [8]byte
	if _, err := syscall.Read(fd, buf[:]); err != nil {
		b.Error(err)
	}
	return binary.NativeEndian.Uint64(buf[:])
}
