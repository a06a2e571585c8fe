package netdev

import (
	"context"
	"fmt"
	"testing"

	"vhostnet/queues"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
	"vhostnet/vswitch"
	"vhostnet/worker"
)

// path is the whole way of a frame without a socket or a second core: a
// driver's transmit ring, the device, the switch, another device, a driver's
// receive ring, all on this goroutine.
type path struct {
	c        *worker.Context
	tx       *txRing
	receiver *Device
	from, to *vqtest.Pair
	heads    []uint16
	used     [visitChains]virtqueue.Used
}

// newPath is a path with frames and buffers posted.
func newPath(tb testing.TB, f virtio.Features, size, buffer int) *path {
	tb.Helper()
	p := emptyPath(tb, f)
	p.post(tb, size, buffer)
	if !p.receiver.o.Switch.Teach(p.c, p.receiver.Port(), vswitch.Address{MAC: [6]byte{2, 0, 0, 0, 0, 2}}) {
		tb.Fatal("the switch did not learn where the frames go")
	}
	return p
}

// emptyPath is a path whose drivers have accepted f and posted nothing.
func emptyPath(tb testing.TB, f virtio.Features) *path {
	tb.Helper()
	return widePath(tb, f, 2, 0)
}

// widePath is an emptyPath on a switch with more ports, which are idle, and a
// table of so many entries at most; 0: the default.
func widePath(tb testing.TB, f virtio.Features, ports, entries int) *path {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	group, err := worker.NewGroup(worker.Options{Workers: 1})
	must(err)
	sw, err := vswitch.New(vswitch.Options{MaxEntries: entries})
	must(err)
	adapter, err := queues.NewAdapter(queues.Options{Workers: 1, Quiesce: func(context.Context) error { return nil }})
	must(err)
	must(adapter.Restart())
	tb.Cleanup(func() { must(adapter.Close(context.Background())) })
	devices := make([]*Device, ports)
	for i := range devices {
		devices[i], err = New(Options{Name: fmt.Sprintf("port%d", i), Pairs: 1, Adapter: adapter, Switch: sw, Group: group})
		must(err)
		devices[i].features.Store(uint64(f))
	}
	p := &path{c: worker.NewTestContext(), receiver: devices[1]}
	for _, pair := range []**vqtest.Pair{&p.from, &p.to} {
		*pair, err = vqtest.NewPair(vqtest.Options{Size: 512, Features: f, Memory: 64 << 20})
		must(err)
		tb.Cleanup((*pair).Close)
	}
	p.tx = newTxRing(devices[0], 1, p.from.Queue)
	devices[1].nic.StartRx(0, p.to.Queue, queues.Attributes{Features: f})
	devices[1].nic.EnableRx(0, true)
	return p
}

// post adds visitChains frames of size bytes to the transmit ring and as many
// buffers as they need to the receive ring.
func (p *path) post(tb testing.TB, size, buffer int) {
	tb.Helper()
	for i := range visitChains {
		frame := make([]byte, 12+size)
		copy(frame[12:], []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5})
		for j := 26; j < len(frame); j++ {
			frame[j] = byte(i + j)
		}
		head, err := p.from.Driver.Add(vqtest.Request{Out: [][]byte{frame}})
		if err != nil {
			tb.Fatal(err)
		}
		p.heads = append(p.heads, head)
	}
	for range 256 {
		if _, err := p.to.Driver.Add(vqtest.Request{In: []int{buffer}}); err != nil {
			tb.Fatal(err)
		}
	}
	for _, pair := range []*vqtest.Pair{p.from, p.to} {
		pair.Driver.NoCalls() // the drivers poll
		pair.Driver.Publish()
	}
}

// carry lets the device carry the frames that are posted, and posts the same
// again. It answers how many were carried.
func (p *path) carry(tb testing.TB) (frames int) {
	if !p.tx.Poll(p.c, visitChains) {
		tb.Fatal("the device found nothing to do")
	}
	for _, pair := range []*vqtest.Pair{p.from, p.to} {
		n, err := pair.Driver.Reap(p.used[:])
		if err != nil || n == 0 {
			tb.Fatalf("%d chains came back: %v", n, err)
		}
		frames = n // buffers hold a frame each, so both directions agree
		for _, u := range p.used[:n] {
			pair.Driver.Post(u.Head)
		}
		pair.Driver.Publish()
	}
	return frames
}

// pathRings are the formats of rings, by the feature that asks for them.
var pathRings = map[string]virtio.Features{"split": 0, "packed": virtio.RingPacked}

const pathFeatures = virtio.Version1 | virtio.NetMrgRxBuf | virtio.InOrder | virtio.IndirectDesc

// The packet's way allocates nothing, whatever the frame's size.
func TestPathDoesNotAllocate(t *testing.T) {
	for name, f := range pathRings {
		for _, size := range []int{64, 1518, 9000} {
			p := newPath(t, pathFeatures|f, size, max(2048, size+12))
			err := sharedmem.Guard(func() error {
				p.carry(t)
				if n := testing.AllocsPerRun(100, func() { p.carry(t) }); n != 0 {
					t.Errorf("%s, %d bytes: %v allocations per batch", name, size, n)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A visit carries as many frames as it was told, however many there are and
// however fast a guest gives new ones.
func TestV74_VisitIsBounded(t *testing.T) {
	for name, f := range pathRings {
		p := newPath(t, pathFeatures|f, 64, 2048)
		for range 100 { // the ring is full of frames
			head, err := p.from.Driver.Add(vqtest.Request{Out: [][]byte{make([]byte, 76)}})
			if err != nil {
				t.Fatal(err)
			}
			p.heads = append(p.heads, head)
		}
		p.from.Driver.Publish()
		err := sharedmem.Guard(func() error {
			for _, budget := range []int{1, 3, visitChains} {
				if !p.tx.Poll(p.c, budget) {
					t.Errorf("%s: a visit found nothing", name)
				}
				n, err := p.from.Driver.Reap(p.used[:])
				if n != budget || err != nil {
					t.Errorf("%s: a visit of %d chains carried %d, %v", name, budget, n, err)
				}
				for _, u := range p.used[:n] {
					p.from.Driver.Post(u.Head)
				}
				p.from.Driver.Publish()
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkPath is the cost of a frame from one driver's ring to another's on
// one core with hot caches, drivers included.
func BenchmarkPath(b *testing.B) {
	for _, size := range []int{64, 256, 512, 1024, 1518, 9000, 65000} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) { benchmarkPath(b, pathFeatures, size) })
	}
	for _, size := range []int{64, 1518} {
		b.Run(fmt.Sprintf("%dB-packed", size), func(b *testing.B) { benchmarkPath(b, pathFeatures|virtio.RingPacked, size) })
	}
	b.Run("64B-256-ports", func(b *testing.B) { benchmarkWide(b, 256, 10, 10) })
	b.Run("64B-10-stations", func(b *testing.B) { benchmarkWide(b, 2, 10, 10) })
	b.Run("64B-100000-stations", func(b *testing.B) { benchmarkWide(b, 2, manyEntries, 10) })
	b.Run("64B-to-100000-stations", func(b *testing.B) { benchmarkWide(b, 2, manyEntries, manyEntries) })
}

// benchmarkWide is benchmarkPath on a switch with more ports, or stations, of
// which so many are used.
func benchmarkWide(b *testing.B, ports, stations, used int) {
	p := newRowPath(b, pathFeatures, ports, 2*stations, plainFrame(64), visitChains, 256, 2048)
	err := sharedmem.Guard(func() error {
		for i := range stations {
			p.teach(b, i)
		}
		send := p.spread(b, used)
		send()
		b.ReportAllocs()
		b.ResetTimer()
		for n := 0; n < b.N; {
			_, frames := send()
			n += frames
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}

func benchmarkPath(b *testing.B, f virtio.Features, size int) {
	p := newPath(b, f, size, max(2048, size+12))
	b.ReportAllocs()
	b.SetBytes(int64(size))
	err := sharedmem.Guard(func() error {
		p.carry(b)
		b.ResetTimer()
		for n := 0; n < b.N; {
			n += p.carry(b)
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
