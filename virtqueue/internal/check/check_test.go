package check

import (
	"os"
	"testing"
)

// limit is a bound on the states of one case, and so on its memory, about 250
// bytes for each.
const limit = 12_000_000

// Sets of protocols.
const (
	packedEvent = 1 << PackedEvent
	events      = packedEvent | 1<<SplitEvent
	all         = events | 1<<SplitFlags | 1<<PackedFlags
)

// everywhere calls f with c on each machine, for each protocol of the set.
func everywhere(c Case, set uint, f func(Case)) {
	for c.Machine = TSO; c.Machine <= Weak; c.Machine++ {
		for c.Protocol = SplitFlags; c.Protocol <= PackedEvent; c.Protocol++ {
			if set>>c.Protocol&1 != 0 {
				f(c)
			}
		}
	}
}

// explore goes through c and tells what it found.
func explore(t *testing.T, c Case) *Result {
	t.Helper()
	if c.Size == 0 {
		c.Size = 2
		if c.Protocol.packed() {
			c.Size = 3 // not a power of two
		}
	}
	c.Limit = limit
	r, err := Explore(c)
	if err != nil {
		t.Fatalf("%v, %v, %d entries: %v", c.Machine, c.Protocol, c.Size, err)
	}
	t.Logf("%v, %v, %d entries, %d chains, %d restarts: %d states, %d stuck",
		c.Machine, c.Protocol, c.Size, c.Chains, c.Restarts, r.States, r.Stuck)
	return r
}

// TestNothingIsStuck: as the protocol is, nobody sleeps beside work.
func TestNothingIsStuck(t *testing.T) {
	states, cases := 0, []Case{
		{Chains: 4},
		{Chains: 5, Size: 2}, // both ways round a packed ring
		{Chains: 4, Size: 4},
		{Chains: 3, Restarts: 1},
		{Chains: 3, Restarts: 1, Crash: true},
	}
	if os.Getenv("VHOSTNET_SOAK") != "" {
		cases = []Case{
			{Chains: 7},
			{Chains: 6, Size: 4},
			{Chains: 4, Restarts: 2},
			{Chains: 4, Restarts: 2, Crash: true},
		}
	}
	for _, c := range cases {
		if quick {
			c.Chains = 2
		}
		everywhere(c, all, func(c Case) {
			r := explore(t, c)
			if states += r.States; r.Stuck > 0 {
				t.Errorf("%v", r)
			}
		})
	}
	t.Logf("%d states", states)
}

// TestCallLostWithTheDevice: a device that dies between publication and call
// leaves a driver asleep that the next one cannot know of before it pushes. It
// is why states are not counted until then.
func TestCallLostWithTheDevice(t *testing.T) {
	everywhere(Case{Chains: 2, Restarts: 1, Crash: true, Strict: true}, all, func(c Case) {
		if r := explore(t, c); r.Stuck == 0 {
			t.Error("nothing is stuck, so nothing need be left out")
		}
	})
}

// TestFlaws: each flaw leads to a stuck state, by a way that is printed.
func TestFlaws(t *testing.T) {
	for _, f := range []struct {
		flaw Flaw
		set  uint
		weak bool // harmless on TSO
		Case
	}{
		{flaw: ArmNoFence, set: all},
		{flaw: ArmNoRecheck, set: all},
		{flaw: ArmLookFirst, set: all},
		{flaw: ArmForgotten, set: all},
		{flaw: ArmNextButOne, set: events},
		{flaw: ArmNoWrap, set: packedEvent},
		{flaw: DrainAfterArm, set: all},
		{flaw: PushNoFence, set: all},
		{flaw: PushNoAcquire, set: all, weak: true},
		{flaw: NoFirstCall, set: events, Case: Case{Restarts: 1, Crash: true}},
		{flaw: KickNoFence, set: all},
		{flaw: EnableNoFence, set: all},
		{flaw: EnableNoRecheck, set: all},
		{flaw: EnableLookFirst, set: all},
		{flaw: EventBehind, set: events},
		{flaw: EventLastOnly, set: events},
		{flaw: NoWrap, set: events, Case: Case{Size: 2}},
	} {
		t.Run(f.flaw.String(), func(t *testing.T) {
			c := f.Case
			c.Chains, c.Flaw = 4, f.flaw
			everywhere(c, f.set, func(c Case) {
				if quick && c.Machine == Weak {
					return
				}
				r := explore(t, c)
				if harmless := f.weak && c.Machine == TSO; harmless != (r.Stuck == 0) {
					t.Errorf("%d stuck states on %v, %v", r.Stuck, c.Machine, c.Protocol)
				}
				if r.Stuck > 0 {
					t.Logf("how:\n%v", r)
				}
			})
		})
	}
}

// TestHarmless: what looks like a flaw and is none. The order in which the two
// halves of an event suppression structure are written or read does not
// matter, because the driver looks at the ring once more behind its fence.
func TestHarmless(t *testing.T) {
	for _, f := range []Flaw{PushTornWish, EnableModeFirst} {
		everywhere(Case{Chains: 3, Flaw: f}, packedEvent, func(c Case) {
			if quick && c.Machine == Weak {
				return
			}
			if r := explore(t, c); r.Stuck > 0 {
				t.Errorf("%v, %v:\n%v", f, c.Machine, r)
			}
		})
	}
}
