package queues

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vhostnet/nbl"
	"vhostnet/sharedmem"
)

func TestOptionsRefused(t *testing.T) {
	quiesce := func(context.Context) error { return nil }
	for name, o := range map[string]Options{
		"no workers":         {Quiesce: quiesce},
		"fewer than none":    {Workers: -1, Quiesce: quiesce},
		"no Quiesce":         {Workers: 1},
		"too many queues":    {Workers: 1, Quiesce: quiesce, MaxQueues: 1 << 16},
		"fewer than 0 queue": {Workers: 1, Quiesce: quiesce, MaxQueues: -1},
	} {
		if a, err := NewAdapter(o); err == nil {
			t.Errorf("%s: no error", name)
			must(t, a.Halt())
		}
	}
	r := newRig(t, Options{})
	for name, o := range map[string]NICOptions{
		"no pair": {Counters: r.newNIC("x", 1).counters}, "too many pairs": {Pairs: 129, Counters: r.newNIC("x", 1).counters},
		"no counters": {Pairs: 1},
	} {
		if _, err := r.NewNIC(o); err == nil {
			t.Errorf("NIC with %s: no error", name)
		}
	}
	elsewhere := newRig(t, Options{}).newNIC("elsewhere", 1)
	for name, p := range map[string]QueueParameters{
		"no NIC": {Steering: r.steering}, "no Steering": {NIC: r.newNIC("x", 1)},
		"a NIC of another adapter": {NIC: elsewhere, Steering: r.steering},
	} {
		if _, err := r.AllocateQueue(p); !errors.Is(err, StatusInvalidParameter) {
			t.Errorf("queue with %s: %v", name, err)
		}
	}
}

// Ids count from 1; the lowest free one is given out, and none is free before
// its queue is Undefined.
func TestQueueIDs(t *testing.T) {
	r := newRig(t, Options{MaxQueues: 3})
	n := r.newNIC("web", 1)
	for want := QueueID(1); want <= 3; want++ {
		if id := r.allocate(n); id != want {
			t.Fatalf("queue %d, want %d", id, want)
		}
	}
	if _, err := r.AllocateQueue(QueueParameters{NIC: n, Steering: r.steering}); !errors.Is(err, StatusResources) {
		t.Errorf("a fourth queue of three: %v", err)
	}
	r.free(2)
	if id := r.allocate(n); id != 2 {
		t.Errorf("queue %d after 2 was freed", id)
	}
	r.free(1)
	r.free(3)
	if id := r.allocate(n); id != 1 {
		t.Errorf("queue %d after 1 and 3 were freed", id)
	}
	r.free(1)
	r.free(2)
}

// What a queue is told to be is what it is listed as.
func TestEnumQueues(t *testing.T) {
	r := newRig(t, Options{Workers: 2})
	n := r.newNIC("web", 1)
	id, err := r.AllocateQueue(QueueParameters{VMName: "web", QueueName: "eth0", NIC: n, Steering: r.steering})
	must(t, err)
	_, err = r.SetFilter(id, filterOf(1))
	must(t, err)
	want := []QueueInfo{
		{Name: "default", State: Running, Worker: -1, Accounts: []sharedmem.Account{
			{Usage: sharedmem.Receive, Bytes: 2*nbl.SoftenerBytes + defaultHeldBytes, Count: 3},
		}},
		{ID: 1, VMName: "web", Name: "eth0", Owner: "test", State: Set, Filters: 1, Worker: -1},
	}
	if diff := cmp.Diff(want, r.EnumQueues()); diff != "" {
		t.Error(diff)
	}
	r.free(id)
	if diff := cmp.Diff(want[:1], r.EnumQueues()); diff != "" {
		t.Error(diff)
	}
}

func filterOf(last byte) Filter { return Filter{MAC: [6]byte{2, 0, 0, 0, 0, last}} }

// areas are n areas of 64 bytes each in m.
func areas(t *testing.T, m *sharedmem.Map, n int) []sharedmem.Block {
	t.Helper()
	var list []sharedmem.Block
	for i := range n {
		b, err := m.Block(m.Regions()[0].GPA+uint64(i)*64, 64)
		must(t, err)
		list = append(list, b)
	}
	return list
}

// accounts is what a queue has allocated, in words.
func (r *rig) accounts(id QueueID) string {
	for _, q := range r.EnumQueues() {
		if q.ID == id {
			var words []string
			for _, a := range q.Accounts {
				if a.Queue != id {
					r.t.Errorf("queue %d has memory of queue %d", id, a.Queue)
				}
				words = append(words, fmt.Sprintf("%s %d*%d", a.Usage, a.Count, a.Bytes/uint64(a.Count)))
			}
			slices.Sort(words)
			return strings.Join(words, ", ")
		}
	}
	return "no queue"
}

// In a batch each queue has its own status; what failed is as it was and can be
// tried again.
func TestClaim49_CompleteAllocationInBatch(t *testing.T) {
	r := newRig(t, Options{})
	m := newMap(t, 1<<16)
	good, poor, astray := r.newNIC("good", 1), r.newNIC("poor", 1), r.newNIC("astray", 1)
	good.SetMemory(m)
	good.NoteRing(0, areas(t, m, 3))
	astray.SetMemory(m)
	astray.NoteRing(0, areas(t, newMap(t, 1<<16), 1)) // of another Map
	ids := []QueueID{r.allocate(good), r.allocate(poor), r.allocate(astray)}
	for _, id := range ids {
		_, err := r.SetFilter(id, filterOf(byte(id)))
		must(t, err)
	}
	r.told()
	got := r.CompleteAllocation([]QueueID{1, 2, 9, 1, 0, 3})
	want := []Status{StatusSuccess, StatusResources, StatusInvalidParameter, StatusInvalidParameter, StatusInvalidParameter, StatusResources}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for id, want := range map[QueueID]string{1: "Running, other 3*64, receive 1*65536, xmit 1*65536", 2: "Set, ", 3: "Set, "} {
		if got := r.state(id).String() + ", " + r.accounts(id); got != want {
			t.Errorf("queue %d: %s, want %s", id, got, want)
		}
	}
	if events := r.told(); !slices.Equal(events, []string{"Running"}) {
		t.Errorf("events %v", events)
	}
	poor.SetMemory(m)
	must(t, r.ClearFilters(3))
	astray.NoteRing(0, nil)
	if got := r.CompleteAllocation([]QueueID{3, 2}); got[0] != StatusSuccess || got[1] != StatusSuccess {
		t.Errorf("tried again: %v", got)
	}
	if got := r.state(2).String() + r.state(3).String(); got != "RunningPaused" {
		t.Errorf("with and without a filter: %s", got)
	}
	if got := r.CompleteAllocation(nil); len(got) != 0 {
		t.Errorf("statuses of no queue: %v", got)
	}
	for _, id := range ids {
		r.free(id)
	}
}

// A queue's memory follows its NIC's Map and rings, and is gone at the end.
func TestRemake(t *testing.T) {
	r := newRig(t, Options{})
	n := r.newNIC("web", 1)
	id := r.allocate(n)
	first, second := newMap(t, 1<<16), newMap(t, 1<<17)
	step := func(what, want string) {
		t.Helper()
		must(t, r.Remake(id))
		if got := r.accounts(id); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	step("not completed", "")
	n.SetMemory(first)
	n.NoteRing(0, areas(t, first, 3))
	step("not completed, with memory", "")
	if s := r.CompleteAllocation([]QueueID{id})[0]; s != StatusSuccess {
		t.Fatal(s)
	}
	n.NoteRing(1, areas(t, first, 3))
	step("grown by a ring", "other 6*64, receive 1*65536, xmit 1*65536")
	n.NoteRing(0, nil)
	step("a ring stopped", "other 3*64, receive 1*65536, xmit 1*65536")

	// Another Map comes before the rings are made anew in it.
	n.SetMemory(second)
	step("another Map", "receive 1*131072, xmit 1*131072")
	n.NoteRing(1, areas(t, second, 3))
	step("its ring", "other 3*64, receive 1*131072, xmit 1*131072")

	// What cannot be allocated leaves the views as they were.
	n.NoteRing(0, areas(t, first, 1))
	if err := r.Remake(id); !errors.Is(err, StatusResources) {
		t.Errorf("an area outside of the Map: %v", err)
	}
	n.NoteRing(0, nil)
	step("as before", "other 3*64, receive 1*131072, xmit 1*131072")

	n.SetMemory(nil)
	step("no Map", "")
	if got := r.state(id); got != Paused {
		t.Errorf("without memory the queue is %s", got)
	}
	empty, err := sharedmem.NewMap(nil, sharedmem.MapOptions{})
	must(t, err)
	n.SetMemory(empty)
	empty.Unref()
	step("a Map without regions", "")
	n.SetMemory(second)
	step("memory again", "other 3*64, receive 1*131072, xmit 1*131072")
	r.free(id)
	step("freed", "no queue")
}

// The Map of a queue is mapped as long as the queue has it, and no longer.
func TestQueueKeepsItsMap(t *testing.T) {
	r := newRig(t, Options{})
	budget, err := sharedmem.NewBudget(sharedmem.Limits{})
	must(t, err)
	port := budget.Port()
	file, err := sharedmem.NewMemoryFile(1 << 16)
	must(t, err)
	defer file.Unref()
	m, err := sharedmem.NewMap([]sharedmem.Region{{Size: 1 << 16, File: file}}, sharedmem.MapOptions{Budget: port})
	must(t, err)
	n := r.newNIC("web", 1)
	n.SetMemory(m)
	m.Unref() // the session has another one by now
	id := r.allocate(n)
	if s := r.CompleteAllocation([]QueueID{id})[0]; s != StatusSuccess {
		t.Fatal(s)
	}
	n.SetMemory(nil)
	if bytes, _ := port.Spent(); bytes != 1<<16 {
		t.Errorf("%d bytes are mapped while the queue has them, want %d", bytes, 1<<16)
	}
	r.free(id)
	if bytes, _ := port.Spent(); bytes != 0 {
		t.Errorf("%d bytes are mapped after the queue was freed", bytes)
	}
}

// What is left at the end is named, and its memory freed.
func TestHaltNamesLeftovers(t *testing.T) {
	r := newRig(t, Options{})
	n := r.newNIC("web", 1)
	n.SetMemory(newMap(t, 1<<16))
	first, second := r.allocate(n), r.allocate(n)
	if s := r.CompleteAllocation([]QueueID{second})[0]; s != StatusSuccess {
		t.Fatal(s)
	}
	if err := r.Halt(); StatusOf(err) != StatusAdapterNotReady {
		t.Errorf("halted while it runs: %v", err)
	}
	err := r.Adapter.Close(context.Background())
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"queue 1 (web) is still Allocated", "queue 2 (web) is still Paused"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	for _, id := range []QueueID{0, first, second} {
		if got := r.accounts(id); got != "" {
			t.Errorf("queue %d still has %s", id, got)
		}
	}
	if got := r.state(0); got != Paused {
		t.Errorf("queue 0 is %s after the end", got)
	}
	r.left = true
}
