package netdev_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
	"vhostnet/worker"
)

// A port that nobody uses costs nothing (V77), unless it is to be polled; then
// its guest never kicks. Whatever its mode, it is served.
func TestV77_Modes(t *testing.T) {
	for _, mode := range []worker.Mode{worker.Adaptive, worker.Poll, worker.Interrupt} {
		for _, packed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v, packed %t", mode, packed), func(t *testing.T) { testMode(t, mode, flavour{kind: vutest.QEMU10, packed: packed}) })
		}
	}
}

func testMode(t *testing.T, mode worker.Mode, v flavour) {
	r := newRig(t, 1, netdev.Options{Name: "a", Mode: mode}, netdev.Options{Name: "b", Mode: mode})
	a, b := r.connect("a", v.options()), r.connect("b", v.options())
	w := r.group.Workers()[0]
	slept := w.Stats().Sleeps // before there were ports, too
	for range 5 {
		pingPong(t, a, b)
		if mode == worker.Poll {
			rounds := w.Stats().Rounds
			r.waitFor("rounds of a polled port", func() bool { return w.Stats().Rounds > rounds+1000 })
			continue
		}
		r.waitFor("the worker to sleep", func() bool { return w.Stats().Asleep })
		before, kicks := w.Stats(), a.Kicks(1)
		time.Sleep(20 * time.Millisecond) // in which nothing happens
		if after := w.Stats(); after != before {
			t.Errorf("an idle worker went from %+v to %+v", before, after)
		}
		exchange(t, a, b, 0, frame(macB, macA, 60, 1))
		if n := a.Kicks(1) - kicks; n != 1 {
			t.Errorf("one frame for a sleeping worker took %d kicks", n)
		}
	}
	if s := w.Stats(); (s.Sleeps == slept) != (mode == worker.Poll) || s.Tasks != 2 {
		t.Errorf("the worker slept %d times before, and is %+v", slept, s)
	}
	if mode == worker.Poll && a.Kicks(1)+b.Kicks(1) != 0 {
		t.Errorf("ports that are polled were kicked %d times", a.Kicks(1)+b.Kicks(1))
	}
}

// A guest whose frames are far apart costs a wake-up for each, and no polling; the
// port tells so, also when its rings have been made anew.
func TestSlowGuestIsNotPolled(t *testing.T) {
	r := newRig(t, 1, netdev.Options{Name: "a", MAC: macA}, netdev.Options{Name: "b", MAC: macB})
	a, b := r.connect("a", vutest.Options{}), r.connect("b", vutest.Options{})
	polling := func() netdev.PollInfo { return *r.devices["a"].Snapshot().Rings[1].Polling }
	if first := polling(); first.Spin == 0 || first.Unpolled != 0 {
		t.Errorf("a ring of which nothing is known: %+v", first)
	}
	w := r.group.Workers()[0]
	send := func(n int) (rounds uint64) {
		for i := range n {
			r.waitFor("the worker to sleep", func() bool { return w.Stats().Asleep })
			time.Sleep(2 * time.Millisecond) // and more on a busy machine
			before := w.Stats().Rounds
			exchange(t, a, b, 0, frame(macB, macA, 60, uint32(i)))
			r.waitFor("the worker to sleep", func() bool { return w.Stats().Asleep })
			rounds += w.Stats().Rounds - before
		}
		return rounds
	}
	send(20)
	known := polling()
	if known.Spin != 0 || known.Found != 0 || known.Vain == 0 {
		t.Errorf("frames that are far apart have taught %+v", known)
	}
	// A round that takes the frame and one that finds nothing more, for each; a
	// signal may wake a worker now and then. A spell of polling is a hundred.
	if rounds := send(50); rounds > 4*50 {
		t.Errorf("50 frames took %d rounds", rounds)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r.must(a.Stop(ctx))
	_, err := a.Start(ctx)
	r.must(err)
	send(1)
	if now := polling(); now.Spin != 0 || now.Found != 0 || now.Vain != known.Vain || now.Unpolled < known.Unpolled+50 {
		t.Errorf("after a new start it is %+v, and was %+v 50 frames before", now, known)
	}
	rings := r.devices["a"].Snapshot().Rings
	if rings[0].Polling != nil {
		t.Errorf("a receive ring is polled: %+v", rings[0].Polling)
	}
}

// Ports of every mode share a worker.
func TestModesTogether(t *testing.T) {
	modes := []worker.Mode{worker.Adaptive, worker.Poll, worker.Interrupt}
	var ports []netdev.Options
	for i, m := range modes {
		ports = append(ports, netdev.Options{Name: m.String(), Mode: m, MAC: [6]byte{0x52, 0x54, 0, 0, 1, byte(i)}})
	}
	r := newRig(t, 1, ports...)
	var guests []*vutest.FrontEnd
	for _, p := range ports {
		guests = append(guests, r.connect(p.Name, vutest.Options{}))
	}
	for round := range uint32(20) {
		for from := range guests {
			for to := range guests {
				if from != to {
					exchange(t, guests[from], guests[to], 0, frame(ports[to].MAC, ports[from].MAC, 60, round))
				}
			}
		}
	}
	if n := guests[1].Kicks(1); n != 0 {
		t.Errorf("the port that is polled was kicked %d times", n)
	}
	if n := guests[2].Kicks(1); n == 0 {
		t.Error("the port with kicks was never kicked")
	}
}

// Several senders, served by two workers, fill one receive ring. What one of
// them sends arrives in order; all of it arrives or is counted.
func TestOrderOfEachSender(t *testing.T) {
	const senders, frames = 4, 1500
	ports := []netdev.Options{{Name: "receiver", MAC: macB}}
	for i := range senders {
		ports = append(ports, netdev.Options{Name: fmt.Sprint("sender", i), MAC: [6]byte{0x52, 0x54, 0, 0, 1, byte(i)}})
	}
	r := newRig(t, 2, ports...)
	to := r.connect("receiver", vutest.Options{Guest: vutest.Guest{RingSize: 64}})
	tr := &traffic{t: t}
	for i, p := range ports[1:] {
		tr.flows = append(tr.flows, &flowState{
			id: byte(i), sender: r.connect(p.Name, flavour{kind: vutest.QEMU10, packed: i%2 == 1}.options()), dst: macB, src: p.MAC, from: 1000, to: 80,
		})
	}
	for _, w := range r.group.Workers() {
		if n := w.Stats().Tasks; n < 2 {
			t.Fatalf("worker %d has %d of %d rings", w.Index(), n, senders+1)
		}
	}
	tr.start(map[*vutest.FrontEnd]int{to: 1})
	for _, f := range tr.flows {
		r.waitFor("frames of each sender", func() bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.got > frames || t.Failed()
		})
	}
	tr.endSending()
	tr.wantAllAccounted(r)
	tr.endReceiving()
	sent, got := tr.totals()
	t.Logf("%d of %d frames arrived; %s", got, sent, r.counters())
	if d := r.devices["receiver"].Snapshot().Drops; d.Total() != 0 {
		t.Errorf("the receiver refused frames that it has buffers for, now or later: [%v]", d)
	}
}
