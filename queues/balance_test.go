package queues

import (
	"errors"
	"slices"
	"testing"
)

// cluster is an adapter with queues on workers, whose guests send as the test
// says.
type cluster struct {
	*rig
	b      *Balancer
	places []*placing
	nics   []*NIC
	ids    []QueueID
}

func newCluster(t *testing.T, workers, queues int, o BalancerOptions) *cluster {
	t.Helper()
	c := &cluster{rig: newRig(t, Options{Workers: workers})}
	for range queues {
		n, p := c.newNIC("vm", 1), new(placing)
		p.worker = o.Home
		id, err := c.AllocateQueue(QueueParameters{NIC: n, Steering: c.steering, Placement: p})
		must(t, err)
		c.places, c.nics, c.ids = append(c.places, p), append(c.nics, n), append(c.ids, id)
	}
	var err error
	c.b, err = c.NewBalancer(o)
	must(t, err)
	t.Cleanup(func() {
		for _, id := range c.ids {
			c.free(id)
		}
	})
	return c
}

// step lets each guest send so many frames, and expects the queues to be on
// these workers afterwards.
func (c *cluster) step(frames []uint64, want ...int) []QueueMove {
	c.t.Helper()
	for i, n := range frames {
		c.nics[i].counters.TxFrames.Add(n)
	}
	moves, err := c.b.Step()
	must(c.t, err)
	var got []int
	for _, p := range c.places {
		got = append(got, p.worker)
	}
	if !slices.Equal(got, want) {
		c.t.Errorf("loads %v: the queues are on workers %v, want %v (%v)", frames, got, want, moves)
	}
	return moves
}

// Queues live at home, spread when a worker has too much, one by one, and come
// back when home has room.
func TestBalancer(t *testing.T) {
	c := newCluster(t, 3, 4, BalancerOptions{Home: 1, Spread: 100, Fold: 50})
	c.step([]uint64{25, 25, 25, 25}, 1, 1, 1, 1)   // as much as one may have
	c.step([]uint64{60, 40, 10, 0}, 0, 1, 1, 1)    // the busiest goes to an idle worker
	c.step([]uint64{60, 90, 20, 0}, 0, 2, 1, 1)    // the next to the other
	c.step([]uint64{60, 90, 20, 0}, 0, 2, 1, 1)    // nobody has too much, home has no room
	c.step([]uint64{25, 90, 20, 0}, 1, 2, 1, 1)    // one fits
	c.step([]uint64{25, 30, 20, 0}, 1, 2, 1, 1)    // the other does not
	c.step([]uint64{0, 0, 0, 0}, 1, 1, 1, 1)       // all is quiet
	c.step([]uint64{500, 0, 0, 0}, 1, 1, 1, 1)     // one alone is no better elsewhere
	c.step([]uint64{500, 500, 0, 0}, 0, 1, 1, 1)   // of two equals the first
	c.nics[1].counters.TxBytes.Add(60 * LoadBytes) // bytes count as well as frames
	c.step([]uint64{0, 0, 0, 50}, 0, 0, 1, 1)
	if got := c.EnumQueues()[2]; got.Worker != 0 || got.Affinity != 0 {
		t.Errorf("listed as %+v", got)
	}
}

// A queue whose affinity was chosen stays, and counts where it is; one that
// cannot move is named, and stays.
func TestBalancerLeavesWhatIsChosen(t *testing.T) {
	c := newCluster(t, 2, 3, BalancerOptions{Spread: 100, Fold: 50})
	must(t, c.SetQueueParameters(c.ids[0], QueueChange{Flags: AffinityChanged, Affinity: 2}))
	c.step([]uint64{90, 60, 50}, 1, 0, 0) // worker 1 is as full as it may be
	c.step([]uint64{0, 70, 50}, 1, 1, 0)
	c.step([]uint64{90, 10, 10}, 1, 0, 0)
	c.step([]uint64{0, 0, 0}, 1, 0, 0)
	must(t, c.SetQueueParameters(c.ids[0], QueueChange{Flags: AffinityChanged})) // anywhere again
	c.step([]uint64{0, 0, 0}, 0, 0, 0)

	c.places[1].err = errors.New("no room")
	for i := range c.nics {
		c.nics[i].counters.TxFrames.Add(40)
	}
	c.nics[1].counters.TxFrames.Add(10)
	moves, err := c.b.Step()
	if !errors.Is(err, c.places[1].err) || len(moves) != 0 || c.places[1].worker != 0 {
		t.Errorf("a queue that cannot move: %v, %v, on worker %d", moves, err, c.places[1].worker)
	}
}

// The first step after a queue came has nothing to compare with.
func TestBalancerMeetsNewQueues(t *testing.T) {
	c := newCluster(t, 2, 1, BalancerOptions{Spread: 100, Fold: 50})
	n, p := c.newNIC("new", 1), new(placing)
	n.counters.TxFrames.Add(1 << 40) // of an earlier queue
	id, err := c.AllocateQueue(QueueParameters{NIC: n, Steering: c.steering, Placement: p})
	must(t, err)
	c.ids, c.nics, c.places = append(c.ids, id), append(c.nics, n), append(c.places, p)
	c.step([]uint64{60, 0}, 0, 0)
	c.step([]uint64{60, 60}, 1, 0)
	for _, o := range []BalancerOptions{{Home: 2, Spread: 2, Fold: 1}, {Home: -1, Spread: 2, Fold: 1}, {}, {Spread: 5, Fold: 5}} {
		if _, err := c.NewBalancer(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}
