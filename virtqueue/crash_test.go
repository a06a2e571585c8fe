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
// too, behind which others are used already. The driver takes what it sees, or does
// not, and the processes that come next are killed as well, also before the front-end
// does it. Every head comes back once.
func TestDoubleRead_KilledAmidAPushBeforeAFrontEndGaveBack(t *testing.T) {
	for kept, make := range map[string]func(*testing.T, int, virtio.Features) *journaled{"journal": newJournaled, "region": newTracked} {
		for name, push := range pushes {
			for _, earlier := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, a push before it %t", kept, name, earlier), func(t *testing.T) {
					a := amidAPush{t: t, push: push, earlier: earlier, make: make}
					points := 0
					for a.killed(points) {
						points++
					}
					least := 2 + push.given // a journal's: an entry each, the push, and its end
					if kept == "region" {
						least = 4 + 5*push.slots() // four words in, one out, and the places
					}
					if least += 1 + push.given; points < least { // and the used descriptors
						t.Errorf("only %d points at which a process was killed, want %d at least", points, least)
					}
					if a.took < points || a.reaped < points {
						t.Errorf("the front-end gave something back in %d cases and the driver took something in %d, of %d points at which a process was killed", a.took, a.reaped, points)
					}
				})
			}
		}
	}
}

// amidPush is the chains of a push, in turn.
type amidPush struct {
	list  []vqtest.Request
	given int
}

// pushes are of kinds that differ in where their slots end.
var pushes = map[string]amidPush{
	"one slot":     {frames["one slot"], 5},
	"two slots":    {frames["two slots"], 5},
	"one to three": {frames["one to three"], 5},
	"the ring":     {wholeRing, 5},
}

// wholeRing is three slots and two in turn, so five of them fill it.
var wholeRing = []vqtest.Request{frames["one to three"][0], frames["one to three"][2]}

// request is that of chain i.
func (p amidPush) request(i int) vqtest.Request { return p.list[i%len(p.list)] }

// slots is how many the push has.
func (p amidPush) slots() (n int) {
	for i := range p.given {
		n += len(p.request(i).Out)
	}
	return n
}

// amidAPush is the cases of that test with one kind of chains.
type amidAPush struct {
	t       *testing.T
	push    amidPush
	earlier bool // there was a push before
	make    func(*testing.T, int, virtio.Features) *journaled
	took    int // cases in which the front-end gave something back
	reaped  int // and in which the driver took something before the ring was served
}

// amidCase is one case: a process that is killed at its n-th store, and a front-end
// at a position, or where the push began if that is negative, that gives back before
// the next process begins, or behind its store late if that is not negative.
type amidCase struct {
	n, at, late int
	once        bool // the front-end gives back one chain at most
	reap        bool // the driver takes what it sees before the ring is served
}

// killed is the cases of a process that is killed at its n-th store, and reports
// whether it got so far.
func (a *amidAPush) killed(n int) (killed bool) {
	const apart = 4
	for at := range 2 * amidSize {
		for _, once := range []bool{false, true} {
			_, killed = a.both(amidCase{n: n, at: at, late: -1, once: once})
		}
	}
	for _, once := range []bool{false, true} { // where the push began
		for late, again := n%apart, true; again; late += apart {
			again, _ = a.both(amidCase{n: n, at: -1, late: late, once: once})
		}
	}
	return killed
}

// both is a case with a driver that is quick, and with one that is not, if that is
// another case.
func (a *amidAPush) both(c amidCase) (again, killed bool) {
	a.t.Helper()
	before := a.reaped
	c.reap = true
	if again, killed = a.round(c); a.reaped > before {
		c.reap = false
		a.round(c)
	}
	return again, killed
}

const amidSize = 13

func (a *amidAPush) round(c amidCase) (again, killed bool) {
	a.t.Helper()
	j := a.make(a.t, amidSize, virtio.EventIdx)
	defer j.Close()
	from, killed := j.killedAmidAPush(a.push, a.earlier, c.n)
	at := c.at
	if at < 0 {
		at = from
	}
	s := j.staleAt(amidSize, at, c.once)
	if c.late >= 0 {
		again = killedAt(c.late, func() { j.beginAfter(s) })
	}
	if s.drop() > 0 {
		a.took++
	}
	if c.reap && j.reap() > 0 {
		j.fill()
		a.reaped++
	}
	j.resumeBehind(s, c.n+at+c.late, fmt.Sprintf("%+v", c))
	return again, killed
}

// killedAmidAPush is a process that is killed at the n-th store of a push, and where
// that began. The push before it was of other chains at other slots.
func (j *journaled) killedAmidAPush(push amidPush, earlier bool, n int) (from int, killed bool) {
	j.t.Helper()
	j.post(9, vqtest.Request{In: []int{100}}) // the laps meet amid what follows
	j.serve()
	if earlier {
		for _, slots := range []int{4, 2, 3} {
			j.post(1, vqtest.Request{In: slices.Repeat([]int{100}, slots)})
		}
		j.serve()
	}
	from = j.stands(amidSize)
	for i := range push.given {
		j.post(1, push.request(i))
	}
	chains := popAll(j.t, j.Queue, push.given)
	return from, killedAt(n, func() { pushAll(j.Queue, chains) })
}

// resumeBehind is resume behind a front-end that has given chains back.
func (j *journaled) resumeBehind(s *stale, n int, when string) {
	j.t.Helper()
	const apart = 11
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
		frame := frames["one slot"][0]
		head, err := j.Driver.Add(frame)
		if err != nil {
			j.Driver.Publish()
			return
		}
		j.posted[head] = bytesOf(frame)
	}
}
