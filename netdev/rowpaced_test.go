package netdev_test

import (
	"context"
	"syscall"
	"testing"
	"time"

	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
	"vhostnet/worker"
)

// BenchmarkPaced is what a frame costs the worker when its guest sends one in a
// millisecond, in the adaptive mode and in those between which it chooses: CPU
// time of the worker's thread, as the kernel counts it, and how often it slept
// and went round.
func BenchmarkPaced(b *testing.B) {
	for _, mode := range []worker.Mode{worker.Adaptive, worker.Interrupt, worker.Poll} {
		b.Run(mode.String(), func(b *testing.B) {
			r := newRig(b, 1, netdev.Options{Name: "a", MAC: macA, Mode: mode}, netdev.Options{Name: "b", MAC: macB, Mode: mode})
			here, there := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
			f := frame(macB, macA, 60, 1)
			send := func() {
				time.Sleep(time.Millisecond)
				if err := here.Send(0, f); err != nil {
					b.Fatal(err)
				}
				if _, err := there.Recv(0, patience); err != nil {
					b.Fatal(err)
				}
			}
			for range 20 { // whatever it has to learn
				send()
			}
			w, frames := r.group.Workers()[0], 0
			cpu, before := cpuOf(b, w), w.Stats()
			for b.Loop() {
				send()
				frames++
			}
			after := w.Stats()
			b.ReportMetric(float64(cpuOf(b, w)-cpu)/float64(frames), "cpu-ns/frame")
			b.ReportMetric(float64(after.Sleeps-before.Sleeps)/float64(frames), "sleeps/frame")
			b.ReportMetric(float64(after.Rounds-before.Rounds)/float64(frames), "rounds/frame")
			b.ReportMetric(0, "ns/op") // mostly the wait between frames
		})
	}
}

// cpuOf is the CPU time that a worker's thread has used.
func cpuOf(b *testing.B, w *worker.Worker) time.Duration {
	b.Helper()
	var used syscall.Rusage
	var failed error
	err := w.Do(context.Background(), func(*worker.Context) {
		const thread = 1 // RUSAGE_THREAD
		failed = syscall.Getrusage(thread, &used)
	})
	if err != nil || failed != nil {
		b.Fatal(err, failed)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
