package main

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"vhostnet/control"
	"vhostnet/nbl"
	"vhostnet/netdev"
	"vhostnet/queues"
	"vhostnet/vhostuser/vutest"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// keeper is a port that keeps what it is sent, in the name of a queue.
type keeper struct {
	holder *nbl.Holder
	queue  queues.QueueID

	mu   sync.Mutex
	kept []*nbl.List
	errs []error
}

func (k *keeper) Deliver(_ *worker.Context, batch []*nbl.List) (int, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range batch {
		held, err := k.holder.Hold(l, k.queue)
		if err != nil {
			k.errs = append(k.errs, err)
			continue
		}
		k.kept = append(k.kept, held)
	}
	return len(batch), false
}

func (k *keeper) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.kept)
}

// A queue is freed while a port has packets of it: the end of writing is told
// first, FREE pends, and the last packet that comes back frees the memory.
func TestFreePendsForAPort(t *testing.T) {
	a := runAPI(t, "web,queue=manual")
	ctx := t.Context()
	web := connect(t, a.path("web"), vutest.Options{})
	q, err := a.AllocateQueue(ctx, control.QueueRequest{Port: "web"})
	a.must(err)
	_, err = a.CompleteQueues(ctx, []uint16{q.ID})
	a.must(err)
	k := &keeper{holder: a.adapter.Holder(), queue: queues.QueueID(q.ID)}
	at, err := a.vswitch.Attach(k, vswitch.PortOptions{Name: "keeper"})
	a.must(err)
	defer a.vswitch.Detach(at)
	for range 3 {
		a.must(web.Send(0, frame('k', 'a')))
	}
	waitFor(t, "the port to have the packets", func() bool { return k.count() == 3 })
	a.want("web", "connected", "queue-state:Allocated", "queue-state:Paused")

	b := &backend{d: a.daemon, origin: netdev.OriginControl}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := b.FreeQueue(over, q.ID); status(err) != control.StatusPending {
		t.Fatalf("freed with packets out: %v", err)
	}
	a.want("web", "queue-state:StopDMA", "dma-stopped:Freeing")
	if err := a.FreeQueue(ctx, q.ID); status(err) != control.StatusInvalidParameter {
		t.Errorf("freed twice at a time: %v", err)
	}
	bytes := a.bytes("web")
	for _, l := range k.kept {
		if now := a.bytes("web"); now != bytes || now == 0 {
			t.Errorf("%d bytes before the last packet is back, want %d", now, bytes)
		}
		a.must(k.holder.Return(l))
	}
	a.want("web", "queue-state:Undefined")
	if now := a.bytes("web"); now != 0 || len(k.errs) != 0 {
		t.Errorf("%d bytes are left; %v", now, k.errs)
	}
}

// taker is a port that takes what it is sent.
type taker struct{ taken atomic.Int64 }

func (k *taker) Deliver(_ *worker.Context, batch []*nbl.List) (int, bool) {
	k.taken.Add(int64(len(batch)))
	return len(batch), false
}

func (k *taker) count() int64 { return k.taken.Load() }
