package queues

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtqueue/vqtest"
)

// Claim 1: a queue's receive memory is one allocation of the whole Map, by no
// side way: none before it is completed, another one in its place with another
// Map, and with it goes all.
func TestClaim01_ReceiveMemoryIsOneAllocation(t *testing.T) {
	r := newRig(t, Options{})
	n := r.newNIC("web", 1)
	receive := func(id QueueID) (list []sharedmem.Account) {
		for _, q := range r.EnumQueues() {
			for _, a := range q.Accounts {
				if q.ID == id && a.Usage == sharedmem.Receive {
					list = append(list, a)
				}
			}
		}
		return list
	}
	n.SetMemory(newMap(t, 1<<16))
	id := r.allocate(n)
	if got := receive(id); got != nil {
		t.Errorf("allocated, the queue has %v", got)
	}
	if s := r.CompleteAllocation([]QueueID{id})[0]; s != StatusSuccess {
		t.Fatal(s)
	}
	for _, size := range []uint64{1 << 16, 1 << 20, 1 << 16} {
		n.SetMemory(newMap(t, size))
		must(t, r.Remake(id))
		if got, want := receive(id), (sharedmem.Account{Queue: id, Usage: sharedmem.Receive, Bytes: size, Count: 1}); len(got) != 1 || got[0] != want {
			t.Errorf("over a Map of %d bytes the queue has %v, want %v", size, got, want)
		}
	}
	r.free(id)
	n.SetMemory(nil)
}

// Claim 2: QUEUE_ALLOCATION_COMPLETE triggers the allocation. Before it the
// queue has no bytes, whatever else happened; after it it has.
func TestClaim02_CompleteAllocatesMemory(t *testing.T) {
	r := newRig(t, Options{})
	n := r.newNIC("web", 1)
	n.SetMemory(newMap(t, 1<<16))
	id := r.allocate(n)
	_, err := r.SetFilter(id, filterOf(1))
	must(t, err)
	must(t, r.Remake(id))
	if got := r.accounts(id); got != "" {
		t.Errorf("before it is completed the queue has %s", got)
	}
	if s := r.CompleteAllocation([]QueueID{id})[0]; s != StatusSuccess {
		t.Fatal(s)
	}
	if got := r.accounts(id); got != allocated {
		t.Errorf("completed, the queue has %q, want %q", got, allocated)
	}
	r.free(id)
}

// Claim 3: queue 0's memory is allocated at initialize, before any verb.
// Claim 18: and freed in halt, at no other time.
func TestClaim18_MemoryOfQueue0(t *testing.T) {
	r := newRig(t, Options{Workers: 3})
	want := "receive 4*" + fmt.Sprint((3*nbl.SoftenerBytes+defaultHeldBytes)/4)
	has := func(when string) {
		t.Helper()
		if got := r.accounts(0); got != want {
			t.Errorf("%s: queue 0 has %q, want %q", when, got, want)
		}
	}
	has("initialized")
	r.free(r.complete("web"))
	has("a queue came and went")
	must(t, r.Reset(context.Background()))
	must(t, r.Pause(context.Background()))
	has("paused")
	must(t, r.Restart())
	r.Bind("other").Close(context.Background())
	has("restarted")
	must(t, r.Pause(context.Background()))
	must(t, r.Halt())
	if got := r.accounts(0); got != "" {
		t.Errorf("halted, queue 0 still has %s", got)
	}
}

// Claim 4: a live queue grows as often as rings and memory come; a freed one
// does not.
func TestClaim04_Growth(t *testing.T) {
	r := newRig(t, Options{})
	n := r.newNIC("web", 1)
	m := newMap(t, 1<<16)
	n.SetMemory(m)
	id := r.allocate(n)
	if s := r.CompleteAllocation([]QueueID{id})[0]; s != StatusSuccess {
		t.Fatal(s)
	}
	for i := range 5 {
		n.NoteRing(i, areas(t, m, 2))
		must(t, r.Remake(id))
		if got, want := r.accounts(id), fmt.Sprintf("other %d*64, ", 2*(i+1))+allocated; got != want {
			t.Errorf("with %d rings: %s, want %s", i+1, got, want)
		}
	}
	r.free(id)
	must(t, r.Remake(id))
	if got := r.accounts(id); got != "no queue" {
		t.Errorf("freed, and grown: %s", got)
	}
}

// Claim 6: memory is allocated for a queue that exists.
func TestClaim06_UnknownQueue(t *testing.T) {
	r := newRig(t, Options{})
	if got := r.CompleteAllocation([]QueueID{7, 0})[:]; got[0] != StatusInvalidParameter || got[1] != StatusInvalidParameter {
		t.Errorf("memory for queues 7 and 0: %v", got)
	}
}

// Claim 17: a queue's memory is freed inside FREE_QUEUE: it is there until the
// packets are back, and its count is 0 when the verb returns.
func TestClaim17_MemoryIsFreedInFreeQueue(t *testing.T) {
	r, _, id := freeRig(t)
	held, err := r.Holder().Hold(hostPacket(t), id)
	must(t, err)
	done := make(chan error, 1)
	stopped := make(chan struct{})
	r.onEvent = func(e Event) {
		if e.Kind == EventDMAStopped {
			close(stopped)
		}
	}
	go func() { done <- r.FreeQueue(context.Background(), id) }()
	<-stopped
	if got := r.accounts(id); got != allocated {
		t.Errorf("DMA stopped, a packet out: %s", got)
	}
	must(t, r.Holder().Return(held))
	must(t, <-done)
	if got := r.accounts(id); got != "no queue" {
		t.Errorf("freed, and it has %s", got)
	}
}

// hostPacket is a packet of this process.
func hostPacket(t testing.TB) *nbl.List {
	t.Helper()
	l := new(nbl.List)
	if r := l.FromBytes(ethernet(100, 1), 1); r != metrics.ReasonNone {
		t.Fatal(r)
	}
	return l
}

// Claim 20: the receive pools are made with the NIC, before a queue, a ring or a
// frame is there. Claim 21: and what a delivery uses comes from them.
func TestClaim21_IndicationsComeFromThePool(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	pool := v.nic.rings[0].pool
	if pool == nil || pool.Out() != 0 {
		t.Fatal("the NIC's pool is not there, or in use")
	}
	v.post(repeat(4, 2000)...)
	lists := s.send(plain(60, 61)...)
	taken := make([]*nbl.List, burstFrames)
	if n := pool.Get(taken); n != burstFrames {
		t.Fatalf("%d Lists of %d", n, burstFrames)
	}
	pool.Put(taken)
	if n := r.deliver(v.nic, lists); n != 2 {
		t.Errorf("accepted %d", n)
	}
	for i, l := range bursts.Get(r.ctx).receive[:2] {
		if !slices.Contains(taken, l) || l.Length != uint32(60+i) {
			t.Errorf("delivery %d was indicated by a List that is not the pool's, or says %d bytes", i, l.Length)
		}
	}
	v.expect(whole(ethernet(60, 0), ethernet(61, 1))...)
}
