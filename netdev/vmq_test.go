package netdev_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"vhostnet/netdev"
	"vhostnet/queues"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// indicated is what was indicated about a port's queues so far, one word each.
func (r *rig) indicated(port string) (list []string) {
	r.note(func() {
		for _, e := range r.events {
			switch {
			case e.VM != port:
			case e.Kind == queues.EventDMAStopped:
				list = append(list, fmt.Sprintf("%d:DMAStopped", e.Queue))
			default:
				list = append(list, fmt.Sprintf("%d:%v", e.Queue, e.State))
			}
		}
	})
	return list
}

// wantIndicated waits until there are as many indications as are wanted, and
// compares them.
func (r *rig) wantIndicated(port string, want ...string) {
	r.t.Helper()
	r.waitFor(fmt.Sprintf("%d indications of %s", len(want), port), func() bool { return len(r.indicated(port)) >= len(want) })
	if got := r.indicated(port); !slices.Equal(got, want) {
		r.t.Errorf("%s was indicated\n%s, want\n%s", port, strings.Join(got, " "), strings.Join(want, " "))
	}
}

// wantAccounts compares what queue id has allocated, in bytes, with the guest's
// memory and its rings.
func (r *rig) wantAccounts(id queues.QueueID, f *vutest.FrontEnd, rings int) {
	r.t.Helper()
	size := uint64(0)
	for _, region := range f.Regions() {
		size += region.Size
	}
	n := f.Driver(0).Size()
	area := virtqueue.DescLen(n) + virtqueue.AvailLen(n, virtio.EventIdx) + virtqueue.UsedLen(n, virtio.EventIdx)
	want := []sharedmem.Account{
		{Queue: id, Usage: sharedmem.Receive, Bytes: size, Count: 1},
		{Queue: id, Usage: sharedmem.Xmit, Bytes: size, Count: 1},
		{Queue: id, Usage: sharedmem.Other, Bytes: area * uint64(rings), Count: 3 * rings},
	}
	for _, q := range r.adapter.EnumQueues() {
		if q.ID != id {
			continue
		}
		got := slices.Clone(q.Accounts)
		for _, a := range want {
			if i := slices.Index(got, a); i >= 0 {
				got = slices.Delete(got, i, i+1)
			} else {
				r.t.Errorf("queue %d has allocated %+v, want %+v among it", id, q.Accounts, a)
			}
		}
		if len(got) != 0 {
			r.t.Errorf("queue %d has allocated too much: %+v", id, got)
		}
		return
	}
	r.t.Errorf("there is no queue %d", id)
}

// wantNoQueues waits until queue 0 is alone again.
func (r *rig) wantNoQueues() {
	r.t.Helper()
	r.waitFor("the queues to be freed", func() bool { return len(r.adapter.EnumQueues()) == 1 })
}

// A session drives the verbs of its port's queue, in order: what it allocates
// is the guest's memory, to the byte, and goes back to nothing.
func TestSessionDrivesTheQueue(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b"})
	b := r.connect("b", vutest.Options{})
	r.wantIndicated("b", "1:Allocated", "1:Paused") // without a filter nothing is indicated by it
	a := r.connect("a", vutest.Options{Pairs: 2})
	want := []string{"2:Allocated", "2:Set", "2:Running"}
	r.wantIndicated("a", want...)
	r.wantAccounts(1, b, 2)
	r.wantAccounts(2, a, 4)
	exchange(t, b, a, 0, frame(macA, macB, 60, 1)) // by its queue

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	plugged, err := a.AddMemory(ctx, 2<<20)
	r.must(err)
	r.wantAccounts(2, a, 4)
	r.must(a.RemoveMemory(ctx, plugged))
	r.wantAccounts(2, a, 4)
	r.must(a.Enable(ctx, 0, false))
	r.must(a.Enable(ctx, 0, true))
	r.wantIndicated("a", want...) // none of this is a state of the queue

	r.must(a.Stop(ctx))
	want = append(want, "2:Paused")
	r.wantIndicated("a", want...)
	r.start(a)
	want = append(want, "2:Running")
	r.wantIndicated("a", want...)
	r.wantAccounts(2, a, 4)

	a.Disconnect()
	want = append(want, "2:Paused", "2:StopDMA", "2:DMAStopped", "2:Undefined")
	r.wantIndicated("a", want...)
	exchange(t, b, r.connect("a", vutest.Options{}), 0, frame(macA, macB, 60, 2))
	r.wantIndicated("a", append(want, "2:Allocated", "2:Set", "2:Running")...)
}

// gate holds the workers' quiescence back until it is opened.
type gate struct {
	mu     sync.Mutex
	closed chan struct{} // nil: open
}

func (g *gate) pass() {
	g.mu.Lock()
	wait := g.closed
	g.mu.Unlock()
	if wait != nil {
		<-wait
	}
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed != nil {
		close(g.closed)
		g.closed = nil
	}
}

// A front-end that comes back while the queue of its session before is still
// being freed gets another one, and keeps it.
func TestReconnectBeforeTheQueueIsFreed(t *testing.T) {
	var g gate
	r := newRigWith(t, rigOptions{quiesced: g.pass}, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b"})
	t.Cleanup(g.open)
	b := r.connect("b", vutest.Options{})
	a := r.connect("a", vutest.Options{})
	exchange(t, b, a, 0, frame(macA, macB, 60, 1))
	g.shut()
	a.Disconnect()
	want := []string{"2:Allocated", "2:Set", "2:Running", "2:Paused", "2:StopDMA"}
	r.wantIndicated("a", want...)
	a = r.connect("a", vutest.Options{})
	want = append(want, "3:Allocated", "3:Set", "3:Running")
	r.wantIndicated("a", want...)
	r.wantAccounts(3, a, 2)
	exchange(t, b, a, 0, frame(macA, macB, 60, 2))
	g.open()
	r.wantIndicated("a", append(want, "2:DMAStopped", "2:Undefined")...)
	exchange(t, b, a, 0, frame(macA, macB, 60, 3))
	r.wantAccounts(3, a, 2)
	a.Disconnect()
	b.Disconnect()
	r.wantNoQueues()
}

// A port for which no queue is left is served by queue 0, and gets one when
// there is one again and its rings start.
func TestNoQueueLeft(t *testing.T) {
	var g gate
	r := newRigWith(t, rigOptions{maxQueues: 1, quiesced: g.pass}, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	t.Cleanup(g.open)
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	pingPong(t, a, b)
	r.wantIndicated("b")
	r.wantIndicated("a", "1:Allocated", "1:Set", "1:Running")
	if n := len(r.adapter.EnumQueues()); n != 2 {
		t.Errorf("%d queues, want queue 0 and one more", n)
	}

	g.shut()
	a.Disconnect()
	want := []string{"1:Allocated", "1:Set", "1:Running", "1:Paused", "1:StopDMA"}
	r.wantIndicated("a", want...)
	a = r.connect("a", vutest.Options{}) // its own queue is not free yet
	pingPong(t, a, b)
	r.wantIndicated("a", want...)
	g.open()
	r.wantNoQueues()
	want = append(want, "1:DMAStopped", "1:Undefined")

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r.must(a.Stop(ctx))
	r.start(a)
	r.wantIndicated("a", append(want, "1:Allocated", "1:Set", "1:Running")...)
	r.wantAccounts(1, a, 2)
	pingPong(t, a, b)
}

// Many sessions come and go; each gets a queue and gives it back.
func TestClaim73_QueuesOfManySessions(t *testing.T) {
	r := newRigWith(t, rigOptions{maxQueues: 4}, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	for i := range 50 {
		a := r.connect("a", vutest.Options{Kind: vutest.Kinds()[i%len(vutest.Kinds())]})
		if i%5 == 0 {
			b := r.connect("b", vutest.Options{})
			pingPong(t, a, b)
			b.Disconnect()
		}
		a.Disconnect()
	}
	r.wantNoQueues()
	r.note(func() {
		last := map[queues.QueueID]queues.State{}
		for _, e := range r.events {
			if e.Kind == queues.EventState {
				last[e.Queue] = e.State
			}
		}
		for id, state := range last {
			if state != queues.Undefined {
				t.Errorf("queue %d ends %v", id, state)
			}
		}
	})
}
