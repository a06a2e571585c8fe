package netdev

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// gated is a transmit ring that its worker finds empty until the gate opens.
type gated struct {
	*txRing
	open *atomic.Bool
}

func (g *gated) Poll(c *worker.Context, budget int) bool {
	return g.open.Load() && g.txRing.Poll(c, budget)
}

// Two guests that want to send more than the worker can carry take turns by
// their budgets: 128 small frames of the one, then 1 MiB of the other's long
// ones. Neither waits for the other's ring to be empty (V74).
func TestV74_PortsTakeTurnsByBudget(t *testing.T) {
	const size, small, long = 65_000, 3 * visitChains, 3 * (visitBytes / (65_000 + 12))
	p := widePath(t, pathFeatures, 2, 0)
	second, err := New(Options{Name: "second", Pairs: 1, Adapter: p.receiver.o.Adapter, Switch: p.receiver.o.Switch, Group: p.receiver.o.Group})
	if err != nil {
		t.Fatal(err)
	}
	second.features.Store(uint64(pathFeatures))
	other, err := vqtest.NewPair(vqtest.Options{Features: pathFeatures, Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	if !p.receiver.o.Switch.Teach(p.c, p.receiver.Port(), vswitch.Address{MAC: station(0)}) {
		t.Fatal("the switch did not learn where the frames go")
	}
	posting := func(d *vqtest.Driver, n int, r vqtest.Request) {
		for range n {
			if _, err := d.Add(r); err != nil {
				t.Fatal(err)
			}
		}
		d.Publish()
	}
	posting(p.from.Driver, small, vqtest.Request{Out: [][]byte{plainFrame(64)}})
	posting(other.Driver, long, vqtest.Request{Out: [][]byte{plainFrame(size)}})
	posting(p.to.Driver, small+long, vqtest.Request{In: []int{size + 12}})

	var open atomic.Bool
	serve(t, &open, &gated{p.tx, &open}, &gated{newTxRing(second, 1, other.Queue), &open})
	want := []int{visitChains, long / 3, visitChains, long / 3, visitChains, long / 3}
	var runs []int
	last := -1
	for range small + long {
		u := reapOne(t, p.to)
		which := 0
		if u > virtio.MaxNetHeaderLen+64 {
			which = 1
		}
		if which != last {
			runs, last = append(runs, 0), which
		}
		runs[len(runs)-1]++
	}
	if last == 0 { // the second guest had the first turn
		slices.Reverse(want)
	}
	if !slices.Equal(runs, want) {
		t.Errorf("the turns were of %v frames, want %v", runs, want)
	}
}

// serve runs tasks on one worker from the moment at which all are there.
func serve(t *testing.T, open *atomic.Bool, tasks ...worker.Task) {
	t.Helper()
	g, err := worker.NewGroup(worker.Options{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		running.Wait()
	})
	for _, task := range tasks {
		if err := g.Workers()[0].Add(ctx, task, worker.Poll); err != nil {
			t.Fatal(err)
		}
	}
	open.Store(true)
}

// reapOne waits for the next receive buffer and answers how many bytes it has.
func reapOne(t *testing.T, p *vqtest.Pair) (length uint32) {
	t.Helper()
	var err error
	n := 0
	var used [1]virtqueue.Used
	for end := time.Now().Add(30 * time.Second); n == 0 && err == nil; {
		if time.Now().After(end) {
			t.Fatal("no frame came")
		}
		err = sharedmem.Guard(func() error {
			var err error
			n, err = p.Driver.Reap(used[:])
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return used[0].Len
}
