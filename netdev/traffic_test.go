package netdev_test

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/metrics"
	"vhostnet/vhostuser/vutest"
)

// A numbered frame is a UDP datagram without checksum whose payload is its
// flow, its number and a pattern made of both, so that whoever receives it can
// tell that it is the one that was sent.
const (
	numberAt  = 42 // behind Ethernet, IPv4 and UDP
	flowAt    = numberAt + 8
	patternAt = flowAt + 1
)

func numbered(dst, src [6]byte, from, to int, id byte, number uint64) vutest.Frame {
	n := patternAt + int(number*7919%1400)
	f := flow(dst, src, from, to)
	b := append(f.Data[:numberAt:numberAt], make([]byte, n-numberAt)...)
	binary.BigEndian.PutUint16(b[16:], uint16(n-14)) // IPv4 length
	binary.BigEndian.PutUint16(b[38:], uint16(n-34)) // UDP length
	binary.BigEndian.PutUint64(b[numberAt:], number)
	b[flowAt] = id
	for i := patternAt; i < n; i++ {
		b[i] = byte(uint64(i)*3 + number + uint64(id)<<5)
	}
	return vutest.Frame{Data: b}
}

// flowState is what is known of one direction of one flow.
type flowState struct {
	id       byte
	sender   *vutest.FrontEnd
	pair     int // that it is sent by
	dst, src [6]byte
	from, to int // ports

	sent atomic.Uint64

	mu   sync.Mutex
	seen []uint64 // a bit for each number that arrived
	got  uint64
}

// send posts up to n further frames.
func (f *flowState) send(n int) error {
	list := make([]vutest.Frame, n)
	for i := range list {
		list[i] = numbered(f.dst, f.src, f.from, f.to, f.id, f.sent.Load()+uint64(i))
		list[i].HeaderAlone = i%3 == 0
	}
	err := f.sender.Send(f.pair, list...)
	f.sent.Add(uint64(n))
	return err
}

// take notes a frame that arrived and reports whether it is one that was sent
// and that has not arrived before.
func (f *flowState) take(data []byte) (number uint64, ok bool) {
	number = binary.BigEndian.Uint64(data[numberAt:])
	want := numbered(f.dst, f.src, f.from, f.to, f.id, number)
	f.mu.Lock()
	defer f.mu.Unlock()
	for uint64(len(f.seen)) <= number/64 {
		f.seen = append(f.seen, 0)
	}
	bit := uint64(1) << (number % 64)
	ok = number < f.sent.Load()+16 && string(want.Data) == string(data) && f.seen[number/64]&bit == 0
	f.seen[number/64] |= bit
	f.got++
	return number, ok
}

// traffic is flows that are sent and received by goroutines of their own, until
// they are stopped.
type traffic struct {
	t         *testing.T
	flows     []*flowState
	sending   sync.WaitGroup
	receiving sync.WaitGroup
	stopSend  atomic.Bool
	stopRecv  atomic.Bool
}

// outstanding is how many frames of a flow may be with the device: far less
// than a ring holds, so that no sender waits in Send.
const outstanding = 48

// start begins to send on all flows and to receive on the given rings. It ends
// with the test if it was not ended.
func (tr *traffic) start(receivers map[*vutest.FrontEnd]int) {
	tr.stopSend.Store(false)
	tr.stopRecv.Store(false)
	tr.t.Cleanup(func() {
		tr.stopSend.Store(true)
		tr.stopRecv.Store(true)
		tr.sending.Wait()
		tr.receiving.Wait()
	})
	for _, f := range tr.flows {
		tr.sending.Go(func() { tr.send(f) })
	}
	for fe, pairs := range receivers {
		for pair := range pairs {
			tr.receiving.Go(func() { tr.receive(fe, pair) })
		}
	}
}

func (tr *traffic) send(f *flowState) {
	rng := rand.New(rand.NewPCG(uint64(f.id), f.sent.Load()))
	for !tr.stopSend.Load() {
		n := 1 + rng.IntN(8)
		if f.sender.Outstanding(2*f.pair+1) > outstanding-n {
			n = 0 // take back what was sent
		}
		if err := f.send(n); err != nil {
			tr.t.Errorf("flow %d: %v", f.id, err)
			return
		}
		time.Sleep(100 * time.Microsecond) // leaves the cores to the others for a moment
	}
}

// receive takes frames from one ring. What comes out of a ring of one flow comes
// in the order in which it was sent.
func (tr *traffic) receive(fe *vutest.FrontEnd, pair int) {
	last := make(map[byte]uint64)
	for !tr.stopRecv.Load() {
		got, err := fe.Recv(pair, 5*time.Millisecond)
		if errors.Is(err, vutest.ErrTimeout) {
			continue
		}
		if err != nil || len(got.Data) < patternAt || int(got.Data[flowAt]) >= len(tr.flows) {
			tr.t.Errorf("pair %d: a frame of %d bytes, %v", pair, len(got.Data), err)
			return
		}
		id := got.Data[flowAt]
		number, ok := tr.flows[id].take(got.Data)
		if !ok || number < last[id] {
			tr.t.Errorf("flow %d, pair %d: frame %d of %d bytes was altered, came twice, or behind frame %d", id, pair, number, len(got.Data), last[id])
			return
		}
		last[id] = number + 1
	}
}

// endSending stops the senders and waits until their chains are back.
func (tr *traffic) endSending() {
	tr.t.Helper()
	tr.stopSend.Store(true)
	tr.sending.Wait()
	for _, f := range tr.flows {
		if err := f.sender.WaitSent(f.pair); err != nil {
			tr.t.Fatalf("flow %d: %v", f.id, err)
		}
	}
}

func (tr *traffic) endReceiving() {
	tr.stopRecv.Store(true)
	tr.receiving.Wait()
}

// wantAnswer sends a frame by one flow and one back by another, which comes by
// the pair that the first was sent by. Nobody else moves frames then, so both
// sleepers have to be woken.
func (tr *traffic) wantAnswer(there, back *flowState) {
	tr.t.Helper()
	for _, way := range []struct {
		by   *flowState
		to   *vutest.FrontEnd
		pair int
	}{{there, back.sender, back.pair}, {back, there.sender, there.pair}} {
		if err := way.by.send(1); err != nil {
			tr.t.Fatal(err)
		}
		got, err := way.to.Recv(way.pair, patience)
		if err != nil {
			tr.t.Fatalf("flow %d: %v", way.by.id, err)
		}
		if number, ok := way.by.take(got.Data); !ok || number != way.by.sent.Load()-1 {
			tr.t.Errorf("flow %d: frame %d came instead of the last one", way.by.id, number)
		}
		if err := way.by.sender.WaitSent(way.by.pair); err != nil {
			tr.t.Fatalf("flow %d: %v", way.by.id, err)
		}
	}
}

// totals are the frames of all flows.
func (tr *traffic) totals() (sent, got uint64) {
	for _, f := range tr.flows {
		f.mu.Lock()
		sent, got = sent+f.sent.Load(), got+f.got
		f.mu.Unlock()
	}
	return sent, got
}

// wantAllAccounted waits until every frame has arrived or is counted as a drop.
// Each is one copy: nothing of this traffic is flooded to several ports.
func (tr *traffic) wantAllAccounted(r *rig) {
	tr.t.Helper()
	r.waitFor("each frame to arrive or to be counted", func() bool {
		sent, got := tr.totals()
		return sent == got+r.drops()
	})
	sent, got := tr.totals()
	var taken, givenUp uint64
	for _, d := range r.devices {
		taken += d.Snapshot().TxFrames
		givenUp += d.Snapshot().Drops[metrics.ReasonGivenUp]
	}
	if taken+givenUp != sent {
		tr.t.Errorf("%d frames were sent, %d arrived; the switch counts %d, and %d never came to it", sent, got, taken, givenUp)
	}
}

// drops are those of all ports.
func (r *rig) drops() (n uint64) {
	for _, d := range r.devices {
		n += d.Snapshot().Drops.Total()
	}
	return n
}
