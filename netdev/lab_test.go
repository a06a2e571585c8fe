package netdev

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"vhostnet/nbl"
	"vhostnet/queues"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// lab is a Device with running workers, and the test in the session's place.
type lab struct {
	t       *testing.T
	d       *Device
	adapter *queues.Adapter
	never   *never
	stop    func() // ends the workers
}

// never is a port that has no room, and for which frames wait for ever.
type never struct{ asked atomic.Uint64 }

func (n *never) Deliver(*worker.Context, []*nbl.List) (int, bool) { n.asked.Add(1); return 0, false }

var (
	labMAC   = [6]byte{0x52, 0x54, 0, 0, 0, 1}
	neverMAC = [6]byte{0x52, 0x54, 0, 0, 0, 2}
)

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, never: new(never)}
	group, err := worker.NewGroup(worker.Options{Workers: 1})
	l.must(err)
	sw, err := vswitch.New(vswitch.Options{})
	l.must(err)
	l.adapter, err = queues.NewAdapter(queues.Options{Workers: 1, Quiesce: group.Quiesce})
	l.must(err)
	l.must(l.adapter.Restart())
	l.d, err = New(Options{Name: "port", MAC: labMAC, Pairs: 2, Adapter: l.adapter, Switch: sw, Group: group})
	l.must(err)
	id, err := sw.Attach(l.never, vswitch.PortOptions{Wait: time.Hour})
	l.must(err)
	l.must(sw.AddStatic(id, 0, neverMAC))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := group.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	l.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(func() {
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		l.must(l.d.Close(end))
		l.stop()
		l.must(l.adapter.Close(context.Background()))
	})
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// wait asks until ok, for a bounded time.
func (l *lab) wait(what string, ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// pair is a driver's ring of 16 entries in memory of its own.
func (l *lab) pair() *vqtest.Pair {
	l.t.Helper()
	p, err := vqtest.NewPair(vqtest.Options{Size: 16, Features: virtio.Version1})
	l.must(err)
	l.t.Cleanup(p.Close)
	return p
}

// session is what a front-end does before its rings start.
func (l *lab) session(mem *sharedmem.Map) {
	l.t.Helper()
	l.d.Negotiated(virtio.Version1)
	if mem != nil {
		l.must(l.d.Memory(mem))
	}
	for i := range l.d.Rings() {
		l.d.EnableRing(i, true)
	}
}

// queue is the port's VM queue; ok says whether there is one.
func (l *lab) queue() (info queues.QueueInfo, ok bool) {
	for _, q := range l.adapter.EnumQueues() {
		if q.ID != 0 {
			return q, true
		}
	}
	return info, false
}

// wantQueue checks the state of the queue and the bytes that it has allocated
// for a usage.
func (l *lab) wantQueue(state queues.State, usage sharedmem.Usage, bytes uint64) {
	l.t.Helper()
	q, ok := l.queue()
	if !ok {
		l.t.Fatal("the port has no queue")
	}
	got := uint64(0)
	for _, a := range q.Accounts {
		if a.Usage == usage {
			got = a.Bytes
		}
	}
	if q.State != state || got != bytes {
		l.t.Errorf("queue %d is %v with %d bytes for %v, want %v with %d", q.ID, q.State, got, usage, state, bytes)
	}
}

func areas(q *virtqueue.Queue) (n uint64) {
	for _, b := range q.Areas() {
		n += b.Len()
	}
	return n
}

// signals is how often an eventfd of our own was signalled since it was read
// last.
func signals(t *testing.T, e *virtqueue.Event) uint64 {
	t.Helper()
	var b [8]byte
	if _, err := syscall.Read(e.FD(), b[:]); errors.Is(err, syscall.EAGAIN) {
		return 0
	} else if err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[:])
}
