package netdev

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
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
	if *h.ring.serial/serialRange != serial/serialRange {
		chains = *h.ring.serial % serialRange
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

// neighbourTask is the neighbour's transmit ring. Before each visit it plays
// both drivers, so that there are chains to pop and buffers to fill.
type neighbourTask struct {
	a        *arena
	ring     *txRing
	from, to *vqtest.Pair
	frames   [256]sharedmem.Block // by head: what is sent
	buffers  [256]sharedmem.Block // by head: where it arrives
	used     [256]virtqueue.Used
	sent     uint32
	next     uint32 // the number of the frame that is to arrive next
	visits   int
	least    int // chains that a visit popped since the last look

	arrived atomic.Uint64
	wrong   atomic.Pointer[string]
}

const neighbourBuffer = 2048

// post adds the neighbour's frames and the receiver's buffers.
func (n *neighbourTask) post() {
	for i := range 8 {
		frame := make([]byte, 12+60+i*200)
		copy(frame[12:], neighbourMAC[:])
		copy(frame[18:], senderMAC[:])
		binary.BigEndian.PutUint16(frame[24:], marked)
		for j := 30; j < len(frame); j++ {
			frame[j] = byte(i + j)
		}
		at, head := n.put(n.from, uint32(len(frame)), false)
		at.CopyFrom(frame, 0)
		n.frames[head] = at
		n.number(head)
	}
	for range 256 {
		at, head := n.put(n.to, neighbourBuffer, true)
		n.buffers[head] = at
	}
	for _, p := range []*vqtest.Pair{n.from, n.to} {
		p.Driver.NoCalls()
		p.Driver.Publish()
	}
}

// put adds a chain of one buffer.
func (n *neighbourTask) put(p *vqtest.Pair, length uint32, write bool) (at sharedmem.Block, head uint16) {
	gpa, err := p.Driver.Alloc(int(length))
	n.a.must(err)
	head, err = p.Driver.Put(vqtest.Layout{Buffers: []vqtest.Buffer{{GPA: gpa, Len: length, Write: write}}})
	n.a.must(err)
	return p.Driver.At(gpa, uint64(length)), head
}

// number writes the next number into a frame that is about to be sent.
func (n *neighbourTask) number(head uint16) {
	n.frames[head].Store32(26, n.sent)
	n.sent++
}

func (n *neighbourTask) Poll(c *worker.Context, budget int) bool {
	n.drivers()
	serial := *n.ring.serial
	n.ring.Poll(c, budget)
	n.visits++
	popped := int(*n.ring.serial - serial)
	n.least = min(n.least, popped)
	return true
}

// drivers takes back what the device is done with and posts it again.
func (n *neighbourTask) drivers() {
	k, err := n.from.Driver.Reap(n.used[:])
	if err != nil {
		n.fail("the sender's ring: %v", err)
	}
	for _, u := range n.used[:k] {
		n.number(u.Head)
		n.from.Driver.Post(u.Head)
	}
	n.from.Driver.Publish()
	if k, err = n.to.Driver.Reap(n.used[:]); err != nil {
		n.fail("the receiver's ring: %v", err)
	}
	for _, u := range n.used[:k] {
		n.check(u)
		n.to.Driver.Post(u.Head)
	}
	n.to.Driver.Publish()
}

func (n *neighbourTask) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	n.wrong.CompareAndSwap(nil, &text)
}

// check wants the neighbour's frames complete, in order and unaltered, and
// what lies behind any frame as it was.
func (n *neighbourTask) check(u virtqueue.Used) {
	at := n.buffers[u.Head]
	var frame [neighbourBuffer]byte
	at.CopyTo(frame[:], 0)
	for _, behind := range frame[u.Len:] {
		if behind != 0 {
			n.fail("a frame of %d bytes was written over", u.Len)
			break
		}
	}
	at.Zero()
	if binary.BigEndian.Uint16(frame[24:]) != marked || !bytes.Equal(frame[18:24], senderMAC[:]) {
		return // the hostile guest's
	}
	n.arrived.Add(1)
	number := binary.NativeEndian.Uint32(frame[26:])
	i := (int(u.Len) - 12 - 60) / 200
	if number != n.next || int(u.Len) != 12+60+i*200 {
		n.fail("frame %d of %d bytes arrived, want frame %d", number, u.Len, n.next)
	}
	n.next = number + 1
	for j := 30; j < int(u.Len); j++ {
		if frame[j] != byte(i+j) {
			n.fail("frame %d was changed at byte %d", number, j)
			return
		}
	}
}

func (n *neighbourTask) Arm() bool { return true }
func (n *neighbourTask) FD() int   { return -1 }

// floodTask sends to the hostile guest.
type floodTask struct {
	ring *txRing
	from *vqtest.Pair
	used [256]virtqueue.Used
}

func (f *floodTask) post(t *testing.T) {
	t.Helper()
	for i := range 16 {
		frame := make([]byte, 12+60+i*400)
		copy(frame[12:], hostileMAC[:])
		copy(frame[18:], []byte{2, 0, 0, 0, 0, 9, 0x88, 0xb5})
		if _, err := f.from.Driver.Add(vqtest.Request{Out: [][]byte{frame}}); err != nil {
			t.Fatal(err)
		}
	}
	f.from.Driver.NoCalls()
	f.from.Driver.Publish()
}

func (f *floodTask) Poll(c *worker.Context, budget int) bool {
	n, err := f.from.Driver.Reap(f.used[:])
	if err != nil {
		panic(errors.Join(errors.New("the driver that sends to the hostile guest"), err))
	}
	for _, u := range f.used[:n] {
		f.from.Driver.Post(u.Head)
	}
	f.from.Driver.Publish()
	f.ring.Poll(c, budget)
	return true
}

func (f *floodTask) Arm() bool { return true }
func (f *floodTask) FD() int   { return -1 }

// mutate writes what may be right, and now and then what is wrong, into every
// word of the hostile guest.
func (a *arena) mutate(seed uint64, stop <-chan struct{}) {
	m := &mutator{r: rand.New(rand.NewPCG(seed, 42)), split: !a.features.Has(virtio.RingPacked)}
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		m.spoil(a.tx.Driver, 0)
		m.spoil(a.rx.Driver, vqtest.FlagWrite)
		if n%64 == 0 {
			a.tx.Kick.Signal()
		}
	}
}

type mutator struct {
	r     *rand.Rand
	split bool
}

// spoil writes one thing into d's memory; direction is the flag of its good
// descriptors.
func (m *mutator) spoil(d *vqtest.Driver, direction uint16) {
	i := uint32(m.r.IntN(hostileSize))
	switch {
	case m.r.IntN(4) == 0:
		m.header(d)
	case m.r.IntN(4) == 0:
		m.descriptor(d, hostileTable, uint32(m.r.IntN(tableEntries)), direction, true)
	case m.split && m.r.IntN(2) == 0:
		m.avail(d)
	default:
		m.descriptor(d, vqtest.PairGPA+d.Rings().Desc, i, direction, false)
	}
}

// descriptor writes entry i of a table.
func (m *mutator) descriptor(d *vqtest.Driver, table uint64, i uint32, direction uint16, nested bool) {
	length := []uint32{12, 26, 72, 1526, 2000, 9000, 65000}[m.r.IntN(7)]
	addr := m.place(length)
	flags, next := direction, uint16(i+1)
	if m.r.IntN(3) == 0 && i%8 < 7 {
		flags |= vqtest.FlagNext
	}
	rare := 256
	if !m.split { // most of what is written is not for the device anyway, and most chains are no whole ones
		rare = 64
		flags &^= uint16(m.r.IntN(8)) & vqtest.FlagNext
	}
	switch m.r.IntN(rare) {
	case 0:
		length = m.r.Uint32()
	case 1:
		length = 0
	case 2:
		next = uint16(m.r.IntN(2 * hostileSize))
	case 3:
		flags ^= vqtest.FlagWrite
	case 4:
		addr = m.r.Uint64()
	case 5:
		addr = hostileBuffers + m.r.Uint64N(hostileMemory) // over holes, and behind the end
	case 6, 7, 8, 9, 10, 11, 12, 13, 14, 15:
		if nested && m.r.IntN(8) > 0 {
			break
		}
		addr, length, flags = hostileTable, 16*(1+m.r.Uint32N(tableEntries)), vqtest.FlagIndirect
	case 16:
		length += m.r.Uint32N(16)
	}
	at := d.At(table+16*uint64(i), 16)
	at.Store64(0, addr)
	if m.split {
		at.Store64(8, uint64(length)|uint64(flags)<<32|uint64(next)<<48)
		return
	}
	flags |= uint16(m.r.IntN(2)<<7 | m.r.IntN(2)<<15) // AVAIL and USED: for the device in one case of four
	at.Store64(8, uint64(length)|uint64(m.r.Uint32N(hostileSize))<<32|uint64(flags)<<48)
}

// place is an address of length bytes in one region.
func (m *mutator) place(length uint32) uint64 {
	const size = hostileMemory / hostileRegions
	region := 1 + m.r.Uint64N(hostileRegions-1)
	return vqtest.PairGPA + region*size + m.r.Uint64N(size-hostileHole-uint64(length))
}

// avail writes an entry of a split ring and moves its index on.
func (m *mutator) avail(d *vqtest.Driver) {
	at := d.Rings()
	entry := m.r.Uint64N(hostileSize)
	head := uint16(m.r.IntN(hostileSize))
	if m.r.IntN(2048) == 0 {
		head = uint16(m.r.Uint32())
	}
	avail := d.At(vqtest.PairGPA+at.Avail, 4+2*hostileSize)
	avail.Store16(uint32(4+2*entry), head)
	idx := avail.Load16(2)
	if used := d.At(vqtest.PairGPA+at.Used, 4).Load16(2); idx-used < hostileSize/2 {
		idx += uint16(m.r.IntN(4))
	} else if idx-used > hostileSize {
		idx = used // after the ring was broken
	}
	if m.r.IntN(2048) == 0 {
		idx = uint16(m.r.Uint32())
	}
	avail.StoreRelease32(0, uint32(idx)<<16|uint32(m.r.IntN(2)))
}

// header writes virtio_net_hdr and the start of a frame somewhere.
func (m *mutator) header(d *vqtest.Driver) {
	var b [12 + 54]byte
	h := virtio.NetHeader{CsumStart: 34, CsumOffset: 16}
	h.Flags, h.GSOType = uint8(m.r.IntN(2)), uint8(m.r.IntN(2))
	h.GSOSize = []uint16{0, 47, 48, 500, 1448, 65535}[m.r.IntN(6)]
	if m.r.IntN(8) == 0 {
		h.CsumStart, h.CsumOffset, h.GSOType = uint16(m.r.Uint32()), uint16(m.r.Uint32()), uint8(m.r.Uint32())
	}
	h.Encode(b[:])
	copy(b[12:], [][]byte{hostileMAC[:], neighbourMAC[:], {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}[m.r.IntN(3)])
	copy(b[18:], []byte{2, 0, 0, 0, 1, byte(m.r.Uint32()), 0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6})
	b[12+46] = 0x50
	d.At(m.place(uint32(len(b))), uint64(len(b))).CopyFrom(b[:], 0)
}
