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

	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
	"vhostnet/worker"
)

// Several senders are half-way with a packet each. Every one goes on where it
// was, whoever came in between.
func TestSoftenedForSeveralInPortions(t *testing.T) {
	r := newRig(t, Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	var lists [][]*nbl.List
	var want [][][]byte
	for i := range progressSlots {
		s := r.newSender(vqtest.Options{})
		p := packet{tso(1000), tcp4(6000, i)}
		lists, want = append(lists, s.send(p)), append(want, segments(p.frame, 1000))
	}
	for round := range 3 { // two segments of each in every round
		for i := range lists {
			v.post(1100, 1100)
			if n := r.deliver(v.nic, lists[i]); n != round/2 || r.part != (round < 2) {
				t.Fatalf("round %d, sender %d: accepted %d, part %v", round, i, n, r.part)
			}
			v.expect(whole(want[i][2*round : 2*round+2]...)...)
			if round == 2 {
				continue
			}
			if n := r.deliver(v.nic, lists[i]); n != 0 || r.part {
				t.Fatalf("round %d, sender %d: accepted %d without buffers, part %v", round, i, n, r.part)
			}
		}
	}
	v.counted(6*progressSlots, nil)
	if v.nic.rings[0].halfway != (progressTable{}) {
		t.Errorf("progress of packets that are done is kept: %v", v.nic.rings[0].halfway)
	}
}

// When as many packets as there are slots are half-way, another one that does
// not fit whole is not begun; one that fits is delivered. A packet whose sender
// does not come any more makes room.
func TestProgressSlotsRunOut(t *testing.T) {
	r := newRig(t, Options{})
	r.ctx.SetNow(1e9)
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	var lists [][]*nbl.List
	for i := range progressSlots {
		lists = append(lists, r.newSender(vqtest.Options{}).send(packet{tso(1000), tcp4(3000, i)}))
		v.post(1100)
		if n := r.deliver(v.nic, lists[i]); n != 0 || !r.part {
			t.Fatalf("packet %d: accepted %d, part %v", i, n, r.part)
		}
		v.expect(whole(segments(tcp4(3000, i), 1000)[0])...)
	}
	late := r.newSender(vqtest.Options{})
	first := []packet{{frame: ethernet(60, 1)}, {tso(1000), tcp4(3000, 99)}, {frame: ethernet(60, 2)}}
	rest := late.send(first...)
	v.post(1100, 1100, 1100)
	if n := r.deliver(v.nic, rest); n != 1 || r.part {
		t.Fatalf("accepted %d, part %v; want the plain frame and nothing of the packet", n, r.part)
	}
	v.expect(whole(first[0].frame)...)
	v.post(1100)
	if n := r.deliver(v.nic, rest[1:]); n != 1 {
		t.Fatalf("accepted %d; want the packet, for which there are three buffers", n)
	}
	v.expect(whole(segments(first[1].frame, 1000)...)...)

	const cut = burstFrames + 3 // segments, more than a burst has frames
	long := packet{tso(900), tcp4(cut*900, 98)}
	longs := late.send(long)
	v.post(repeat(cut, 1100)...)
	if n := r.deliver(v.nic, longs); n != 0 || r.part {
		t.Fatalf("accepted %d, part %v of a packet that needs a slot", n, r.part)
	}
	v.expect()

	// All but the first are offered again, a little before their time.
	r.ctx.SetNow(r.ctx.Now() + progressAge - 1)
	want := [][]byte{}
	for i := 1; i < progressSlots; i++ {
		if n := r.deliver(v.nic, lists[i]); n != 1 {
			t.Fatalf("packet %d: accepted %d", i, n)
		}
		want = append(want, segments(tcp4(3000, i), 1000)[1:]...)
	}
	v.expect(whole(want...)...)
	const left = cut - 2*(progressSlots-1) // of the buffers
	if n := r.deliver(v.nic, longs); n != 0 || !r.part {
		t.Fatalf("accepted %d, part %v; want as much as %d buffers hold", n, r.part, left)
	}
	v.expect(whole(segments(long.frame, 900)[:left]...)...)
	v.post(repeat(cut-left, 1100)...)
	if n := r.deliver(v.nic, longs); n != 1 {
		t.Fatalf("accepted %d, want the rest", n)
	}
	v.expect(whole(segments(long.frame, 900)[left:]...)...)
}

// With all slots taken, the one that was not asked for longest goes first, and
// only when its time is over.
func TestProgressAge(t *testing.T) {
	var table progressTable
	for i := range table {
		*table.free(uint64(i+1), 100) = progress{uint64(i + 1), 5, 100 + int64(i)}
	}
	if s := table.free(99, 100+progressAge-1); s != nil {
		t.Errorf("the slot of packet %d before its time was over", s.serial)
	}
	if at := table.of(1, 200); at != 5 { // asks, so it is the youngest
		t.Errorf("packet 1 is at %d", at)
	}
	if s := table.free(99, 200+progressAge); s == nil || s.serial != 2 {
		t.Errorf("got %v, want the slot of packet 2", s)
	}
	if s := table.free(3, 100); s == nil || s.serial != 3 {
		t.Errorf("got %v, want packet 3's own slot", s)
	}
	table.forget(7)
	if s := table.free(99, 100); s == nil || s.serial != 0 {
		t.Errorf("got %v, want the free slot", s)
	}
}

// Two workers have packets for one ring that are cut on the way. No segment
// comes twice, none is missing, and each sender's come in order.
func TestWorkersSoftenIntoOneRing(t *testing.T) {
	g := workers(t)
	r := newRig(t, Options{Workers: 2, Quiesce: g.Quiesce})
	v := r.newReceiver(vqtest.Options{Features: plainRx, Size: 32, Memory: 1 << 20})
	v.post(repeat(16, 1100)...)
	const packets, perPacket = 60, 40
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var sending sync.WaitGroup
	for i, w := range g.Workers() {
		s := r.newSender(vqtest.Options{})
		frame := tcp4(perPacket*1000, i)
		frame[14+15] = byte(i) // the source address says who it is
		binary.BigEndian.PutUint16(frame[50:], fold(frame[26:34], []byte{0, 6}, []byte{byte((20 + perPacket*1000) >> 8), byte((20 + perPacket*1000) & 0xff)}))
		sending.Go(func() {
			for n := range packets {
				binary.BigEndian.PutUint32(frame[38:], uint32(n*perPacket*1000))
				if err := s.sendOn(ctx, w, v.nic, packet{tso(1000), frame}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var ended atomic.Bool
	count, done := [2]uint32{}, make(chan error, 1)
	go func() {
		err := collectSegments(v, &count, &ended)
		if err != nil {
			cancel()
		}
		done <- err
	}()
	sending.Wait()
	ended.Store(true)
	must(t, <-done)
	if count != [2]uint32{packets * perPacket, packets * perPacket} {
		t.Errorf("%v segments came, want %d of each sender", count, packets*perPacket)
	}
}

// sendOn delivers a packet on a worker, again and again until it is accepted.
func (s *sender) sendOn(ctx context.Context, w *worker.Worker, n *NIC, p packet) error {
	lists := s.send(p)
	for end := false; !end; runtime.Gosched() {
		var fault error
		err := w.Do(ctx, func(c *worker.Context) {
			fault = sharedmem.Guard(func() error {
				accepted, _ := n.Deliver(c, lists)
				end = accepted == 1
				return nil
			})
		})
		if err := errors.Join(err, fault); err != nil {
			return err
		}
	}
	s.Queue.Push([]virtqueue.Used{{Head: s.chains[0].Head}})
	_, err := s.Driver.Collect()
	return err
}

// collectSegments takes segments of 1000 bytes out and gives the buffers back,
// until ended and none are left. Each sender's must follow one another.
func collectSegments(v *receiver, count *[2]uint32, ended *atomic.Bool) error {
	used := make([]virtqueue.Used, v.opts.Size)
	for {
		last := ended.Load()
		n, err := v.Driver.Reap(used)
		if err != nil || n == 0 && last {
			return err
		}
		for _, u := range used[:n] {
			f := v.Driver.Written(u.Head, u.Len)[12:]
			who, seq := f[14+15], binary.BigEndian.Uint32(f[38:])
			if seq != count[who]*1000 || len(f) != 1054 || bytes.Equal(f[26:30], make([]byte, 4)) {
				return errors.New("a segment is missing, twice there or out of order")
			}
			count[who]++
			v.Driver.Post(u.Head)
		}
		v.Driver.Publish()
		runtime.Gosched()
	}
}
