package queues

import (
	"bytes"
	"slices"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// softReceiver is a receiver whose memory can be taken away, and how.
func (r *rig) softReceiver(o vqtest.Options) (v *receiver, truncate func(bytes uint64)) {
	r.t.Helper()
	if o.Memory == 0 {
		o.Memory = 1 << 20
	}
	file, fd := softFile(r.t, o.Memory)
	o.File = file
	return r.newReceiver(o), func(bytes uint64) { must(r.t, sys.Truncate(fd, bytes)) }
}

// V32, V53: the receiver's memory is gone, wherever the delivery stands. Its
// ring is broken, its owner told once, the frames are counted drops, the sender
// has all of its chains, and nothing was published. When the memory is back a
// new start goes on at the same buffers.
func TestV32_ReceiverFaults(t *testing.T) {
	const ring = 8192 // bytes that a ring of 256 takes; buffers of 2000 follow, each in 2048
	for _, tt := range []struct {
		name     string
		f        virtio.Features
		buffers  []int
		packets  []packet
		truncate uint64
	}{
		{"in Pop", plainRx, repeat(8, 2000), plain(repeat(4, 1514)...), 0},
		{"at the first header", plainRx, repeat(8, 2000), plain(repeat(4, 1514)...), ring},
		{"at a later header", plainRx, repeat(8, 2000), plain(repeat(6, 1514)...), ring + 8192},
		{"in a payload", plainRx, []int{8000, 8000}, plain(60, 7900), ring + 8192 + 4096},
		{"in the first piece", mergeable, repeat(8, 2000), plain(9000), ring},
		{"in the last piece", mergeable, repeat(8, 2000), plain(9000), ring + 8192},
		{"in a segment", plainRx, repeat(16, 2000), []packet{{tso(1000), tcp4(9000, 1)}}, ring + 8192},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Options{})
			s := r.newSender(vqtest.Options{})
			v, truncate := r.softReceiver(vqtest.Options{Features: tt.f})
			if v.ringBytes() != ring {
				t.Fatalf("the ring takes %d bytes", v.ringBytes())
			}
			v.post(tt.buffers...)
			image := make([]byte, ring)
			v.Driver.At(vqtest.PairGPA, ring).CopyTo(image, 0)
			lists := s.send(tt.packets...)
			truncate(tt.truncate)
			if n := r.deliver(v.nic, lists); n != len(lists) {
				t.Fatalf("accepted %d of %d", n, len(lists))
			}
			if n := r.deliver(v.nic, lists[:1]); n != 1 {
				t.Fatalf("the broken ring accepted %d", n)
			}
			v.counted(0, map[metrics.Reason]int{metrics.ReasonFault: len(lists), metrics.ReasonBroken: 1})
			if events := r.told(); !slices.Equal(events, []string{"broken 0"}) || !v.nic.RxBroken(0) || signals(t, v.Err) != 1 {
				t.Errorf("events %v, broken %v", events, v.nic.RxBroken(0))
			}
			wantFault(t, v.Queue.Broken(), v.Mem)
			s.complete(len(lists))

			state, _ := v.nic.StopRx(0)
			if state != at(0) {
				t.Errorf("the ring stands at %v", state)
			}
			truncate(v.opts.Memory)
			v.Driver.At(vqtest.PairGPA, ring).CopyFrom(image, 0)
			v.fill()
			v.restart(state, Attributes{Features: tt.f})
			if n := r.deliver(v.nic, s.send(plain(100, 101)...)); n != 2 {
				t.Fatalf("healed, it accepted %d", n)
			}
			v.expect(whole(ethernet(100, 0), ethernet(101, 1))...)
		})
	}
}

// complete gives the sender its first n chains back.
func (s *sender) complete(n int) {
	s.t.Helper()
	var used []virtqueue.Used
	for i := range n {
		used = append(used, virtqueue.Used{Head: uint16(2 * i)}) // header and frame have a descriptor each
	}
	must(s.t, sharedmem.Guard(func() error { s.Queue.Push(used); return s.Queue.Broken() }))
	if done, err := s.Driver.Collect(); err != nil || len(done) != n {
		s.t.Errorf("%d of %d chains came back to the sender, %v", len(done), n, err)
	}
}

// V32: the used ring is gone when the delivery is to be published. Buffers lie
// in the part of the descriptor table that nobody uses, so that they are there.
func TestV32_ReceiverFaultsInPush(t *testing.T) {
	const start, used = 400, 5 * 4096 // the entry of that index lies behind
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v, truncate := r.softReceiver(vqtest.Options{Features: plainRx, Size: 1024, Start: start})
	for i := range uint16(2) {
		v.Driver.SetDesc(i, vqtest.PairGPA+8192+2048*uint64(i), 2048, vqtest.FlagWrite, 0)
		v.Driver.SetAvailEntry(start+i, i)
	}
	v.Driver.SetAvailIdx(start + 2)
	truncate(used)
	if n := r.deliver(v.nic, s.send(plain(60, 61, 62)...)); n != 3 {
		t.Fatalf("accepted %d", n)
	}
	v.counted(0, map[metrics.Reason]int{metrics.ReasonFault: 3})
	if events := r.told(); !slices.Equal(events, []string{"broken 0"}) || v.Driver.UsedIdx() != start {
		t.Errorf("events %v, used.idx %d", events, v.Driver.UsedIdx())
	}
	frame := make([]byte, 60)
	if v.Driver.At(vqtest.PairGPA+8192+12, 60).CopyTo(frame, 0); !bytes.Equal(frame, ethernet(60, 0)) {
		t.Error("the fault came before the copy")
	}
	if state, _ := v.nic.StopRx(0); state.Avail != start || state.Used != start {
		t.Errorf("the ring stands at %v", state)
	}
}

// A later burst finds the memory gone: what came before is delivered.
func TestReceiverFaultsInLaterBurst(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v, truncate := r.softReceiver(vqtest.Options{Features: plainRx})
	v.post(repeat(burstFrames+8, 2000)...)
	packets := plain(repeat(burstFrames+8, 1514)...)
	lists := s.send(packets...)
	truncate(v.ringBytes() + (burstFrames+2)*2048) // whole pages
	if n := r.deliver(v.nic, lists); n != len(lists) {
		t.Fatalf("accepted %d", n)
	}
	v.counted(burstFrames, map[metrics.Reason]int{metrics.ReasonFault: 8})
	used := make([]virtqueue.Used, 2*burstFrames)
	if n, err := v.Driver.Reap(used); n != burstFrames || err != nil {
		t.Errorf("%d buffers came back, %v", n, err)
	}
	if got := signals(t, v.Call); got != 1 {
		t.Errorf("%d calls", got)
	}
}

// V32, V53: it is the sender's memory that is gone. The fault goes on to the
// sender, and the receiver's ring is as it was: the next frames find the same
// buffers.
func TestV32_SenderFaults(t *testing.T) {
	for _, tt := range []struct {
		name    string
		f       virtio.Features
		buffers []int
		bad     packet
	}{
		{"in a copy", plainRx, repeat(2*burstFrames, 2000), packet{frame: ethernet(1514, 99)}},
		{"in a merged copy", mergeable, repeat(8*burstFrames, 500), packet{frame: ethernet(1514, 99)}},
		{"in a checksum", plainRx, repeat(2*burstFrames, 2000), packet{checksumHeader(), tcp4(1400, 99)}},
		{"in a segmentation", mergeable, repeat(8*burstFrames, 500), packet{tso(1000), tcp4(9000, 99)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, Options{})
			const memory = 1 << 20
			file, fd := softFile(t, memory)
			evil := r.newSender(vqtest.Options{Size: 64, Memory: memory, File: file})
			good := r.newSender(vqtest.Options{})
			v := r.newReceiver(vqtest.Options{Features: tt.f, Size: 1024})
			v.post(tt.buffers...)
			packets := plain(repeat(burstFrames+8, 1514)...)
			lists := good.send(packets...)
			bad := evil.send(tt.bad, tt.bad)
			must(t, sys.Truncate(fd, 4096))

			for _, batch := range [][]*nbl.List{
				bad, slices.Concat(lists[:3], bad[:1], lists[3:5]), slices.Concat(lists[:burstFrames-1], bad),
			} {
				accepted := -1
				wantFault(t, r.tryDeliver(v.nic, batch, &accepted), evil.Mem)
				if accepted != -1 || v.Driver.UsedIdx() != at(0).Used || v.Queue.Broken() != nil {
					t.Fatalf("accepted %d, used.idx %d, broken %v", accepted, v.Driver.UsedIdx(), v.Queue.Broken())
				}
			}
			v.counted(0, nil)
			// What was written and not published is written over.
			const after = burstFrames + 4
			if n := r.deliver(v.nic, lists[:after]); n != after {
				t.Fatalf("accepted %d of the neighbour's frames", n)
			}
			v.expect(whole(frames(packets)[:after]...)...)

			// In a later burst: the earlier one is published and called.
			signals(t, v.Call)
			again := good.send(packets...)
			accepted := -1
			if tt.f == plainRx {
				v.post(repeat(len(again), 2000)...)
			} else {
				v.post(repeat(2*burstFrames, 500)...)
			}
			wantFault(t, r.tryDeliver(v.nic, slices.Concat(again[:burstFrames+2], bad), &accepted), evil.Mem)
			v.counted(after+burstFrames, nil)
			if got := signals(t, v.Call); got != 1 {
				t.Errorf("%d calls, want one for what was published", got)
			}
			if n := r.deliver(v.nic, again[burstFrames:]); n != 8 {
				t.Fatalf("accepted %d of the neighbour's frames", n)
			}
			v.expect(whole(frames(packets)...)...)
			if events := r.told(); len(events) > 0 || v.nic.RxBroken(0) {
				t.Errorf("events %v", events)
			}
		})
	}
}

// A sender that faults again and again costs nothing but its own frames.
func TestSenderFaultsForEver(t *testing.T) {
	r := newRig(t, Options{})
	const memory = 1 << 20
	file, fd := softFile(t, memory)
	evil := r.newSender(vqtest.Options{Size: 64, Memory: memory, File: file})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.post(2000)
	bad := evil.send(packet{tso(1000), tcp4(60000, 1)}, packet{frame: ethernet(1514, 1)})
	must(t, sys.Truncate(fd, 4096))
	for range 300 {
		for i := range bad {
			accepted := 0
			wantFault(t, r.tryDeliver(v.nic, bad[i:i+1], &accepted), evil.Mem)
		}
	}
	good := r.newSender(vqtest.Options{})
	if n := r.deliver(v.nic, good.send(packet{checksumHeader(), tcp4(1400, 1)})); n != 1 {
		t.Fatalf("accepted %d of the neighbour's frames", n)
	}
	v.expect(whole(summed(tcp4(1400, 1)))...)
}
