//go:build doubleread

package virtqueue_test

import (
	"errors"
	"fmt"
	"slices"
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
// The next one returns every head exactly once, by the journal or by the inflight
// region.
func TestDoubleRead_KilledAtEveryStore(t *testing.T) {
	const size = 11
	for kept, make := range map[string]func(*testing.T, int, virtio.Features) *journaled{"journal": newJournaled, "region": newTracked} {
		for _, f := range []virtio.Features{0, virtio.EventIdx} {
			for name, r := range map[string]vqtest.Request{
				"one slot":    {In: []int{100}},
				"three slots": {In: []int{20, 30, 50}},
				"transmit":    {Out: [][]byte{[]byte("header"), []byte("frame")}},
			} {
				t.Run(fmt.Sprintf("%s, %s, event index %t", kept, name, f != 0), func(t *testing.T) {
					points := 0
					for before := range 2*size + 1 { // everywhere in the two laps
						for n := 0; killRound(t, make(t, size, f), r, before, n); n++ {
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
}

// killRound kills a process at its n-th store behind so many chains, and reports
// whether it got so far.
func killRound(t *testing.T, j *journaled, r vqtest.Request, before, n int) bool {
	t.Helper()
	defer j.Close()
	const given = 3
	killed := j.killedAmid(given, r, before, n)
	j.resume(given, n, fmt.Sprintf("killed at store %d behind %d chains", n, before))
	return killed
}

// killedAmid is a process that is killed at its n-th store behind so many chains,
// while it serves the last ones that were given.
func (j *journaled) killedAmid(given int, r vqtest.Request, before, n int) bool {
	j.t.Helper()
	for range before {
		j.post(1, vqtest.Request{In: []int{100}})
		j.serve()
	}
	j.post(given, r)
	return killedAt(n, func() {
		j.Queue.Arm()
		var chains [8]virtqueue.Chain
		k, err := j.Queue.Pop(chains[:2])
		if err != nil || k != 2 {
			j.t.Fatalf("%d chains, %v", k, err)
		}
		pushAll(j.Queue, chains[:2])
		j.replace()
		pushAll(j.Queue, popAll(j.t, j.Queue, 1))
	})
}

// A guest boots anew behind each store at which the process that served it was
// killed: what was kept is of the driver before.
func TestDoubleRead_AnotherDriverBehindEveryStore(t *testing.T) {
	for kept, make := range map[string]func(*testing.T, int, virtio.Features) *journaled{"journal": newJournaled, "region": newTracked} {
		for _, f := range []virtio.Features{0, virtio.EventIdx} {
			t.Run(fmt.Sprintf("%s, event index %t", kept, f != 0), func(t *testing.T) {
				for n := 0; ; n++ {
					j := make(t, 11, f)
					killed := j.killedAmid(3, vqtest.Request{In: []int{20, 30}}, 2, n)
					j.anew()
					j.wantBase()
					j.Close()
					if t.Failed() {
						t.Fatalf("killed at store %d", n)
					}
					if !killed {
						return
					}
				}
			})
		}
	}
}

// resume is the processes that come next, each of which is killed while it makes
// sense of what it finds, a few stores behind the one before it, but for the last
// one. Where the first of them is killed is n's choice.
func (j *journaled) resume(given, n int, when string) {
	j.t.Helper()
	const apart = 5
	for again := n % apart; killedAt(again, func() { j.begin(nil) }); again += apart {
	}
	if found, err := j.Queue.Recovered(); !found || err != nil {
		j.t.Fatalf("%s: recovered %t, %v", when, found, err)
	}
	if got := j.serve(); got != given || len(j.posted) != 0 {
		j.t.Fatalf("%s: %d of %d heads came back", when, got, given)
	}
}

// A process of another back-end is killed before each store of what the format
// asks of it, while it gives chains back in any order.
func TestDoubleRead_OtherBackEndKilledAtEveryStore(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2}, {1}, {2}, {0, 2}} {
		for before := range 23 {
			for n := 0; ; n++ {
				j, o := newOther(t, 11, before)
				for _, r := range otherChains {
					j.post(1, r)
				}
				killed := killedAt(n, func() {
					o.takeAll(len(otherChains))
					o.give(order[:1]...)
					if len(order) > 1 {
						o.give(order[1:]...)
					}
				})
				j.resume(len(otherChains), n, fmt.Sprintf("order %v, killed at store %d behind %d chains", order, n, before))
				j.Close()
				if !killed {
					break
				}
			}
		}
	}
}

// A process is killed, its front-end gives chains back from a stale position, and
// the processes that come next are killed while they make sense of that. Every head
// comes back once.
func TestDoubleRead_KilledBehindAFrontEndThatGaveBack(t *testing.T) {
	const size, given = 13, 3
	for kept, make := range map[string]func(*testing.T, int, virtio.Features) *journaled{"journal": newJournaled, "region": newTracked} {
		for name, list := range frames {
			t.Run(kept+", "+name, func(t *testing.T) {
				rounds := 0
				for _, ahead := range []int{1, 2, 4, 7} {
					for killed, n := true, 0; killed; n++ {
						j := make(t, size, virtio.EventIdx)
						j.post(size-2, vqtest.Request{In: []int{100}}) // the laps meet amid the chains
						j.serve()
						for i := range given {
							j.post(1, list[i%len(list)])
						}
						s := j.staleAt(size, size-2+ahead, n%2 == 0)
						s.drop()
						killed = killedAt(n, func() { j.beginAfter(s) })
						for again := n % 5; killedAt(again, func() { j.beginAfter(s) }); again += 5 {
						}
						if got := j.serve(); got != given || len(j.posted) != 0 {
							t.Fatalf("a front-end %d slots ahead, killed at store %d: %d of %d heads came back", ahead, n, got, given)
						}
						j.Close()
						rounds++
					}
				}
				if rounds < 16 {
					t.Errorf("only %d points at which a process was killed", rounds)
				}
			})
		}
	}
}

// A process is killed before each store of a push, and a front-end that stands
// anywhere gives back what looks available there: the first chain of that push,
// too, behind which others are used already. The driver takes what it sees, and the
// processes that come next are killed as well, also before the front-end does it.
// Every head comes back once.
func TestDoubleRead_KilledAmidAPushBeforeAFrontEndGaveBack(t *testing.T) {
	for kept, make := range map[string]func(*testing.T, int, virtio.Features) *journaled{"journal": newJournaled, "region": newTracked} {
		for name, list := range frames {
			for _, earlier := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, a push before it %t", kept, name, earlier), func(t *testing.T) {
					a := amidAPush{t: t, list: list, earlier: earlier, make: make}
					for n := 0; a.killed(n); n++ {
					}
					if a.took < 100 {
						t.Errorf("the front-end gave something back in %d cases", a.took)
					}
				})
			}
		}
	}
}

// amidAPush is the cases of that test with one kind of chains.
type amidAPush struct {
	t       *testing.T
	list    []vqtest.Request
	earlier bool // there was a push before
	make    func(*testing.T, int, virtio.Features) *journaled
	took    int // cases in which the front-end gave something back
}

// killed is the cases of a process that is killed at its n-th store, and reports
// whether it got so far.
func (a *amidAPush) killed(n int) (killed bool) {
	const size, apart = 13, 4
	for at := range 2 * size {
		for _, once := range []bool{false, true} {
			_, killed = a.round(size, at, once, n, -1)
		}
	}
	for _, once := range []bool{false, true} { // where the push began
		for late, again := n%apart, true; again; late += apart {
			again, _ = a.round(size, -1, once, n, late)
		}
	}
	return killed
}

// round is one case: a front-end at a position, or where the push began, that gives
// back before the next process begins, or behind its store late.
func (a *amidAPush) round(size, at int, once bool, n, late int) (again, killed bool) {
	a.t.Helper()
	j := a.make(a.t, size, virtio.EventIdx)
	defer j.Close()
	from, killed := j.killedAmidAPush(size, a.list, a.earlier, n)
	if at < 0 {
		at = from
	}
	s := j.staleAt(size, at, once)
	if late >= 0 {
		again = killedAt(late, func() { j.beginAfter(s) })
	}
	if s.drop() > 0 {
		a.took++
	}
	j.resumeBehind(s, n+at+late, fmt.Sprintf("killed at store %d, and %d, a front-end at %d, one chain only %t", n, late, at, once))
	return again, killed
}

// killedAmidAPush is a process that is killed at the n-th store of a push, and where
// that began. The push before it was of other chains at other slots.
func (j *journaled) killedAmidAPush(size int, list []vqtest.Request, earlier bool, n int) (from int, killed bool) {
	j.t.Helper()
	const given = 5
	j.post(9, vqtest.Request{In: []int{100}}) // the laps meet amid what follows
	j.serve()
	if earlier {
		for _, slots := range []int{4, 2, 3} {
			j.post(1, vqtest.Request{In: slices.Repeat([]int{100}, slots)})
		}
		j.serve()
	}
	from = j.stands(size)
	for i := range given {
		j.post(1, list[i%len(list)])
	}
	chains := popAll(j.t, j.Queue, given)
	return from, killedAt(n, func() { pushAll(j.Queue, chains) })
}

// resumeBehind is resume behind a front-end that has given chains back: the driver
// takes them before, and sends as many as there is room for.
func (j *journaled) resumeBehind(s *stale, n int, when string) {
	j.t.Helper()
	const apart = 11
	if n%2 == 0 && j.reap() > 0 {
		j.fill()
	}
	for again := n % apart; killedAt(again, func() { j.beginAfter(s) }); again += apart {
	}
	j.serve()
	if len(j.posted) != 0 {
		j.t.Fatalf("%s: %d heads did not come back", when, len(j.posted))
	}
	j.post(1, vqtest.Request{In: []int{100}})
	if got := j.serve(); got != 1 {
		j.t.Fatalf("%s: afterwards %d of 1 head came back", when, got)
	}
}

// fill gives the device as many chains of one slot as there is room for.
func (j *journaled) fill() {
	for {
		head, err := j.Driver.Add(frames["one slot"][0])
		if err != nil {
			j.Driver.Publish()
			return
		}
		j.posted[head] = true
	}
}
