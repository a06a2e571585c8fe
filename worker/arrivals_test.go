package worker

import (
	"math"
	"testing"
	"time"
)

// The times of a simulated worker, ns.
const (
	simSpin   = 50_000
	simRound  = 500    // a round that finds nothing
	simWakeUp = 40_000 // from a kick until a worker that slept is there
)

// sim is a worker whose rounds a test makes, by a clock of the test's, and a
// guest that has its next frame there some time after the one before was taken.
type sim struct {
	t      *testing.T
	w      *Worker
	f      *fake
	now    int64
	stats  *Arrivals
	rounds int // that found nothing
	sleeps int
}

func newSim(t *testing.T) *sim {
	s := &sim{t: t, w: newWorker(0, Options{Batch: 64, Spin: simSpin}, new(newBell())), f: newFake(t), now: 1}
	if err := s.w.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.w.close)
	s.add(s.f)
	s.stats = s.w.find(s.f).arrivals
	return s
}

func (s *sim) add(task Task) {
	s.t.Helper()
	if err := s.w.add(task, Adaptive, task.FD()); err != nil {
		s.t.Fatal(err)
	}
}

// frame lets a frame come after a gap, and the worker go round until it is
// taken.
func (s *sim) frame(gap int64) {
	s.t.Helper()
	at, taken := s.now+gap, s.f.took.Load()
	given := false
	for s.f.took.Load() == taken {
		if !given && s.now >= at {
			s.f.give()
			given = true
		}
		if s.round(); len(s.w.active) > 0 {
			s.now += simRound
			continue
		}
		s.sleeps++
		if !given {
			s.now, given = max(s.now, at), true
			s.f.give()
		}
		s.now += simWakeUp
		s.wake(math.MaxInt64)
	}
}

// round is one of Worker.loop, as far as it does not wait.
func (s *sim) round() {
	s.w.tick(s.now, simSpin/waitedPart)
	if !s.w.visit() {
		s.rounds++
	}
	if len(s.w.active) > 0 {
		s.look()
	}
}

func (s *sim) look() {
	s.t.Helper()
	if err := s.w.look(); err != nil {
		s.t.Fatal(err)
	}
}

// wake is the end of a sleep.
func (s *sim) wake(most int64) {
	s.t.Helper()
	s.look()
	s.w.tick(s.now, most)
}

// frames is n of them, each after gap(i).
func (s *sim) frames(n int, gap func(i int) int64) {
	s.t.Helper()
	for i := range n {
		s.frame(gap(i))
	}
}

func every(gap time.Duration) func(int) int64 { return func(int) int64 { return int64(gap) } }

// A ring is polled as long as work is likely to come, and not at all when it is
// not.
func TestPollingIsLearned(t *testing.T) {
	// Bursts of 50 with 5 us between, and 10 ms between them.
	bursts := func(i int) int64 {
		if i%50 == 0 {
			return int64(10 * time.Millisecond)
		}
		return int64(5 * time.Microsecond)
	}
	for _, c := range []struct {
		name   string
		before func(int) int64 // 100 frames from which it learns, nil: none
		gap    func(int) int64 // of 1000 frames
		sleeps [2]int          // at least and at most
		rounds int             // that found nothing, at most
	}{
		{name: "ping-pong, from the first frame on", gap: every(15 * time.Microsecond), rounds: 31_000},
		{name: "ping-pong of a slow guest", gap: every(45 * time.Microsecond), rounds: 91_000},
		{name: "stream with short gaps", gap: every(time.Microsecond), rounds: 3000},
		{name: "ping-pong after a slow sender", before: every(10 * time.Millisecond), gap: every(15 * time.Microsecond), sleeps: [2]int{tryAfter, tryAfter}, rounds: 31_000},
		{name: "a frame in 10 ms", before: every(10 * time.Millisecond), gap: every(10 * time.Millisecond), sleeps: [2]int{1000, 1000}, rounds: 1000},
		{name: "a frame in 10 ms after a ping-pong", before: every(15 * time.Microsecond), gap: every(10 * time.Millisecond), sleeps: [2]int{1000, 1000}, rounds: 1000 + 5*101},
		{name: "gaps that a wake-up might explain", before: every(100 * time.Microsecond), gap: every(100 * time.Microsecond), sleeps: [2]int{1000, 1000}, rounds: 1000 + 101*1000/tryAfter},
		{name: "bursts", before: bursts, gap: bursts, sleeps: [2]int{20, 20}, rounds: 20*101 + 980*11},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSim(t)
			if c.before != nil {
				s.frames(100, c.before)
			}
			s.rounds, s.sleeps = 0, 0
			s.frames(1000, c.gap)
			t.Logf("%d sleeps, %d rounds in vain, %+v", s.sleeps, s.rounds, s.stats.Stats())
			if s.sleeps < c.sleeps[0] || s.sleeps > c.sleeps[1] {
				t.Errorf("%d sleeps, want %d to %d", s.sleeps, c.sleeps[0], c.sleeps[1])
			}
			if s.rounds > c.rounds {
				t.Errorf("%d rounds found nothing, want at most %d", s.rounds, c.rounds)
			}
		})
	}
}

// Whenever a guest lets its frames come, it is polled for no more than
// Options.Spin for each, and in vain for less the more often; one that always comes
// when polling has just ended gets none of it.
func TestGuestCannotBuyPolling(t *testing.T) {
	const frames = 2000
	justLate := func(s *sim) int64 { return s.stats.spin.Load() + 2*simRound }
	for name, gap := range map[string]func(s *sim, i int) int64{
		"just late":                 func(s *sim, _ int) int64 { return justLate(s) },
		"seven in time, one late":   func(s *sim, i int) int64 { return map[bool]int64{false: 1, true: justLate(s)}[i%8 == 0] },
		"in time and late by turns": func(s *sim, i int) int64 { return map[bool]int64{false: 1, true: justLate(s)}[i%2 == 0] },
		"at the last moment":        func(s *sim, _ int) int64 { return max(1, s.stats.spin.Load()-simRound) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t)
			for i := range frames {
				before := s.rounds
				s.frame(gap(s, i))
				// A round more to find that it is empty, and one after the sleep.
				if n := s.rounds - before; n > simSpin/simRound+2 {
					t.Fatalf("frame %d: %d rounds found nothing, want at most %d", i, n, simSpin/simRound+2)
				}
			}
			got := s.stats.Stats()
			t.Logf("%d rounds in vain, %d sleeps, %+v", s.rounds, s.sleeps, got)
			if name == "just late" && got.Vain > frames/tryAfter {
				t.Errorf("polled in vain for %d of %d frames", got.Vain, frames)
			}
		})
	}
}

// A kick without work costs a visit, of a ring that is worth polling, too.
func TestKickForNothingBuysOneVisit(t *testing.T) {
	s := newSim(t)
	s.frames(100, every(time.Microsecond))
	for len(s.w.active) > 0 {
		s.round()
		s.now += simRound
	}
	polls, arms, known := s.f.polls.Load(), s.f.arms.Load(), s.stats.Stats()
	const kicks = 1000
	for range kicks {
		s.f.kick.Signal()
		s.now += simWakeUp
		s.wake(math.MaxInt64)
		for len(s.w.active) > 0 {
			s.round()
			s.now += simRound
		}
	}
	if p, a := s.f.polls.Load()-polls, s.f.arms.Load()-arms; p != kicks || a != kicks {
		t.Errorf("%d kicks for nothing took %d visits and %d looks for more", kicks, p, a)
	}
	if now := s.stats.Stats(); now != known {
		t.Errorf("kicks for nothing taught %+v, want %+v", now, known)
	}
}

// A neighbour that has work makes rounds long. What comes in each of them is not
// far apart, and not asked for kicks; what does not come falls asleep all the same.
func TestLongRoundsAreNoLongGaps(t *testing.T) {
	s := newSim(t)
	idle := newFake(t)
	s.add(idle)
	busy := &fake{onPoll: func(*Context) bool { return true }}
	if err := s.w.add(busy, Poll, -1); err != nil {
		t.Fatal(err)
	}
	const rounds = 1000
	for i := range rounds {
		if i%2 == 0 {
			s.f.give()
		}
		s.round()
		s.now += 2 * simSpin // the neighbour's batch
	}
	if got := s.f.took.Load(); got != rounds/2 {
		t.Errorf("%d of %d were taken", got, rounds/2)
	}
	if n := s.f.arms.Load(); n != 0 {
		t.Errorf("a ring with work in every other round was armed %d times", n)
	}
	if n := idle.polls.Load(); n > 2*waitedPart {
		t.Errorf("an idle ring was visited %d times before it slept", n)
	}
	if n := busy.polls.Load(); n != rounds {
		t.Errorf("the neighbour got %d visits in %d rounds", n, rounds)
	}
}

// learner is a fake that keeps what is learned of it.
type learner struct {
	fake
	arrivals Arrivals
}

func (l *learner) Arrivals() *Arrivals { return &l.arrivals }

// What is known of a task moves with it to another worker.
func TestLearnedMovesWithTheTask(t *testing.T) {
	l := &learner{fake: fake{kick: newEvent(t)}}
	s := newSim(t)
	s.add(l)
	for range 100 {
		l.arrivals.came(10*simSpin, true)
	}
	known := l.arrivals.Stats()
	if known.Spin != 0 || known.Vain == 0 || known.Unpolled == 0 || known.Found != 0 {
		t.Fatalf("long gaps have taught %+v", known)
	}
	if err := s.w.remove(l); err != nil {
		t.Fatal(err)
	}
	other := newSim(t)
	other.add(l)
	if now := l.arrivals.Stats(); now != known {
		t.Errorf("on the other worker it is %+v, want %+v", now, known)
	}
	other.round()
	if p, a := l.polls.Load(), l.arms.Load(); p != 1 || a != 1 {
		t.Errorf("it was visited %d times and armed %d times, want 1 and 1", p, a)
	}
}
