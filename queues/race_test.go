package queues

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
	"vhostnet/worker"
)

// workers are two that run until the test ends.
func workers(t *testing.T) *worker.Group {
	t.Helper()
	g, err := worker.NewGroup(worker.Options{Workers: 2})
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	restore := worker.RaiseProcs(2)
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		must(t, <-done)
		restore()
	})
	return g
}

// source is a host on one worker that sends frames to a NIC until it is told to
// stop. Each frame says whose it is and which.
type source struct {
	id       uint16
	seq      uint32
	accepted uint64
	serial   uint64
	lists    []*nbl.List
	bytes    [][]byte
}

func newSource(id uint16) *source {
	s := &source{id: id, serial: uint64(id+1) << 48}
	for range 40 {
		s.lists = append(s.lists, new(nbl.List))
		s.bytes = append(s.bytes, make([]byte, 3000))
	}
	return s
}

// numbered is frame seq of source id: its length and content follow from them.
func numbered(into []byte, id uint16, seq uint32) []byte {
	f := into[:60+(seq*37+uint32(id)*11)%2900]
	copy(f, []byte{0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5})
	binary.BigEndian.PutUint16(f[14:], id)
	binary.BigEndian.PutUint32(f[16:], seq)
	for i := 20; i < len(f); i++ {
		f[i] = byte(seq) + byte(i)
	}
	return f
}

// batch delivers 40 more frames, trying again what is not accepted, as the
// switch does.
func (s *source) batch(c *worker.Context, n *NIC, stop *atomic.Bool) {
	for i, l := range s.lists {
		s.serial++
		l.FromBytes(numbered(s.bytes[i], s.id, s.seq), s.serial)
		s.seq++
	}
	for left := s.lists; len(left) > 0; {
		accepted, _ := n.Deliver(c, left)
		s.accepted += uint64(accepted)
		left = left[accepted:]
		if accepted == 0 {
			if stop.Load() {
				return
			}
			runtime.Gosched()
		}
	}
}

// sink is the guest's side: it takes frames out and gives the buffers back.
type sink struct {
	v      *receiver
	last   map[uint16]uint32 // sequence number of each source's last frame, plus one
	frames uint64
	want   []byte
}

// collect reads what came, and answers whether anything did.
func (k *sink) collect() (bool, error) {
	used := make([]virtqueue.Used, k.v.opts.Size)
	n, err := k.v.Driver.Reap(used)
	if n == 0 || err != nil {
		return false, err
	}
	for at := 0; at < n; {
		first := k.v.Driver.Written(used[at].Head, used[at].Len)
		count := int(binary.LittleEndian.Uint16(first[10:]))
		frame := first[12:]
		for _, u := range used[at+1 : at+count] {
			frame = append(frame, k.v.Driver.Written(u.Head, u.Len)...)
		}
		at += count
		id, seq := binary.BigEndian.Uint16(frame[14:]), binary.BigEndian.Uint32(frame[16:])
		if !bytes.Equal(frame, numbered(k.want, id, seq)) {
			return true, errors.New("a frame differs from what was sent")
		}
		if seq < k.last[id] {
			return true, errors.New("a source's frames are out of order, or twice there")
		}
		k.last[id] = seq + 1
		k.frames++
	}
	for _, u := range used[:n] {
		k.v.Driver.Post(u.Head)
	}
	k.v.Driver.Publish()
	return true, nil
}

// Rings come and go under two workers that deliver all the time. No frame comes
// twice, torn or out of order, and each is either in the ring or counted.
func TestRingsChangeUnderDelivery(t *testing.T) {
	g := workers(t)
	r := newRig(t, Options{Workers: 2, Quiesce: g.Quiesce})
	v := r.newReceiver(vqtest.Options{Features: mergeable, Memory: 1 << 20})
	v.nic.SetMemory(v.Mem)
	v.post(repeat(200, 700)...)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	var stop atomic.Bool
	var sending, receiving sync.WaitGroup
	sources := []*source{newSource(0), newSource(1)}
	for i, s := range sources {
		sending.Go(func() {
			for !stop.Load() {
				var fault error
				err := g.Workers()[i].Do(ctx, func(c *worker.Context) {
					fault = sharedmem.Guard(func() error { s.batch(c, v.nic, &stop); return nil })
				})
				if err := errors.Join(err, fault); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	k := &sink{v: v, last: map[uint16]uint32{}, want: make([]byte, 3000)}
	var ended atomic.Bool
	receiving.Go(func() {
		for last := false; ; {
			some, err := k.collect()
			if err != nil {
				t.Error(err)
				stop.Store(true)
				return
			}
			if !some && last {
				return
			}
			last = !some && ended.Load()
			runtime.Gosched()
		}
	})

	session(ctx, t, r, v, &stop)
	stop.Store(true)
	sending.Wait()
	ended.Store(true)
	receiving.Wait()

	drops := v.nic.counters.Drops.Snapshot()
	if got := v.nic.counters.RxFrames.Value(); got != k.frames {
		t.Errorf("%d frames are counted, %d came", got, k.frames)
	}
	if sent := sources[0].accepted + sources[1].accepted; sent != k.frames+drops.Total() {
		t.Errorf("%d frames were accepted, %d came, %s were dropped", sent, k.frames, drops)
	}
	if other := drops.Total() - drops[metrics.ReasonStopped] - drops[metrics.ReasonDisabled]; other != 0 || len(r.told()) == 0 {
		t.Errorf("drops: %s", drops)
	}
	if k.frames == 0 || drops[metrics.ReasonStopped] == 0 || drops[metrics.ReasonDisabled] == 0 {
		t.Errorf("%d frames came, %s were dropped: the test has not met every state", k.frames, drops)
	}
	if out := v.nic.rings[0].pool.Out(); out != 0 {
		t.Errorf("%d receive NBLs are out", out)
	}
}

// A driver that gives few buffers, one after the other, makes a frame wait, but
// costs none: a buffer that comes while the ring is found empty is no sign that
// the frame cannot be held.
func TestBuffersComeMeanwhile(t *testing.T) {
	r := newRig(t, Options{})
	v := r.newReceiver(vqtest.Options{Features: mergeable, Memory: 1 << 20})
	v.post(repeat(8, 400)...) // the longest frame takes them all
	s := newSource(0)
	k := &sink{v: v, last: map[uint16]uint32{}, want: make([]byte, 3000)}
	var stop atomic.Bool
	done := make(chan error, 1)
	go func() {
		for {
			last := stop.Load() // before the look: what came until then is found
			some, err := k.collect()
			if err != nil || !some && last {
				done <- err
				return
			}
		}
	}()
	const count = 5_000
	var l nbl.List
	var waits int
	must(t, sharedmem.Guard(func() error {
		for ; s.seq < count; s.seq++ {
			l.FromBytes(numbered(s.bytes[0], 0, s.seq), uint64(s.seq)+1)
			for {
				if n, _ := v.nic.Deliver(r.ctx, []*nbl.List{&l}); n > 0 {
					break
				}
				waits++
				runtime.Gosched()
			}
		}
		return nil
	}))
	stop.Store(true)
	must(t, <-done)
	v.counted(count, nil)
	if k.frames != count || waits == 0 {
		t.Errorf("%d frames of %d came, %d waits", k.frames, count, waits)
	}
}

// session changes the ring in every way that there is, each at a moment at
// which frames arrive, until each way was met often enough.
func session(ctx context.Context, t *testing.T, r *rig, v *receiver, stop *atomic.Bool) {
	counters := v.nic.counters
	delivered := func() { waitFor(ctx, t, stop, counters.RxFrames.Value) }
	dropped := func(reason metrics.Reason) {
		waitFor(ctx, t, stop, func() uint64 { return counters.Drops.Snapshot()[reason] })
	}
	at := Attributes{Features: v.opts.Features}
	for range 8 {
		delivered()
		v.nic.EnableRx(0, false)
		dropped(metrics.ReasonDisabled)
		v.nic.EnableRx(0, true)
		delivered()
		must(t, v.nic.ReplaceRx(0, v.remake))
		delivered()
		state, ok := v.nic.StopRx(0)
		if !ok {
			t.Error("no ring to stop")
		}
		dropped(metrics.ReasonStopped)
		v.restart(state, at)

		// Meanwhile the VM's queue comes and goes.
		id := r.allocate(v.nic)
		_, err := r.SetFilter(id, filterOf(1))
		must(t, err)
		r.CompleteAllocation([]QueueID{id})
		must(t, r.Remake(id))
		must(t, r.ClearFilters(id))
		must(t, r.FreeQueue(ctx, id))
	}
}

// waitFor waits until a count has grown.
func waitFor(ctx context.Context, t *testing.T, stop *atomic.Bool, count func() uint64) {
	for before := count(); count() == before && !stop.Load(); runtime.Gosched() {
		if ctx.Err() != nil {
			t.Error("nothing moves any more")
			stop.Store(true)
		}
	}
}

// Each worker softens in its own arena.
func TestWorkersSoftenApart(t *testing.T) {
	g := workers(t)
	r := newRig(t, Options{Workers: 2, Quiesce: g.Quiesce})
	var done sync.WaitGroup
	var check []func()
	for i, w := range g.Workers() {
		s := r.newSender(vqtest.Options{})
		v := r.newReceiver(vqtest.Options{Features: plainRx, Size: 1024})
		v.post(repeat(500, 1600)...)
		var packets []packet
		var want [][]byte
		for j := range 8 {
			p := packet{tso(1448), tcp4(60000, 10*i+j)}
			packets, want = append(packets, p), append(want, segments(p.frame, 1448)...)
		}
		lists := s.send(packets...)
		done.Go(func() {
			err := w.Do(context.Background(), func(c *worker.Context) {
				if n, _ := v.nic.Deliver(c, lists); n != len(lists) {
					t.Errorf("worker %d: accepted %d of %d", i, n, len(lists))
				}
			})
			if err != nil {
				t.Error(err)
			}
		})
		check = append(check, func() { v.expect(whole(want...)...) })
	}
	done.Wait()
	for _, f := range check {
		f()
	}
}
