package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"vhostnet/vhostuser/vutest"
)

// gate is a writer that lets one write pass per token.
type gate struct {
	text
	tokens chan error // the answer to a write; nil: it is done
	asked  chan struct{}
}

func newGate() *gate { return &gate{tokens: make(chan error, 1000), asked: make(chan struct{}, 1000)} }

func (g *gate) Write(b []byte) (int, error) {
	g.asked <- struct{}{}
	if err := <-g.tokens; err != nil {
		return 0, err
	}
	return g.text.Write(b)
}

func TestOutletKeepsOrder(t *testing.T) {
	vutest.CheckLeaks(t)
	var x text
	o := newOutlet(&x, 1000, func(uint64, error) { t.Error("trouble without a reason") })
	go o.run()
	var want []string
	for i := range 1000 {
		b := []byte(fmt.Sprintf("line %d\n", i))
		want = append(want, strings.TrimSpace(string(b)))
		if n, err := o.Write(b); n != len(b) || err != nil {
			t.Fatal(n, err)
		}
		clear(b) // the outlet has its own
	}
	o.end()
	if got := x.lines(); !slices.Equal(got, want) {
		t.Errorf("%d lines of %d, or another order", len(got), len(want))
	}
}

// Writes beyond the queue of a reader that does not read are left out, counted,
// and told of as soon as it reads again.
func TestOutletCountsWhatIsLeftOut(t *testing.T) {
	vutest.CheckLeaks(t)
	g := newGate()
	var told []uint64
	o := newOutlet(g, 4, func(lost uint64, err error) {
		if err != nil {
			t.Error(err)
		}
		told = append(told, lost)
	})
	go o.run()
	fmt.Fprint(o, "0\n")
	<-g.asked // it is in the writer's hands, and the queue is empty
	for i := range 10 {
		fmt.Fprintf(o, "%d\n", i+1)
	}
	for range 5 {
		g.tokens <- nil
	}
	o.end()
	if got := strings.Join(g.lines(), " "); got != "0 1 2 3 4" || !slices.Equal(told, []uint64{6}) {
		t.Errorf("passed on %q, told of %v; want 5 lines and 6 left out", got, told)
	}
}

// A reader that is gone is told of once; one that comes back starts anew.
func TestOutletTellsOfFailureOnce(t *testing.T) {
	vutest.CheckLeaks(t)
	g := newGate()
	gone := errors.New("gone")
	failures := 0
	o := newOutlet(g, 100, func(_ uint64, err error) {
		if errors.Is(err, gone) {
			failures++
		}
	})
	go o.run()
	for i, answer := range []error{gone, gone, gone, nil, gone, gone, nil} {
		g.tokens <- answer
		fmt.Fprintf(o, "%d\n", i)
	}
	o.end()
	if got := strings.Join(g.lines(), " "); got != "3 6" || failures != 2 {
		t.Errorf("passed on %q, told of %d failures; want lines 3 and 6, and 2 failures", got, failures)
	}
}

// A writer that never returns holds neither who writes nor the end.
func TestOutletEndsBesideStuckWriter(t *testing.T) {
	vutest.CheckLeaks(t)
	g := newGate()
	o := newOutlet(g, 2, nil)
	go o.run()
	for range 10 {
		fmt.Fprint(o, "line\n")
	}
	<-g.asked
	o.end()
	if g.String() != "" {
		t.Errorf("passed on %q", g.String())
	}
	for range 10 { // the writer returns after all
		g.tokens <- nil
	}
	<-o.done
}

// trouble may write to the outlet that is in trouble: the log tells of itself.
func TestOutletTellsItself(t *testing.T) {
	vutest.CheckLeaks(t)
	g := newGate()
	var o *outlet
	o = newOutlet(g, 2, func(lost uint64, _ error) { fmt.Fprintf(o, "%d left out\n", lost) })
	go o.run()
	fmt.Fprint(o, "0\n")
	<-g.asked
	for range 10 {
		fmt.Fprint(o, "line\n")
	}
	for range 100 {
		g.tokens <- nil
	}
	o.end()
	if got := g.String(); got != "0\nline\nline\n8 left out\n" {
		t.Errorf("passed on %q", got)
	}
}
