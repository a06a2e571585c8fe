package queues

import (
	"encoding/binary"
	"testing"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/virtqueue/vqtest"
)

// flow is a tcp4 frame of n bytes in a flow of its own; back is its answer.
func flow(n int, port uint16) (there, back []byte) {
	there = tcp4(n-54, int(port))
	binary.BigEndian.PutUint16(there[34:], port)
	back = append([]byte(nil), there...)
	copy(back[26:30], there[30:34])
	copy(back[30:34], there[26:30])
	copy(back[34:36], there[36:38])
	copy(back[36:38], there[34:36])
	return there, back
}

// pairs is a NIC with a ring and a guest's driver for each pair.
func (r *rig) pairs(count int) (n *NIC, list []*receiver) {
	r.t.Helper()
	n = r.newNIC("web", count)
	for i := range count {
		list = append(list, r.attach(n, i, vqtest.Options{Features: plainRx, Size: 64, Memory: 1 << 20}))
	}
	return n, list
}

// flowsApart are the answers of four flows that the table keeps apart, noted as
// sent by pairs 0 to 3.
func (r *rig) flowsApart(n *NIC, s *sender) (answers [4][]byte) {
	r.t.Helper()
	slots := map[uint32]bool{}
	for port, pair := uint16(1000), 0; pair < 4; port++ {
		there, back := flow(200, port)
		lists := s.send(packet{frame: there})
		if slot := lists[0].FlowHash() % flowSlots; !slots[slot] {
			slots[slot] = true
			answers[pair] = back
			n.NoteSent(pair, lists)
			pair++
		}
	}
	return answers
}

// A flow comes back by the pair that the guest sent it by, and moves with it.
func TestSteering(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	n, rings := r.pairs(4)
	for _, v := range rings {
		v.post(repeat(20, 2000)...)
	}
	answers := r.flowsApart(n, s)
	var batch []packet
	want := [4][][]byte{}
	for i := range 40 { // in runs of one, two and three
		pair := [8]int{3, 0, 0, 2, 1, 1, 1, 2}[i%8]
		f := append([]byte(nil), answers[pair]...)
		f[100] = byte(i)
		batch = append(batch, packet{frame: f})
		want[pair] = append(want[pair], f)
	}
	if got := r.deliver(n, s.send(batch...)); got != len(batch) {
		t.Fatalf("accepted %d of %d", got, len(batch))
	}
	for i, v := range rings {
		v.expect(whole(want[i]...)...)
	}
	lists := s.send(packet{frame: answers[3]})
	n.NoteSent(1, lists)
	if got := r.deliver(n, lists); got != 1 {
		t.Fatalf("accepted %d", got)
	}
	rings[1].expect(whole(answers[3])...)
}

// Flows that the guest has sent nothing of are spread over the pairs, each
// always by the same; so are frames without a flow.
func TestSteeringOfUnknownFlows(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	n, rings := r.pairs(4)
	packets := []packet{{frame: ethernet(60, 1)}}
	for port := range uint16(100) {
		there, _ := flow(200, port)
		packets = append(packets, packet{frame: there})
	}
	lists := s.send(packets...)
	for _, v := range rings {
		v.post(repeat(64, 1000)...)
	}
	var want [4][][]byte
	for i, l := range lists {
		pair := n.pairOf(l)
		want[pair] = append(want[pair], packets[i].frame)
	}
	if got := r.deliver(n, lists); got != len(lists) {
		t.Fatalf("accepted %d of %d", got, len(lists))
	}
	for i, v := range rings {
		if len(want[i]) == 0 {
			t.Errorf("no flow came by pair %d", i)
		}
		v.expect(whole(want[i]...)...)
	}
}

// A pair that is not in use is left out for the next one that is. With one pair
// in use there is no choice, and with none frames are lost at pair 0.
func TestSteeringPastUnusablePairs(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	n, rings := r.pairs(4)
	for _, v := range rings {
		v.post(repeat(20, 2000)...)
	}
	answers := r.flowsApart(n, s)
	deliver := func(pair int) {
		t.Helper()
		if got := r.deliver(n, s.send(packet{frame: answers[pair]})); got != 1 {
			t.Fatalf("accepted %d", got)
		}
	}
	n.EnableRx(2, false)
	deliver(2)
	rings[3].expect(whole(answers[2])...)
	n.StopRx(3)
	deliver(2)
	deliver(3)
	rings[0].expect(whole(answers[2], answers[3])...)
	n.EnableRx(2, true)
	deliver(2)
	rings[2].expect(whole(answers[2])...)

	n.EnableRx(0, false)
	n.EnableRx(1, false)
	deliver(0)
	deliver(1)
	rings[2].expect(whole(answers[0], answers[1])...)
	n.NoteSent(0, s.send(packet{frame: answers[3]})) // of a pair that is not in use any more
	n.EnableRx(1, true)
	deliver(3)
	rings[1].expect(whole(answers[3])...) // the next one after 3, not 0

	n.EnableRx(1, false)
	n.EnableRx(2, false)
	deliver(1)
	deliver(3)
	if d := n.counters.Drops.Snapshot(); d[metrics.ReasonDisabled] != 2 || d.Total() != 2 {
		t.Errorf("drops: %s", d)
	}
}

// When one pair has no buffers the batch ends there: what follows is not
// accepted, so a flow stays in order.
func TestSteeringPrefix(t *testing.T) {
	r := newRig(t, Options{})
	s := r.newSender(vqtest.Options{})
	n, rings := r.pairs(4)
	answers := r.flowsApart(n, s)
	rings[1].post(2000, 2000)
	rings[2].post(2000)
	lists := s.send(packet{frame: answers[1]}, packet{frame: answers[2]}, packet{frame: answers[2]}, packet{frame: answers[1]})
	if got := r.deliver(n, lists); got != 2 {
		t.Fatalf("accepted %d, want 2", got)
	}
	rings[1].expect(whole(answers[1])...)
	rings[2].expect(whole(answers[2])...)
	rings[2].post(2000)
	if got := r.deliver(n, lists[2:]); got != 2 {
		t.Fatalf("accepted %d, want 2", got)
	}
	rings[1].expect(whole(answers[1])...)
	rings[2].expect(whole(answers[2])...)
}

// A NIC of one pair keeps no flows, and a frame that was found malformed, whose
// head was never read, does no harm.
func TestNoteSent(t *testing.T) {
	r := newRig(t, Options{})
	one, two := r.newNIC("one", 1), r.newNIC("two", 2)
	var l nbl.List
	if reason := l.FromBytes(make([]byte, 5), 1); reason == metrics.ReasonNone {
		t.Fatal("a frame of 5 bytes is taken")
	}
	one.NoteSent(0, []*nbl.List{&l})
	two.NoteSent(1, []*nbl.List{&l})
	if one.steering != nil {
		t.Error("a NIC of one pair has a flow table")
	}
}
