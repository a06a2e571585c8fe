package netdev

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"

	"vhostnet/queues"
	"vhostnet/virtio"
	"vhostnet/worker"
)

// What a front-end has set ends with its session, and all but its memory and
// features with RESET_DEVICE.
func TestStateOfASessionEnds(t *testing.T) {
	l := newLab(t)
	p := l.pair()
	for _, reset := range []bool{true, false} {
		l.session(p.Mem)
		l.must(l.d.SetMTU(1400))
		if reset {
			l.d.Reset()
		} else {
			l.d.Disconnected()
			if l.d.mem != nil || l.d.accepted() != 0 || l.d.queue != 0 {
				t.Errorf("after the session: Map %p, features %v, queue %d", l.d.mem, l.d.accepted(), l.d.queue)
			}
			for _, ring := range l.d.Snapshot().Rings {
				if ring.Enabled || ring.Started {
					t.Errorf("after the session: %+v", ring)
				}
			}
		}
		if l.d.mtu != l.d.o.MTU {
			t.Errorf("reset %t: the MTU is %d, configured is %d", reset, l.d.mtu, l.d.o.MTU)
		}
	}
}

// Without workers nothing is served, and everything can still be taken back.
func TestWorkersHaveStopped(t *testing.T) {
	l := newLab(t)
	p, rx := l.pair(), l.pair()
	l.session(p.Mem)
	l.must(l.d.StartRing(1, p.Queue))
	l.stop()
	state := l.d.StopRing(1)
	l.must(p.Restart(&state))
	if err := l.d.StartRing(1, p.Queue); !errors.Is(err, worker.ErrStopped) {
		t.Errorf("StartRing without workers = %v, want %v", err, worker.ErrStopped)
	}
	l.must(l.d.Memory(rx.Mem))
	l.must(l.d.StartRing(0, rx.Queue)) // nobody delivers, but the ring can be had
	l.d.Disconnected()
}

// Close is bounded by its context, also when the workers never leave the queue.
func TestCloseIsBounded(t *testing.T) {
	l := newLab(t)
	waiting := make(chan struct{})
	var once sync.Once
	adapter, err := queues.NewAdapter(queues.Options{Workers: 1, Quiesce: func(ctx context.Context) error {
		once.Do(func() { close(waiting) })
		<-ctx.Done()
		return ctx.Err()
	}})
	l.must(err)
	o := l.d.o
	o.Adapter, o.Name = adapter, "other"
	d, err := New(o)
	l.must(err)
	d.Negotiated(virtio.Version1)
	d.Disconnected()
	<-waiting
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close = %v, want %v", err, context.Canceled)
	}
	if err := adapter.Halt(); err == nil { // it is paused: nobody restarted it
		t.Error("the queue was freed though workers may be using it")
	}
}

// A driver that negotiates again and again, while there is no queue, is told of
// in the log once.
func TestLackOfQueuesIsLoggedOnce(t *testing.T) {
	l := newLab(t)
	var log bytes.Buffer
	l.d.o.Log = hclog.New(&hclog.LoggerOptions{Output: &log})
	var taken []queues.QueueID
	other := l.adapter.Bind("other")
	for {
		id, err := other.AllocateQueue(queues.QueueParameters{VMName: "other", NIC: l.d.nic, Steering: l.d.o.Switch.Steering(l.d.port)})
		if err != nil {
			break
		}
		taken = append(taken, id)
	}
	for i := range 100 {
		l.d.Negotiated(virtio.Version1 | virtio.Features(i))
	}
	if n := bytes.Count(log.Bytes(), []byte("\n")); n != 1 {
		t.Errorf("%d lines were logged:\n%s", n, log.Bytes())
	}
	for _, id := range taken {
		l.must(other.FreeQueue(context.Background(), id))
	}
	l.d.Negotiated(virtio.Version1)
	if l.d.queue == 0 || l.d.lacking {
		t.Error("the port has no queue though there are some")
	}
	l.d.Disconnected()
}

// A ring counts on over its starts.
func TestSerialGoesOn(t *testing.T) {
	l := newLab(t)
	p := l.pair()
	first := newTxRing(l.d, 1, p.Queue)
	first.serial.Reserve(visitChains)
	*first.serial += 10
	if again := newTxRing(l.d, 1, p.Queue); *again.serial != *first.serial {
		t.Error("a ring that starts again uses its names again")
	}
}

func TestNewRefuses(t *testing.T) {
	l := newLab(t)
	good := l.d.o
	for name, change := range map[string]func(*Options){
		"no adapter":     func(o *Options) { o.Adapter = nil },
		"no switch":      func(o *Options) { o.Switch = nil },
		"no group":       func(o *Options) { o.Group = nil },
		"negative pairs": func(o *Options) { o.Pairs = -1 },
		"too many pairs": func(o *Options) { o.Pairs = 129 },
		"small MTU":      func(o *Options) { o.MTU = minMTU - 1 },
		"group address":  func(o *Options) { o.MAC[0] |= 1 },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := l.d.SetMTU(minMTU - 1); err == nil {
		t.Error("an MTU that is too small was set")
	}
}
