//go:build doubleread

package virtqueue_test

import (
	"errors"
	"fmt"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

var errKilled = errors.New("the process is killed here")

// killedAt runs f and stops it before its n-th store, as if its process were
// killed there. It reports whether f had so many.
func killedAt(n int, f func()) (killed bool) {
	defer func() {
		if p := recover(); p != nil {
			if p != errKilled {
				panic(p)
			}
			killed = true
		}
	}()
	w := new(sharedmem.Watch)
	w.BeforeStore(func() {
		if n--; n < 0 {
			panic(errKilled)
		}
	})
	w.Do(f)
	return false
}

// A process is killed before each store of everything that a packed ring does.
// The next one returns every head exactly once.
func TestDoubleRead_KilledAtEveryStore(t *testing.T) {
	const size = 11
	for _, f := range []virtio.Features{0, virtio.EventIdx} {
		for name, r := range map[string]vqtest.Request{
			"one slot":    {In: []int{100}},
			"three slots": {In: []int{20, 30, 50}},
			"transmit":    {Out: [][]byte{[]byte("header"), []byte("frame")}},
		} {
			t.Run(fmt.Sprintf("%s, event index %t", name, f != 0), func(t *testing.T) {
				points := 0
				for before := range 2*size + 1 { // everywhere in the two laps
					for n := 0; killRound(t, size, f, r, before, n); n++ {
						points++
					}
				}
				if points < 10*(2*size+1) {
					t.Errorf("only %d points at which a process was killed", points)
				}
			})
		}
	}
}

// killRound kills a process at its n-th store behind so many chains, and reports
// whether it got so far.
func killRound(t *testing.T, size int, f virtio.Features, r vqtest.Request, before, n int) bool {
	t.Helper()
	j := newJournaled(t, size, f)
	defer j.Close()
	for range before {
		j.post(1, vqtest.Request{In: []int{100}})
		j.serve()
	}
	given := 3
	j.post(given, r)
	killed := killedAt(n, func() {
		j.Queue.Arm()
		var chains [8]virtqueue.Chain
		k, err := j.Queue.Pop(chains[:2])
		if err != nil || k != 2 {
			t.Fatalf("%d chains, %v", k, err)
		}
		pushAll(j.Queue, chains[:2])
		state := j.Queue.Suspend()
		j.begin(func(c *virtqueue.Config) { c.Resume, c.Journal.Recover = &state, false })
		pushAll(j.Queue, popAll(t, j.Queue, 1))
	})
	// The one that comes next may be killed, too, while it completes what it found.
	for again := 0; killedAt(again, func() { j.begin(nil) }); again++ {
	}
	if found, err := j.Queue.Recovered(); !found || err != nil {
		t.Fatalf("killed at store %d behind %d chains: recovered %t, %v", n, before, found, err)
	}
	if got := j.serve(); got != given || len(j.posted) != 0 {
		t.Fatalf("killed at store %d behind %d chains: %d of %d heads came back", n, before, got, given)
	}
	return killed
}
