package queues

import (
	"fmt"
	"testing"

	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// loop sends and delivers the same batch again and again, to a driver that posts
// its buffers again at once.
type loop struct {
	r     *rig
	s     *sender
	v     *receiver
	lists []*nbl.List
	used  []virtqueue.Used
}

func (r *rig) newLoop(f virtio.Features, buffers []int, packets ...packet) *loop {
	r.t.Helper()
	v := r.newReceiver(vqtest.Options{Features: f, Size: 1024, Memory: 8 << 20})
	v.post(buffers...)
	s := r.newSender(vqtest.Options{})
	return &loop{r, s, v, s.send(packets...), make([]virtqueue.Used, v.opts.Size)}
}

// turn is one delivery. It is called inside a Guard.
func (l *loop) turn() error {
	if err := l.s.again(l.lists); err != nil {
		return err
	}
	if n, _ := l.v.nic.Deliver(l.r.ctx, l.lists); n != len(l.lists) {
		return fmt.Errorf("accepted %d of %d", n, len(l.lists))
	}
	n, err := l.v.Driver.Reap(l.used)
	for _, u := range l.used[:n] {
		l.v.Driver.Post(u.Head)
	}
	l.v.Driver.Publish()
	return err
}

// Nothing on a frame's way allocates.
func TestDeliverAllocatesNothing(t *testing.T) {
	r := newRig(t, Options{})
	for name, l := range map[string]*loop{
		"plain":       r.newLoop(plainRx, repeat(64, 2000), plain(repeat(40, 1514)...)...),
		"mergeable":   r.newLoop(mergeable, repeat(1024, 512), plain(repeat(40, 1514)...)...),
		"64 KiB":      r.newLoop(mergeable, repeat(64, 1536), plain(65550)...),
		"softened":    r.newLoop(plainRx, repeat(64, 1600), packet{tso(1448), tcp4(60000, 1)}, packet{checksumHeader(), tcp4(500, 2)}),
		"too small":   r.newLoop(plainRx, repeat(4, 100), plain(1000, 1000)...),
		"empty batch": r.newLoop(plainRx, nil),
	} {
		must(t, sharedmem.Guard(func() error {
			var err error
			if n := testing.AllocsPerRun(50, func() {
				if e := l.turn(); e != nil {
					err = e
				}
			}); n != 0 {
				t.Errorf("%s: %v allocations per batch", name, n)
			}
			return err
		}))
	}

	// By several pairs.
	s := r.newSender(vqtest.Options{})
	n, rings := r.pairs(4)
	answers := r.flowsApart(n, s)
	for _, v := range rings {
		v.post(repeat(64, 500)...)
	}
	lists := s.send(packet{frame: answers[1]}, packet{frame: answers[2]}, packet{frame: answers[1]})
	must(t, sharedmem.Guard(func() error {
		if got := testing.AllocsPerRun(20, func() { n.NoteSent(3, lists[:0]); n.Deliver(r.ctx, lists) }); got != 0 {
			t.Errorf("several pairs: %v allocations per batch", got)
		}
		return nil
	}))
}

func BenchmarkDeliver(b *testing.B) {
	for _, bb := range []struct {
		name    string
		f       virtio.Features
		buffers []int
		packets []packet
	}{
		{"32x64B/plain", plainRx, repeat(256, 2048), plain(repeat(32, 64)...)},
		{"32x64B/mergeable", mergeable, repeat(256, 1536), plain(repeat(32, 64)...)},
		{"32x1514B/plain", plainRx, repeat(256, 2048), plain(repeat(32, 1514)...)},
		{"32x1514B/mergeable", mergeable, repeat(256, 1536), plain(repeat(32, 1514)...)},
		{"64KiB/plain", plainRx, repeat(8, 65562), plain(65536)},
		{"64KiB/mergeable", mergeable, repeat(256, 1536), plain(65536)},
		{"64KiB/mergeable-4K", mergeable, repeat(256, 4096), plain(65536)},
		{"64KiB/cut", mergeable, repeat(256, 1536), []packet{{tso(1448), tcp4(65160, 1)}}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			l := newRig(b, Options{}).newLoop(bb.f, bb.buffers, bb.packets...)
			bytes := 0
			for _, p := range bb.packets {
				bytes += len(p.frame)
			}
			b.SetBytes(int64(bytes))
			b.ReportAllocs()
			must(b, sharedmem.Guard(func() error {
				for b.Loop() {
					if err := l.turn(); err != nil {
						return err
					}
				}
				return nil
			}))
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(bb.packets)), "ns/frame")
		})
	}
}
