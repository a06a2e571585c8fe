package check

import (
	"fmt"
	"slices"
	"strings"
)

// Case is what is gone through.
type Case struct {
	Machine  Machine
	Protocol Protocol
	Flaw     Flaw
	Size     int  // of the ring, entries: 2 or 4; packed: 1 to 4
	Chains   int  // that the driver adds in all
	Restarts int  // of the device
	Crash    bool // it restarts between publication and call, else where no call is owed
	Strict   bool // with Crash: states before the first Push of the new device count too
	Limit    int  // of states
}

// Result is what was found.
type Result struct {
	States int
	Stuck  int      // states in which both sleep and should not
	Trace  []string // the shortest way into the first of them
}

// String is the trace, a step a line.
func (r *Result) String() string { return strings.Join(r.Trace, "\n") }

// Explore goes through all states of c, or, if it has a flaw, until one is
// stuck. It fails when there are more than c.Limit.
func Explore(c Case) (*Result, error) {
	e := explorer{Case: c, number: map[state]int32{}}
	e.visit(c.start(), -1, "")
	var r Result
	for i := 0; i < len(e.states); i++ {
		if len(e.states) > c.Limit {
			return nil, fmt.Errorf("check: more than %d states", c.Limit)
		}
		s := e.states[i]
		if c.stuck(&s) {
			if r.Stuck++; r.Stuck == 1 {
				r.Trace = e.trace(int32(i))
			}
			if c.Flaw != None {
				break
			}
		}
		emit := func(n state, what string) { e.visit(n, int32(i), what) }
		c.machineSteps(&s, emit)
		c.driverStep(&s, emit)
		c.deviceStep(&s, emit)
	}
	r.States = len(e.states)
	return &r, nil
}

type explorer struct {
	Case
	number map[state]int32
	states []state
	parent []int32
	what   []string
}

func (e *explorer) visit(s state, parent int32, what string) {
	e.settle(&s)
	if _, ok := e.number[s]; ok {
		return
	}
	e.number[s] = int32(len(e.states))
	e.states = append(e.states, s)
	e.parent = append(e.parent, parent)
	e.what = append(e.what, what)
}

// trace is how state i came about.
func (e *explorer) trace(i int32) (list []string) {
	for ; e.parent[i] >= 0; i = e.parent[i] {
		list = append(list, e.what[i]+e.states[i].changes(&e.states[e.parent[i]]))
	}
	slices.Reverse(list)
	return list
}

// changes says what became of memory and signals since old.
func (s *state) changes(old *state) string {
	var b strings.Builder
	for at := range words {
		if s.mem[at] != old.mem[at] {
			fmt.Fprintf(&b, "; %s = %#x", wordNames[at], s.mem[at])
		}
	}
	return b.String()
}

var wordNames = [words]string{
	availIdx: "avail.idx", availFlags: "avail.flags", usedEvent: "used_event", usedWord: "used.flags|idx",
	availEvent: "avail_event", deviceEvent: "device event", driverOff: "driver event off/wrap", driverMode: "driver event flags",
	private: "the device's own word", firstDesc: "desc[0].flags", firstDesc + 1: "desc[1].flags", firstDesc + 2: "desc[2].flags", firstDesc + 3: "desc[3].flags",
}
