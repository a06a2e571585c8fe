package queues

import (
	"encoding/binary"
	"slices"
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
)

// A batch is as long as the sender likes: bursts of 64 frames or 256 KiB follow
// one another, in order.
func TestSeveralBursts(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	for name, tt := range map[string]struct {
		lengths []int
		size    int
		buffers int // bytes of each
		f       virtio.Features
		calls   uint64
	}{
		"one":         {repeat(burstFrames, 60), 256, 2000, plainRx, 1},
		"and a frame": {repeat(burstFrames+1, 60), 256, 2000, plainRx, 2},
		"several":     {repeat(3*burstFrames+4, 1514), 256, 2000, plainRx, 4},
		"650 KiB":     {repeat(10, 65000), 512, 1536, mergeable, 2},
		"long plain":  {repeat(10, 65000), 16, 65550, plainRx, 2},
		"1248 chains": {repeat(32, 1514), 2048, 40, mergeable, 2},
	} {
		v := r.newReceiver(vqtest.Options{Features: tt.f, Size: tt.size, Memory: 8 << 20})
		count := len(tt.lengths) * ((tt.lengths[0] + 12 + tt.buffers - 1) / tt.buffers)
		v.post(repeat(count, tt.buffers)...)
		packets := plain(tt.lengths...)
		if n := r.deliver(v.nic, s.send(packets...)); n != len(packets) {
			t.Errorf("%s: accepted %d of %d", name, n, len(packets))
			continue
		}
		v.expect(whole(frames(packets)...)...)
		v.counted(len(packets), nil)
		if got := v.nic.counters.RxBytes.Value(); got != uint64(len(packets)*tt.lengths[0]) {
			t.Errorf("%s: %d bytes are counted", name, got)
		}
		if got := signals(t, v.Call); got != tt.calls {
			t.Errorf("%s: %d calls, want one per burst, %d", name, got, tt.calls)
		}
	}
}

// Buffers run out in the second burst.
func TestPrefixOverBursts(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.post(repeat(50, 2000)...)
	packets := plain(repeat(70, 100)...)
	lists := s.send(packets...)
	if n := r.deliver(v.nic, lists); n != 50 {
		t.Fatalf("accepted %d, want 50", n)
	}
	v.expect(whole(frames(packets)[:50]...)...)
	v.post(repeat(20, 2000)...)
	if n := r.deliver(v.nic, lists[50:]); n != 20 {
		t.Fatalf("accepted %d, want 20", n)
	}
	v.expect(whole(frames(packets)[50:]...)...)
	v.counted(70, nil)
}

// segments is what a host without offloads would have sent instead of frame, a
// tcp4 frame.
func segments(frame []byte, mss int) [][]byte {
	var list [][]byte
	for payload := frame[54:]; len(payload) > 0; payload = payload[min(mss, len(payload)):] {
		part := payload[:min(mss, len(payload))]
		f := append(slices.Clone(frame[:54]), part...)
		ip, tcp := f[14:34], f[34:]
		binary.BigEndian.PutUint16(ip[2:], uint16(len(f)-14))
		binary.BigEndian.PutUint16(ip[4:], binary.BigEndian.Uint16(ip[4:])+uint16(len(list)))
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^fold(ip))
		binary.BigEndian.PutUint32(tcp[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(len(list)*mss))
		binary.BigEndian.PutUint16(tcp[16:], 0)
		binary.BigEndian.PutUint16(tcp[16:], ^fold(ip[12:20], []byte{0, 6, byte(len(tcp) >> 8), byte(len(tcp))}, tcp))
		list = append(list, f)
	}
	return list
}

// summed is a tcp4 frame with its checksum.
func summed(frame []byte) []byte {
	f := slices.Clone(frame)
	binary.BigEndian.PutUint16(f[50:], 0)
	sum := fold(f[26:34], []byte{0, 6, byte((len(f) - 34) >> 8), byte(len(f) - 34)}, f[34:])
	binary.BigEndian.PutUint16(f[50:], ^sum)
	return f
}

// A driver gets what it accepted: checksums are completed and segments cut for
// one that did not accept them, and only for that one.
func TestSoftened(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	packets := []packet{
		{frame: ethernet(60, 1)}, {checksumHeader(), tcp4(700, 2)}, {tso(1448), tcp4(14000, 3)}, {frame: ethernet(61, 4)},
	}
	cut := segments(packets[2].frame, 1448)
	complete := slices.Concat(whole(packets[0].frame, summed(packets[1].frame)), whole(cut...), packets[3:])
	half := slices.Concat(packets[:2], whole(cut...), packets[3:])
	for _, tt := range []struct {
		name     string
		features virtio.Features
		want     []packet
		softened uint64
	}{
		{"all accepted", virtio.NetGuestCsum | virtio.NetGuestTSO4, packets, 0},
		{"nothing accepted", 0, complete, 2},
		{"TSO without a checksum", virtio.NetGuestTSO4, complete, 2},
		{"checksums only", virtio.NetGuestCsum, half, 1},
		{"TSO of the other kind", virtio.NetGuestCsum | virtio.NetGuestTSO6, half, 1},
	} {
		for _, f := range []virtio.Features{plainRx, mergeable} {
			v := r.newReceiver(vqtest.Options{Features: f | tt.features})
			v.post(repeat(16, 16000)...)
			if n := r.deliver(v.nic, s.send(packets...)); n != len(packets) {
				t.Fatalf("%s: accepted %d", tt.name, n)
			}
			v.expect(tt.want...)
			v.counted(len(tt.want), nil)
			if got := v.nic.counters.SoftOffload.Value(); got != tt.softened {
				t.Errorf("%s: %d frames are counted as softened, want %d", tt.name, got, tt.softened)
			}
		}
	}
}

// One packet becomes more frames than a burst holds, many packets more than the
// arena holds.
func TestSoftenedOverBursts(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	for _, count := range []int{1, 12} {
		v := r.newReceiver(vqtest.Options{Features: plainRx, Size: 1024})
		v.post(repeat(1024, 1100)...)
		var packets []packet
		var want [][]byte
		for i := range count {
			packets = append(packets, packet{tso(1000), tcp4(64000, i)})
			want = append(want, segments(packets[i].frame, 1000)...)
		}
		if n := r.deliver(v.nic, s.send(packets...)); n != count {
			t.Fatalf("accepted %d of %d", n, count)
		}
		v.expect(whole(want...)...)
		v.counted(len(want), nil)
		if got := v.nic.counters.SoftOffload.Value(); got != uint64(count) {
			t.Errorf("%d frames are counted as softened, want %d", got, count)
		}
	}
}

// Buffers run out in the middle of a packet's segments. Its next delivery goes
// on behind them, whatever other senders tried meanwhile.
func TestSoftenedInPortions(t *testing.T) {
	r := newRig(t, Options{})
	s, other := r.newSender(vqtest.Options{}), r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	packets := []packet{{frame: ethernet(60, 1)}, {tso(1000), tcp4(40500, 2)}, {frame: ethernet(61, 3)}}
	lists := s.send(packets...)
	others := other.send(packet{tso(1000), tcp4(9000, 4)}, packet{frame: ethernet(62, 5)})
	want := append([][]byte{packets[0].frame}, segments(packets[1].frame, 1000)...) // 1 + 41

	v.post(repeat(5, 1100)...)
	if n := r.deliver(v.nic, lists); n != 1 {
		t.Fatalf("accepted %d, want the first", n)
	}
	v.expect(whole(want[:5]...)...)
	lists = lists[1:]
	for range 2 {
		if n := r.deliver(v.nic, lists) + r.deliver(v.nic, others); n != 0 {
			t.Fatalf("accepted %d without buffers", n)
		}
	}
	v.expect()
	v.post(repeat(35, 1100)...) // a burst and three more
	if n := r.deliver(v.nic, lists); n != 0 {
		t.Fatalf("accepted %d, want none", n)
	}
	v.expect(whole(want[5:40]...)...)
	if n := r.deliver(v.nic, others); n != 0 {
		t.Fatalf("accepted %d without buffers", n)
	}
	v.post(repeat(12, 1100)...)
	if n := r.deliver(v.nic, lists); n != 2 {
		t.Fatalf("accepted %d, want the rest", n)
	}
	v.expect(whole(append(want[40:], packets[2].frame)...)...)
	if n := r.deliver(v.nic, others); n != 1 {
		t.Fatalf("accepted %d, want what fills 9 buffers", n)
	}
	v.post(1100)
	if n := r.deliver(v.nic, others[1:]); n != 1 {
		t.Fatalf("accepted %d", n)
	}
	v.expect(whole(append(segments(tcp4(9000, 4), 1000), ethernet(62, 5))...)...)
	v.counted(42+1+10, nil)
	if got := v.nic.counters.SoftOffload.Value(); got != 2 {
		t.Errorf("%d frames are counted as softened, want 2", got)
	}
}

// Segments that are too long for the buffers are lost one by one, and those
// beyond the MTU that the driver was told, as a driver must not get them.
func TestSoftenedSegmentsLost(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.post(repeat(4, 1000)...)
	big := packet{tso(2000), tcp4(4500, 1)} // segments of 2054, 2054 and 554
	if n := r.deliver(v.nic, s.send(big)); n != 1 {
		t.Fatalf("accepted %d", n)
	}
	v.expect(whole(segments(big.frame, 2000)[2])...)
	v.counted(1, map[metrics.Reason]int{metrics.ReasonBuffersSmall: 2})

	v = r.newReceiver(vqtest.Options{Features: plainRx | virtio.NetMTU})
	state, _ := v.nic.StopRx(0)
	v.restart(state, Attributes{Features: v.opts.Features, MTU: 1500})
	v.post(repeat(4, 4000)...)
	if n := r.deliver(v.nic, s.send(big)); n != 1 {
		t.Fatalf("accepted %d", n)
	}
	v.expect(whole(segments(big.frame, 2000)[2])...)
	v.counted(1, map[metrics.Reason]int{metrics.ReasonMTU: 2})
}

// A packet that is flooded is softened once and delivered to each driver as it
// likes it; nothing in its List changes.
func TestSoftenedForSeveral(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	p := packet{tso(1000), tcp4(3500, 1)}
	lists := s.send(p)
	before := *lists[0]
	for _, f := range []virtio.Features{plainRx, mergeable | virtio.NetGuestCsum | virtio.NetGuestTSO4, mergeable} {
		v := r.newReceiver(vqtest.Options{Features: f})
		v.post(repeat(8, 1100)...)
		if n := r.deliver(v.nic, lists); n != 1 {
			t.Fatalf("accepted %d", n)
		}
		if f.Has(virtio.NetGuestTSO4) {
			v.expect(p)
		} else {
			v.expect(whole(segments(p.frame, 1000)...)...)
		}
	}
	if lists[0].Offload != before.Offload || lists[0].Length != before.Length || lists[0].Status != nbl.Pending {
		t.Error("the delivery changed the List")
	}
}

// A burst that moved nothing is the last one: a frame for which the Softener has
// no room, not even at the start of a burst, waits for its sender to give it up.
func TestBurstOfNothing(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	v := r.newReceiver(vqtest.Options{Features: plainRx})
	v.post(repeat(10, 2000)...)
	first, too := tcp4(2000, 1), tcp4(60000, 2)
	lists := s.send(packet{tso(1448), first}, packet{tso(1448), too})
	lists[1].Offload.GSOSize = 1 // sixty thousand segments, which nothing lets in
	ring := &v.nic.rings[0]
	for accepted, want := range []int{1, 0} {
		out := ring.burst(bursts.Get(r.ctx), r.softener(r.ctx), lists[accepted:])
		if out.call != nil {
			ring.makeCall(r.ctx, out.call)
		}
		if out.accepted != want || out.part {
			t.Fatalf("burst %d accepted %d frames, part: %t; want %d", accepted, out.accepted, out.part, want)
		}
		if out.more != (want > 0) {
			t.Fatalf("burst %d accepted %d frames, and there is to be another: %t", accepted, out.accepted, out.more)
		}
	}
	if n := r.deliver(v.nic, lists[1:]); n != 0 || r.part {
		t.Errorf("accepted %d, part: %t", n, r.part)
	}
	v.expect(whole(segments(first, 1448)...)...)
}
