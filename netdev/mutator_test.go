package netdev

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/nbl"
	"vhostnet/queues"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// TestV42_HostileGuest runs a worker with four ports: a hostile guest, whose
// rings, descriptors, tables and headers other threads change all the time; a
// guest that sends to it; and two neighbours, of which one sends to the other.
// Whatever the hostile guest does,
//
//   - nothing is written outside of its memory, nor in its neighbours' memory
//     except the frames that the neighbours send,
//   - the neighbour's chains are popped between any two visits to it,
//   - a visit to it takes no more chains and bytes than a visit may,
//
// and a ring that it broke is served again when it is started anew.
// With VHOSTNET_SOAK=1 each kind of guest goes on for an hour.
func TestV42_HostileGuest(t *testing.T) {
	const all = pathFeatures | virtio.NetCsum | virtio.NetGuestCsum | virtio.NetHostTSO4 | virtio.NetGuestTSO4
	for _, f := range []virtio.Features{all, all | virtio.EventIdx, all | virtio.RingPacked, all | virtio.RingPacked | virtio.EventIdx} {
		t.Run(f.String(), func(t *testing.T) { newArena(t, f).fight() })
	}
}

var (
	hostileMAC   = [6]byte{2, 0, 0, 0, 0, 6}
	neighbourMAC = [6]byte{2, 0, 0, 0, 0, 7}
	senderMAC    = [6]byte{2, 0, 0, 0, 0, 8}
)

// marked is the type of the frames that the neighbours exchange.
const marked = 0x88b6

// The hostile guest's memory: regions, each with a hole behind it that the
// device must not touch.
const (
	hostileSize    = 32 // ring entries
	hostileRegions = 4
	hostileMemory  = 1 << 20
	hostileHole    = 192
	hostileBuffers = vqtest.PairGPA + hostileMemory/hostileRegions // up to the end
	hostileTable   = vqtest.PairGPA + 64<<10
	tableEntries   = 24
	canary         = 0xa5
)

type arena struct {
	t        *testing.T
	features virtio.Features
	group    *worker.Group
	sw       *vswitch.Switch

	hostile, target *Device // target receives what the neighbour sends
	tx, rx          *vqtest.Pair
	visits          hostileTask
	neighbour       *neighbourTask
	toHostile       *floodTask
	rxBroken        atomic.Bool
}

func newArena(t *testing.T, f virtio.Features) *arena {
	t.Helper()
	a := &arena{t: t, features: f}
	var err error
	a.group, err = worker.NewGroup(worker.Options{Workers: 1})
	a.must(err)
	a.sw, err = vswitch.New(vswitch.Options{})
	a.must(err)
	adapter, err := queues.NewAdapter(queues.Options{
		Workers: 1, Quiesce: a.group.Quiesce,
		OnEvent: func(e queues.Event) {
			if e.Kind == queues.EventBroken {
				a.rxBroken.Store(true)
			}
		},
	})
	a.must(err)
	a.must(adapter.Restart())
	t.Cleanup(func() { a.must(adapter.Close(context.Background())) })
	device := func(name string, mac [6]byte) *Device {
		d, err := New(Options{Name: name, Pairs: 1, Adapter: adapter, Switch: a.sw, Group: a.group, OnBroken: func(int, error) {}})
		a.must(err)
		d.features.Store(uint64(f))
		a.must(a.sw.AddStatic(d.port, 0, mac))
		return d
	}
	a.hostile, a.target = device("hostile", hostileMAC), device("target", neighbourMAC)
	a.tx, a.rx = a.hostilePair(), a.hostilePair()
	a.hostile.nic.StartRx(0, a.rx.Queue, queues.Attributes{Features: f})
	a.hostile.nic.EnableRx(0, true)
	a.visits = hostileTask{a: a, ring: newTxRing(a.hostile, 1, a.tx.Queue)}

	from, to := a.pair(), a.pair()
	a.target.nic.StartRx(0, to.Queue, queues.Attributes{Features: f})
	a.target.nic.EnableRx(0, true)
	a.neighbour = &neighbourTask{a: a, ring: newTxRing(device("neighbour", senderMAC), 1, from.Queue), from: from, to: to, least: visitChains}
	a.neighbour.post()
	sender := a.pair()
	a.toHostile = &floodTask{ring: newTxRing(device("sender", [6]byte{2, 0, 0, 0, 0, 9}), 1, sender.Queue), from: sender}
	a.toHostile.post(t)
	return a
}

func (a *arena) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *arena) pair() *vqtest.Pair {
	a.t.Helper()
	p, err := vqtest.NewPair(vqtest.Options{Size: 256, Features: a.features, Memory: 8 << 20})
	a.must(err)
	a.t.Cleanup(p.Close)
	return p
}

func (a *arena) hostilePair() *vqtest.Pair {
	a.t.Helper()
	p, err := vqtest.NewPair(vqtest.Options{
		Size: hostileSize, Features: a.features, Memory: hostileMemory, Regions: hostileRegions, Hole: hostileHole,
	})
	a.must(err)
	a.t.Cleanup(p.Close)
	for _, hole := range holes(p) {
		hole.CopyFrom(bytes.Repeat([]byte{canary}, hostileHole), 0)
	}
	return p
}

// holes are the driver's view of what the device must not touch.
func holes(p *vqtest.Pair) (list []sharedmem.Block) {
	const size = hostileMemory / hostileRegions
	for i := range uint64(hostileRegions) {
		list = append(list, p.Driver.At(vqtest.PairGPA+(i+1)*size-hostileHole, hostileHole))
	}
	return list
}

// fight runs the worker and the mutators until enough has happened.
func (a *arena) fight() {
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := a.group.Run(ctx); err != nil {
			a.t.Error(err)
		}
	})
	w := a.group.Workers()[0]
	mode := worker.Poll
	if a.features.Has(virtio.EventIdx) {
		mode = worker.Adaptive // the mutators kick
	}
	for _, task := range []worker.Task{a.neighbour, a.toHostile, &a.visits} {
		a.must(w.Add(ctx, task, mode))
	}
	stopMutators := make(chan struct{})
	for i := range 2 {
		running.Go(func() { a.mutate(uint64(i), stopMutators) })
	}
	a.await()
	close(stopMutators)
	stop()
	running.Wait()
	a.judge()
}

// await returns when every kind of thing has happened often enough, or, on a
// busy machine, after a while.
func (a *arena) await() {
	limit, end := 8*time.Second, false
	if os.Getenv("VHOSTNET_SOAK") != "" {
		limit = time.Hour
	}
	for start := time.Now(); !end && time.Since(start) < limit; time.Sleep(10 * time.Millisecond) {
		s := a.hostile.Snapshot()
		end = limit < time.Hour && a.visits.restarts.Load() > 100 && a.visits.rxRestarts.Load() > 20 &&
			s.TxFrames > 2000 && s.RxFrames > 1000 && a.neighbour.arrived.Load() > 50_000
		if a.t.Failed() || a.visits.wrong.Load() != nil || a.neighbour.wrong.Load() != nil {
			return
		}
	}
}

// judge looks at what is left when all has stopped.
func (a *arena) judge() {
	for _, wrong := range []*atomic.Pointer[string]{&a.visits.wrong, &a.neighbour.wrong} {
		if text := wrong.Load(); text != nil {
			a.t.Error(*text)
		}
	}
	want := bytes.Repeat([]byte{canary}, hostileHole)
	for _, p := range []*vqtest.Pair{a.tx, a.rx} {
		for i, hole := range holes(p) {
			got := make([]byte, hostileHole)
			if hole.CopyTo(got, 0); !bytes.Equal(got, want) {
				a.t.Errorf("the hole behind region %d was written", i)
			}
		}
	}
	s := a.hostile.Snapshot()
	a.t.Logf("%d visits: %d frames sent, %d received, drops [%v]; broken %d times sending, %d receiving; %d frames of the neighbour",
		a.visits.count, s.TxFrames, s.RxFrames, s.Drops, a.visits.restarts.Load(), a.visits.rxRestarts.Load(), a.neighbour.arrived.Load())
	if s.TxFrames == 0 || s.RxFrames == 0 || a.visits.restarts.Load() == 0 || a.visits.rxRestarts.Load() == 0 || a.neighbour.arrived.Load() == 0 {
		a.t.Error("nothing was tested")
	}
}

// hostileTask is the hostile guest's transmit ring on the worker. It counts
// what each visit takes, and starts what was broken anew.
type hostileTask struct {
	a     *arena
	ring  *txRing
	count int
	seen  int // visits to the neighbour at the last visit

	restarts, rxRestarts atomic.Uint64
	wrong                atomic.Pointer[string]
}

// fail keeps the first thing that is wrong. A test must not be ended on a
// worker.
func (h *hostileTask) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	h.wrong.CompareAndSwap(nil, &text)
}

func (h *hostileTask) Poll(c *worker.Context, budget int) bool {
	n := h.a.neighbour
	if h.count++; h.count > 1 && n.visits == h.seen {
		h.fail("visit %d: the neighbour was not visited since the last one", h.count)
	}
	if n.visits > h.seen && n.least == 0 {
		h.fail("visit %d: a visit to the neighbour popped no chain", h.count)
	}
	h.seen, n.least = n.visits, visitChains

	serial, sent := *h.ring.serial, h.ring.dev.counters.TxBytes.Value()
	busy := h.ring.Poll(c, budget)
	chains, frameBytes := *h.ring.serial-serial, h.ring.dev.counters.TxBytes.Value()-sent
	if *h.ring.serial/nbl.SerialRange != serial/nbl.SerialRange {
		chains = *h.ring.serial % nbl.SerialRange
	}
	if chains > visitChains || frameBytes > visitBytes {
		h.fail("visit %d took %d chains and %d bytes, at most %d and %d are allowed", h.count, chains, frameBytes, visitChains, visitBytes)
	}
	if h.ring.q.Broken() != nil {
		h.restart()
	}
	if h.a.rxBroken.Swap(false) {
		h.restartRx()
	}
	return busy
}

func (h *hostileTask) restart() {
	h.restarts.Add(1)
	h.ring.abandon()
	if err := h.a.tx.Restart(nil); err != nil {
		h.fail("a broken ring does not start again: %v", err)
		return
	}
	h.ring = newTxRing(h.a.hostile, 1, h.a.tx.Queue)
}

func (h *hostileTask) restartRx() {
	h.rxRestarts.Add(1)
	h.a.hostile.nic.StopRx(0)
	if err := h.a.rx.Restart(nil); err != nil {
		h.fail("a broken ring does not start again: %v", err)
		return
	}
	h.a.hostile.nic.StartRx(0, h.a.rx.Queue, queues.Attributes{Features: h.a.features})
}

func (h *hostileTask) Arm() bool { return h.ring.Arm() }
func (h *hostileTask) FD() int   { return h.ring.FD() }
