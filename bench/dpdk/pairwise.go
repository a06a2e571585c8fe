package main

import (
	"math/rand/v2"
	"slices"
)

// pairwiseSeed was found to give a short list.
const pairwiseSeed = 1

// value is one thing that a combination asks for; two of them are a pair.
type value struct {
	factor int
	value  int
}

// values are what c asks for, one for each factor.
func (c combination) values() []value {
	number := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	var list []value
	for i, v := range []int{
		c.Size, c.Queues, c.Ring, number(c.Mergeable), number(c.InOrder), number(c.Vectorized), number(c.Packed), number(c.Flood),
	} {
		list = append(list, value{i, v})
	}
	return list
}

// pairs are all pairs of values in c.
func (c combination) pairs() [][2]value {
	var list [][2]value
	values := c.values()
	for i, a := range values {
		for _, b := range values[:i] {
			list = append(list, [2]value{b, a})
		}
	}
	return list
}

// pairwise picks a few of the combinations such that every pair of values that
// occurs in any occurs in one of these: what breaks a back-end is mostly two
// options that meet. It takes the one with the most new pairs, as long as there
// are any, and of equal ones any; but the same list gives the same answer.
func pairwise(all []combination) []combination {
	all = slices.Clone(all)
	rand.New(rand.NewPCG(pairwiseSeed, pairwiseSeed)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	left := map[[2]value]bool{}
	for _, c := range all {
		for _, p := range c.pairs() {
			left[p] = true
		}
	}
	var list []combination
	for len(left) > 0 {
		best, most := combination{}, 0
		for _, c := range all {
			n := 0
			for _, p := range c.pairs() {
				if left[p] {
					n++
				}
			}
			if n > most {
				best, most = c, n
			}
		}
		for _, p := range best.pairs() {
			delete(left, p)
		}
		list = append(list, best)
	}
	return list
}
