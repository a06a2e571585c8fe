package main

import "fmt"

// combination is one line of the comparison: what the front-end is told to do.
type combination struct {
	Size      int  `json:"size"`
	Queues    int  `json:"queues"`
	Mergeable bool `json:"mergeable"`
	Packed    bool `json:"packed"`
	Flood     bool `json:"flood"` // destinations that no port owns
}

func (c combination) String() string {
	return fmt.Sprintf("%d B, %d %s, mergeable %s, %s rings, %s",
		c.Size, c.Queues, choose(c.Queues == 1, "queue pair", "queue pairs"),
		choose(c.Mergeable, "on", "off"), c.rings(), c.way())
}

func (c combination) rings() string { return choose(c.Packed, "packed", "split") }

// way names how the back-end finds the destination.
func (c combination) way() string { return choose(c.Flood, "flood", "unicast") }

// combinations lists what the options ask for: unicast first, flooding apart.
func (o *options) combinations() []combination {
	var list []combination
	for _, flood := range []bool{false, true} {
		if flood && !o.flood {
			continue
		}
		for _, mergeable := range o.mergeable {
			for _, queues := range o.queues {
				for _, size := range o.sizes {
					list = append(list, combination{size, queues, mergeable, o.packed, flood})
				}
			}
		}
	}
	return list
}
