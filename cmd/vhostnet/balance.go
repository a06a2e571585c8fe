package main

import (
	"context"
	"time"

	"vhostnet/queues"
)

// balancing is for a second's load: a core carries some ten million small
// frames in it, or a few GB. Above a tenth of that another core's wake-up costs
// less than the wait; below a thirtieth one core does it all.
var balancing = queues.BalancerOptions{Home: 0, Spread: 1_000_000, Fold: 300_000}

const balanceInterval = time.Second

// balance moves queues between workers by their load until ctx ends.
func (d *daemon) balance(ctx context.Context) {
	tick := time.NewTicker(balanceInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		moves, err := d.balancer.Step()
		for _, m := range moves {
			d.log.Debug("queue moved", "queue", m.Queue, "from", m.From, "to", m.To)
		}
		if err != nil {
			d.log.Error("queue not moved", "error", err)
		}
	}
}
