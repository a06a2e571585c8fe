package netdev

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"

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
	stop    func() // ends the workers
}

var labMAC = [6]byte{0x52, 0x54, 0, 0, 0, 1}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t}
	group, err := worker.NewGroup(worker.Options{Workers: 1})
	l.must(err)
	sw, err := vswitch.New(vswitch.Options{})
	l.must(err)
	l.adapter, err = queues.NewAdapter(queues.Options{Workers: 1, Quiesce: group.Quiesce})
	l.must(err)
	l.d, err = New(Options{Name: "port", MAC: labMAC, Pairs: 2, Adapter: l.adapter, Switch: sw, Group: group})
	l.must(err)
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
		l.must(l.adapter.Halt())
	})
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
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

// A Map that the queue cannot allocate from is refused, and nobody keeps it:
// the device goes on with the one before.
func TestMemoryRefused(t *testing.T) {
	l := newLab(t)
	p, other := l.pair(), l.pair()
	l.session(p.Mem)
	l.must(l.d.StartRing(0, p.Queue))

	budget, err := sharedmem.NewBudget(sharedmem.DefaultLimits())
	l.must(err)
	refused, err := sharedmem.NewMap(other.Mem.Regions(), sharedmem.MapOptions{Owner: "test", Budget: budget.Port()})
	l.must(err)
	// A ring that is noted in a Map and lies in another makes the allocation fail.
	l.d.nic.SetMemory(refused)
	l.d.nic.NoteRing(3, p.Queue.Areas())
	l.d.nic.SetMemory(p.Mem)
	if err := l.d.Memory(refused); !errors.Is(err, queues.StatusResources) {
		t.Fatalf("Memory = %v, want an error with %v", err, queues.StatusResources)
	}
	l.d.nic.NoteRing(3, nil)
	refused.Unref() // as the session does
	if bytes, _ := budget.Spent(); bytes != 0 {
		t.Errorf("%d bytes of the refused Map are still mapped", bytes)
	}
	l.wantQueue(queues.Running, sharedmem.Receive, p.Mem.Size())
	l.wantQueue(queues.Running, sharedmem.Other, areas(p.Queue))
	l.d.StopRing(0)
	l.must(p.Restart(nil))
	l.must(l.d.StartRing(0, p.Queue)) // in the Map before
	l.wantQueue(queues.Running, sharedmem.Other, areas(p.Queue))
	l.d.Disconnected()
}

// A start that fails leaves the ring to the session and the device as it was,
// whichever step failed.
func TestStartRingFails(t *testing.T) {
	l := newLab(t)
	p, first := l.pair(), l.pair()
	tryStart := func(what string) {
		t.Helper()
		if err := l.d.StartRing(1, p.Queue); err == nil {
			t.Fatalf("%s: the ring started", what)
		}
		if p.Queue.Mem() == nil {
			t.Errorf("%s: the device closed a ring that is not its own", what)
		}
		if l.d.Snapshot().Rings[1].Started {
			t.Errorf("%s: the ring counts as started", what)
		}
	}

	l.session(nil)
	tryStart("no memory")
	l.wantQueue(queues.Allocated, sharedmem.Other, 0)

	l.must(l.d.Memory(p.Mem))
	p.Kick.Close() // its number names nothing that can be waited for
	tryStart("no kick")
	l.wantQueue(queues.Paused, sharedmem.Other, 0)

	l.must(first.Restart(nil))
	l.must(l.d.Memory(first.Mem))
	l.must(l.d.StartRing(0, first.Queue))
	if err := l.d.StartRing(1, p.Queue); err == nil {
		t.Error("the ring started in memory that is not the guest's")
	}
	l.wantQueue(queues.Running, sharedmem.Other, areas(first.Queue))
	l.d.Disconnected()
	l.d.freeing.Wait()
	if q, ok := l.queue(); ok {
		t.Errorf("queue %d is %v after the session", q.ID, q.State)
	}
}

// A queue whose allocation was never completed is freed with its session, too.
func TestQueueOfAFailedStartIsFreed(t *testing.T) {
	l := newLab(t)
	l.session(nil)
	l.must(l.d.setFilters()) // what a start had done when it failed
	l.wantQueue(queues.Set, sharedmem.Receive, 0)
	l.d.Disconnected()
	l.d.freeing.Wait()
	if q, ok := l.queue(); ok {
		t.Errorf("queue %d is %v after the session", q.ID, q.State)
	}
}

// When a ring cannot be replaced it is stopped, and what was made in its place
// is closed.
func TestReplaceRingFails(t *testing.T) {
	errNo := errors.New("no")
	for i, direction := range []string{"receive", "transmit"} {
		t.Run(direction, func(t *testing.T) {
			l := newLab(t)
			p := l.pair()
			l.session(p.Mem)
			start := func() {
				t.Helper()
				l.must(p.Restart(nil))
				l.must(l.d.StartRing(i, p.Queue))
			}
			ended := func(what string) {
				t.Helper()
				s := l.d.Snapshot().Rings[i]
				if s.Started || s.Broken {
					t.Errorf("%s: the ring is %+v", what, s)
				}
				l.wantQueue(queues.Paused, sharedmem.Receive, p.Mem.Size())
				if state := l.d.StopRing(i); state != (virtqueue.State{}) {
					t.Errorf("%s: the ring could be stopped: %+v", what, state)
				}
			}

			calls := 0
			start()
			err := l.d.ReplaceRing(i, func(virtqueue.State) (*virtqueue.Queue, error) { calls++; return nil, errNo })
			if !errors.Is(err, errNo) || p.Queue.Mem() != nil {
				t.Errorf("ReplaceRing = %v, the ring before is given up: %t", err, p.Queue.Mem() == nil)
			}
			ended("refused")

			start()
			l.must(l.d.ReplaceRing(i, func(virtqueue.State) (*virtqueue.Queue, error) { calls++; return nil, nil }))
			ended("parked")

			if err := l.d.ReplaceRing(i, func(virtqueue.State) (*virtqueue.Queue, error) { calls++; return nil, nil }); err == nil {
				t.Error("a ring that is not started could be replaced")
			}
			if calls != 2 {
				t.Errorf("%d Queues were asked for, want 2", calls)
			}
			l.d.Disconnected()
		})
	}
}

// A ring that was remade, and that the worker cannot wait for, is closed.
func TestReplacedRingCannotBePolled(t *testing.T) {
	l := newLab(t)
	p := l.pair()
	l.session(p.Mem)
	l.must(l.d.StartRing(1, p.Queue))
	err := l.d.ReplaceRing(1, func(s virtqueue.State) (*virtqueue.Queue, error) {
		p.Kick.Close() // its number names nothing that can be waited for
		err := p.Restart(&s)
		return p.Queue, err
	})
	if err == nil || p.Queue.Mem() != nil {
		t.Errorf("ReplaceRing = %v, the ring in its place is closed: %t", err, p.Queue.Mem() == nil)
	}
	if l.d.Snapshot().Rings[1].Started || l.d.rings[1].tx != nil {
		t.Error("the ring counts as started")
	}
	l.wantQueue(queues.Paused, sharedmem.Receive, p.Mem.Size())
	l.d.Disconnected()
}

// A ring that the worker cannot wait for when it is enabled is broken, and both
// owners are told: a front-end waits for nothing else.
func TestEnabledRingCannotBePolled(t *testing.T) {
	l := newLab(t)
	told := 0
	l.d.o.OnBroken = func(int, error) { told++ }
	p := l.pair()
	l.session(p.Mem)
	l.d.EnableRing(1, false)
	p.Kick.Close()
	l.must(l.d.StartRing(1, p.Queue))
	for range 2 {
		l.d.EnableRing(1, true)
		l.d.EnableRing(1, false)
	}
	if !l.d.Snapshot().Rings[1].Broken || told != 1 {
		t.Errorf("the ring is %+v, its owner was told %d times", l.d.Snapshot().Rings[1], told)
	}
	if n := signals(t, p.Err); n != 1 {
		t.Errorf("err was signalled %d times, want once", n)
	}
	if p.Queue.Mem() == nil {
		t.Error("the ring was closed")
	}
	l.d.Disconnected()
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

// The names of packets are never used twice, however often a ring starts.
func TestSerials(t *testing.T) {
	var a, b serial
	a.reserve()
	b.reserve()
	if a == b || a%serialRange != 0 {
		t.Errorf("two rings begin at %#x and %#x", uint64(a), uint64(b))
	}
	a++
	before := a
	if a.reserve(); a != before {
		t.Errorf("a range of which one name is used is given up")
	}
	a += serialRange - 2 - visitChains
	before = a
	if a.reserve(); a != before {
		t.Errorf("a range with %d names left is given up", visitChains+1)
	}
	a++
	if a.reserve(); a/serialRange == before/serialRange || a%serialRange != 0 {
		t.Errorf("behind %#x comes %#x, which has no room for a visit", uint64(before), uint64(a))
	}

	l := newLab(t)
	p := l.pair()
	first := newTxRing(l.d, 1, p.Queue)
	first.serial.reserve()
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
