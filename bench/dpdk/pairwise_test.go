package main

import (
	"io"
	"slices"
	"testing"
)

// TestPairwise: about twenty combinations hold every value and every pair of
// values that is possible.
func TestPairwise(t *testing.T) {
	o, err := parseOptions([]string{"-check", "-pairwise"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	all, few := o.matrix(), o.combinations()
	if len(few) > 25 || len(few) < 20 {
		t.Errorf("%d combinations, want about twenty, and no fewer than ring sizes times queue pairs", len(few))
	}
	seen := map[[2]value]bool{}
	for _, c := range few {
		if !slices.Contains(all, c) {
			t.Errorf("%s is not asked for", c)
		}
		for _, p := range c.pairs() {
			seen[p] = true
		}
	}
	for _, c := range all {
		for _, p := range c.pairs() {
			if !seen[p] {
				t.Fatalf("%s: the pair %v is in none of the combinations picked", c, p)
			}
		}
	}
	for _, c := range few {
		if c.Ring == 1000 && !c.Packed {
			t.Errorf("%s: a split ring's size is a power of two", c)
		}
		if n := c.loopFrames(o.frames); n > c.posted()*3/4 || n < c.Queues {
			t.Errorf("%s: %d frames circulate", c, n)
		}
	}
}

// TestPairwiseOfOne: there may be nothing to choose.
func TestPairwiseOfOne(t *testing.T) {
	one := []combination{{Size: 64, Queues: 1, Ring: 256}}
	if got := pairwise(one); !slices.Equal(got, one) {
		t.Errorf("picked %v", got)
	}
	if got := pairwise(nil); got != nil {
		t.Errorf("picked %v of nothing", got)
	}
}
