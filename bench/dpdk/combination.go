package main

import "fmt"

// combination is one line of the comparison: what the front-end is told to do.
type combination struct {
	Size       int  `json:"size"`
	Queues     int  `json:"queues"`
	Ring       int  `json:"ring"` // entries of each ring
	Mergeable  bool `json:"mergeable"`
	InOrder    bool `json:"in_order"`
	Vectorized bool `json:"vectorized"`
	Packed     bool `json:"packed"`
	Flood      bool `json:"flood"` // destinations that no port owns
}

func (c combination) String() string {
	return fmt.Sprintf("%d B, %d %s, mergeable %s, in order %s, vectorized %s, %s, %s",
		c.Size, c.Queues, choose(c.Queues == 1, "queue pair", "queue pairs"),
		onOff(c.Mergeable), onOff(c.InOrder), onOff(c.Vectorized), c.rings(), c.way())
}

func (c combination) rings() string {
	return fmt.Sprintf("%s rings of %d", choose(c.Packed, "packed", "split"), c.Ring)
}

// way names how the back-end finds the destination.
func (c combination) way() string { return choose(c.Flood, "flood", "unicast") }

func onOff(b bool) string { return choose(b, "on", "off") }

// possible: only packed rings have sizes that are no powers of two. The vector
// code of split rings posts a buffer in every entry, however many it is told to
// use, and never returns when memory runs out.
func (c combination) possible() bool {
	if c.Packed {
		return true
	}
	hangs := c.Vectorized && !c.Mergeable && c.Ring*c.Queues > maxPosted
	return c.Ring&(c.Ring-1) == 0 && !hangs
}

// posted is how many of a ring's entries the front-end uses. With several long
// rings it would need more memory than a run has.
func (c combination) posted() int {
	if c.Ring*c.Queues > maxPosted {
		return min(c.Ring, ringSize)
	}
	return c.Ring
}

// loopFrames is how many frames can circulate per direction: were they all to
// meet in one ring there must be a buffer for each, also while the front-end
// keeps some back to post them together.
func (c combination) loopFrames(most int) int {
	if c.Ring >= ringSize {
		return most
	}
	return min(most, c.Ring/4)
}

// combinations lists what the options ask for: unicast first, flooding apart.
func (o *options) combinations() []combination {
	all := o.matrix()
	if o.pairwise {
		return pairwise(all)
	}
	return all
}

// matrix is every combination of the options' lists that is possible.
func (o *options) matrix() []combination {
	var list []combination
	for _, flood := range []bool{false, true} {
		if flood && !o.flood {
			continue
		}
		for _, c := range o.rings() {
			for _, c.Mergeable = range o.mergeable {
				for _, c.Queues = range o.queues {
					for _, c.Size = range o.sizes {
						if c.Flood = flood; c.possible() {
							list = append(list, c)
						}
					}
				}
			}
		}
	}
	return list
}

// rings is every kind of ring that the options ask for.
func (o *options) rings() []combination {
	var list []combination
	var c combination
	for _, c.Packed = range o.packed {
		for _, c.InOrder = range o.inOrder {
			for _, c.Vectorized = range o.vectorized {
				for _, c.Ring = range o.ringSizes {
					if c.possible() {
						list = append(list, c)
					}
				}
			}
		}
	}
	return list
}
