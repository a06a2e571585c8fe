package queues

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
	"vhostnet/worker"
)

// patience bounds every wait; it is far beyond what a loaded machine needs.
const patience = 60 * time.Second

// TestMain fails when the tests leave a descriptor, a mapping or a goroutine
// behind.
func TestMain(m *testing.M) {
	measure() // the first file opened makes the runtime open its poller
	before := measure()
	code := m.Run()
	if err := before.settle(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// resources is what must not grow.
type resources struct{ fds, mappings, goroutines int }

func measure() resources {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	return resources{len(fds), strings.Count(string(maps), "memfd:"), runtime.NumGoroutine()}
}

// settle waits until no more is there than r counted.
func (r resources) settle() error {
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		now := measure()
		if now.fds <= r.fds && now.mappings <= r.mappings && now.goroutines <= r.goroutines {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("left behind: before %+v, now %+v", r, now)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is an Adapter whose events and steering are noted.
type rig struct {
	*Adapter
	*Binding
	t   testing.TB
	ctx *worker.Context

	quiesce func(context.Context) error // replaces the fake, which returns at once
	onEvent func(Event)                 // is told after the event was noted

	mu       sync.Mutex
	events   []Event
	steering steering
	left     bool // Halt is to find queues
	serials  uint64
	part     bool // of the last delivery
}

// newRig is an Adapter for one worker, halted when the test ends.
func newRig(t testing.TB, o Options) *rig {
	t.Helper()
	r := &rig{t: t, ctx: worker.NewTestContext(), steering: steering{}}
	r.quiesce = func(context.Context) error { return nil }
	if o.Workers == 0 {
		o.Workers = 1
	}
	if o.Quiesce == nil {
		o.Quiesce = func(ctx context.Context) error { return r.quiesce(ctx) }
	}
	o.OnEvent = r.note
	a, err := NewAdapter(o)
	must(t, err)
	r.Adapter, r.Binding = a, a.Bind("test")
	must(t, a.Restart())
	r.told()
	t.Cleanup(func() {
		if a.State() == AdapterHalted {
			return
		}
		r.quiesce, r.onEvent = func(context.Context) error { return nil }, nil
		if err := a.Close(context.Background()); (err != nil) != r.left {
			t.Errorf("halt: %v", err)
		}
	})
	return r
}

func (r *rig) note(e Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	if r.onEvent != nil {
		r.onEvent(e)
	}
}

// told takes the events that came since it was asked last, in words.
func (r *rig) told() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var words []string
	for _, e := range r.events {
		switch e.Kind {
		case EventState:
			words = append(words, e.State.String())
		case EventDMAStopped:
			words = append(words, "DMA stopped")
		case EventBroken:
			words = append(words, fmt.Sprintf("broken %d", e.Ring))
		case EventAdapter:
			words = append(words, "adapter "+e.Adapter.String())
		}
	}
	r.events = nil
	return words
}

// steering is a forwarding table for one port.
type steering map[Filter]QueueID

func (s steering) Set(vlan uint16, mac [6]byte, id QueueID, _ uint32) { s[Filter{mac, vlan}] = id }
func (s steering) Clear(vlan uint16, mac [6]byte)                     { delete(s, Filter{mac, vlan}) }

// newNIC is a NIC without rings, for the time of the test.
func (r *rig) newNIC(name string, pairs int) *NIC {
	r.t.Helper()
	n, err := r.NewNIC(NICOptions{Name: name, Pairs: pairs, Counters: new(metrics.Port)})
	must(r.t, err)
	r.t.Cleanup(func() { n.SetMemory(nil) })
	return n
}

// allocate is a queue of a NIC.
func (r *rig) allocate(n *NIC) QueueID {
	r.t.Helper()
	id, err := r.AllocateQueue(QueueParameters{VMName: n.name, NIC: n, Steering: r.steering})
	must(r.t, err)
	return id
}

// complete is a queue of a new NIC that has memory.
func (r *rig) complete(name string) QueueID {
	r.t.Helper()
	n := r.newNIC(name, 1)
	n.SetMemory(newMap(r.t, 1<<16))
	id := r.allocate(n)
	if s := r.CompleteAllocation([]QueueID{id})[0]; s != StatusSuccess {
		r.t.Fatal(s)
	}
	return id
}

// state is the state of a queue, Undefined for none.
func (r *rig) state(id QueueID) State {
	for _, q := range r.EnumQueues() {
		if q.ID == id {
			return q.State
		}
	}
	return Undefined
}

// free takes a queue back, with its filters.
func (r *rig) free(id QueueID) {
	r.t.Helper()
	must(r.t, r.ClearFilters(id))
	must(r.t, r.FreeQueue(context.Background(), id))
}

// deliver is Deliver, after which the lock must be free and every receive NBL
// back.
func (r *rig) deliver(n *NIC, batch []*nbl.List) (accepted int) {
	r.t.Helper()
	must(r.t, r.tryDeliver(n, batch, &accepted))
	return accepted
}

// tryDeliver is deliver for memory that may be gone.
func (r *rig) tryDeliver(n *NIC, batch []*nbl.List, accepted *int) error {
	r.t.Helper()
	err := sharedmem.Guard(func() error {
		*accepted, r.part = n.Deliver(r.ctx, batch)
		return nil
	})
	for i := range n.rings {
		ring := &n.rings[i]
		if !ring.mu.TryLock() {
			ring.mu.Unlock() // for whoever cleans up
			r.t.Fatalf("pair %d: the lock is held after a delivery", i)
		}
		if out := ring.pool.Out(); out != 0 {
			r.t.Errorf("pair %d: %d receive NBLs are out after a delivery", i, out)
		}
		ring.mu.Unlock()
	}
	return err
}

// newMap is memory of our own for n bytes, for the time of the test.
func newMap(t testing.TB, n uint64) *sharedmem.Map {
	t.Helper()
	file, err := sharedmem.NewMemoryFile(n)
	must(t, err)
	defer file.Unref()
	m, err := sharedmem.NewMap([]sharedmem.Region{{GPA: 1 << 30, Size: n, File: file}}, sharedmem.MapOptions{Owner: "test"})
	must(t, err)
	t.Cleanup(m.Unref)
	return m
}

// sender is a guest that sends: frames lie in its memory.
type sender struct {
	*vqtest.Pair
	t      testing.TB
	wrap   nbl.Sender
	serial uint64
	chains []virtqueue.Chain // of the last send
}

// sends are the features of a sender: everything a driver may leave to do.
const sends = virtio.Version1 | virtio.NetCsum | virtio.NetHostTSO4 | virtio.NetHostTSO6

func (r *rig) newSender(o vqtest.Options) *sender {
	r.t.Helper()
	if o.Memory == 0 {
		o.Size, o.Memory = 4096, 64<<20
	}
	o.Features |= sends
	p, err := vqtest.NewPair(o)
	must(r.t, err)
	r.t.Cleanup(p.Close)
	r.serials++
	s := &sender{Pair: p, t: r.t, serial: r.serials << 40}
	s.wrap = nbl.NewSender(o.Features, &s.serial)
	return s
}

// packet is what a guest sends or is to find in its buffers.
type packet struct {
	header virtio.NetHeader
	frame  []byte
}

// send wraps packets as the worker of a transmit ring does.
func (s *sender) send(packets ...packet) []*nbl.List {
	s.t.Helper()
	for _, p := range packets {
		header := make([]byte, virtio.MaxNetHeaderLen)
		p.header.Encode(header)
		_, err := s.Driver.Add(vqtest.Request{Out: [][]byte{header, p.frame}})
		must(s.t, err)
	}
	s.Driver.Publish()
	s.chains = make([]virtqueue.Chain, len(packets))
	lists := make([]*nbl.List, len(packets))
	for i := range lists {
		lists[i] = new(nbl.List)
	}
	must(s.t, sharedmem.Guard(func() error {
		if n, err := s.Queue.Pop(s.chains); n != len(packets) {
			return fmt.Errorf("%d chains of %d, %w", n, len(packets), err)
		}
		return s.again(lists)
	}))
	return lists
}

// again makes lists new packets over the chains of the last send. It is called
// inside a Guard.
func (s *sender) again(lists []*nbl.List) error {
	var drops metrics.Drops
	s.wrap.WrapAll(lists, s.chains[:len(lists)], &drops)
	if n := drops.Total(); n != 0 {
		return fmt.Errorf("%d packets of %d are malformed: %v", n, len(lists), drops.Snapshot())
	}
	return nil
}

// plain is packets without offloads of the given lengths, each with bytes of
// its own.
func plain(lengths ...int) []packet {
	list := make([]packet, len(lengths))
	for i, n := range lengths {
		list[i].frame = ethernet(n, i)
	}
	return list
}

// repeat is n times the same length.
func repeat(n, length int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = length
	}
	return list
}

// frames are the frames of packets, as a driver that takes offloads gets them.
func frames(packets []packet) [][]byte {
	var list [][]byte
	for _, p := range packets {
		list = append(list, p.frame)
	}
	return list
}
