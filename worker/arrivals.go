package worker

import (
	"sync/atomic"
	"time"
)

// How long a ring is polled when it has gone empty is learned from how long it
// took, so far, until work came: the gap.
//
//	            most gaps are longer than Options.Spin
//	polled  -------------------------------------------->  not polled
//	        <--------------------------------------------
//	         tryAfter gaps in a row that may be short
//
// While a ring is polled, the mean of its gaps says for how long. The last gap
// has an eighth of the weight, and a long one counts as two of Options.Spin,
// whatever its length: a pause ends no ping-pong's polling, five in a row do.
//
// Of a ring that is not polled the gaps are not known so well: the wake-up is in
// them. So that is not taken for the guest's rhythm but for a reason to try: the
// mean is put where one gap that is polled in vain is enough to end it.
//
// What is polled for one arrival is at most Options.Spin, whatever a guest does:
// a kick that finds nothing begins no gap.
const (
	gapWeight = 8 // the last gap has a gapWeight-th of the mean
	farGaps   = 2 // in Options.Spin: longer ones count as that
	nearGaps  = 4 // in Options.Spin: shorter ones, wake-up included, may be short
	tryAfter  = 8 // of these in a row polling is tried
)

// Arrivals is what workers have learned of when work comes to a Task, and what
// came of polling it. The zero Arrivals has learned nothing; it must not be
// copied. The worker that has the Task changes it; Stats may be called by any
// goroutine.
type Arrivals struct {
	most int64 // ns: Options.Spin
	gap  int64 // ns: weighted mean
	near int   // gaps in a row that may be short, while not polled

	spin                  atomic.Int64 // ns, see ArrivalStats
	found, vain, unpolled atomic.Uint64
}

// Learner is a Task that keeps what is learned of it, from one Worker.Add to the
// next. For others that begins anew each time. The Task has one Arrivals of its
// own.
type Learner interface {
	Task
	Arrivals() *Arrivals
}

// ArrivalStats is what is known of a Task's arrivals. Each gap between two of
// them, in the mode Adaptive, was one of three.
type ArrivalStats struct {
	Spin     time.Duration // how long the Task is polled at its next gap; 0: not at all
	Found    uint64        // gaps that ended while it was polled
	Vain     uint64        // gaps in which it was polled in vain, and then slept
	Unpolled uint64        // gaps in which it was not polled
}

// Stats may be called at any time; the figures are each right, not taken at
// one moment.
func (a *Arrivals) Stats() ArrivalStats {
	return ArrivalStats{
		Spin:  time.Duration(a.spin.Load()),
		Found: a.found.Load(), Vain: a.vain.Load(), Unpolled: a.unpolled.Load(),
	}
}

// begin prepares for a worker that polls for at most so many ns. As long as
// nothing is known, it does.
func (a *Arrivals) begin(most int64) {
	if a.most != most {
		a.most, a.gap = most, most/2
		a.settle()
	}
}

// came notes that work came after a gap, in ns. slept says that the task slept
// in it.
func (a *Arrivals) came(gap int64, slept bool) {
	switch {
	case a.spin.Load() == 0:
		a.unpolled.Add(1)
		a.try(gap)
	case slept:
		a.vain.Add(1)
		a.learn(gap)
	default:
		a.found.Add(1)
		a.learn(gap)
	}
	a.settle()
}

// learn adds a gap to the mean.
func (a *Arrivals) learn(gap int64) {
	a.gap += (min(gap, farGaps*a.most) - a.gap) / gapWeight
}

// try decides whether a task that is not polled should be.
func (a *Arrivals) try(gap int64) {
	if a.near++; gap >= nearGaps*a.most {
		a.near = 0
	}
	if a.near == tryAfter {
		a.near, a.gap = 0, a.most
	}
}

// settle decides how long the task is polled at its next gap: four times the
// mean, as gaps differ, and an eighth of the most, which bounds the price of a
// mean that is too short.
func (a *Arrivals) settle() {
	spin := int64(0)
	if a.gap <= a.most {
		spin = min(a.most, 4*a.gap+a.most/8+1)
	}
	if spin != a.spin.Load() {
		a.spin.Store(spin)
	}
}
