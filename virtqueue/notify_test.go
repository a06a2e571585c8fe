package virtqueue_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// TestPassed compares the arithmetic with its meaning, spelled out, for every
// event.
func TestPassed(t *testing.T) {
	for _, old := range []uint16{0, 1, 255, 0x7fff, 0x8000, 0xfffe, 0xffff} {
		for _, n := range []int{0, 1, 2, 3, 64, 255, 256, 32767, 32768} {
			crossed := make(map[uint16]bool, n)
			for i := range n {
				crossed[old+uint16(i)] = true
			}
			for event := range 1 << 16 {
				if got, want := virtqueue.Passed(uint16(event), old+uint16(n), old), crossed[uint16(event)]; got != want {
					t.Fatalf("from %d by %d, event %d: %v, want %v", old, n, event, got, want)
				}
			}
		}
	}
}

// variant is a way to tell the other side one's wishes.
type variant struct {
	name string
	opts vqtest.Options
}

// variants are all of them, on both kinds of alignment.
func variants(size int) []variant {
	var list []variant
	for _, f := range []virtio.Features{0, virtio.EventIdx} {
		for _, shift := range []bool{false, true} {
			list = append(list, variant{
				fmt.Sprintf("event_idx %v, shifted %v", f != 0, shift),
				vqtest.Options{Size: size, Features: f, ShiftAvail: shift},
			})
		}
	}
	return list
}

// allVariants are those of split rings, and of packed ones.
func allVariants(size int) []variant {
	list := variants(size)
	for _, f := range []virtio.Features{0, virtio.EventIdx} {
		list = append(list, variant{
			fmt.Sprintf("packed, event_idx %v", f != 0),
			vqtest.Options{Size: size - 1, Features: f | virtio.RingPacked},
		})
	}
	return list
}

// TestKicksAreOffUntilArm: from the start on, wherever the ring stands, a
// driver that adds chains is not asked to kick.
func TestKicksAreOffUntilArm(t *testing.T) {
	for _, v := range allVariants(8) {
		for _, start := range []uint16{0, 1, 0x7fff, 0x8000, 0xffff} {
			t.Run(fmt.Sprint(v.name, " from ", start), func(t *testing.T) {
				v.opts.Start = start
				p := newPair(t, v.opts)
				round := func(n int) (kick bool) {
					for range n {
						add(t, p, vqtest.Request{In: []int{8}})
					}
					return p.Driver.Publish()
				}
				serve := func() {
					pushAll(p.Queue, popAll(t, p.Queue, 8))
					if _, err := p.Driver.Collect(); err != nil {
						t.Fatal(err)
					}
				}
				for i := range 1000 {
					if round(1 + i%7) {
						t.Fatalf("the driver was asked for a kick in round %d, before Arm", i)
					}
					serve()
				}
				if p.Queue.Arm() || !p.Queue.Armed() {
					t.Fatal("Arm on an empty ring")
				}
				if !round(3) {
					t.Fatal("the driver was not asked for a kick after Arm")
				}
				serve()
				if p.Queue.Armed() {
					t.Fatal("kicks are still on after a Pop that found chains")
				}
				for i := range 1000 {
					if round(1 + i%7) {
						t.Fatalf("the driver was asked for a kick in round %d after Arm", i)
					}
					serve()
				}
			})
		}
	}
}

// TestUsedFlags: used.flags is the device's wish without EVENT_IDX, in every
// store, and 0 with it (virtio 1.3, section 2.7.10).
func TestUsedFlags(t *testing.T) {
	for _, v := range variants(8) {
		p := newPair(t, v.opts)
		off := uint16(1)
		if v.opts.Features.Has(virtio.EventIdx) {
			off = 0
		}
		check := func(when string, want uint16) {
			t.Helper()
			if got := p.Driver.UsedFlags(); got != want {
				t.Errorf("%s: used.flags = %d %s, want %d", v.name, got, when, want)
			}
		}
		check("at the start", off)
		p.Queue.Arm()
		check("armed", 0)
		add(t, p, vqtest.Request{In: []int{8}})
		p.Driver.Publish()
		got := popAll(t, p.Queue, 8)
		check("popped", off)
		p.Queue.Arm()
		pushAll(p.Queue, got)
		check("armed and pushed", 0)
		add(t, p, vqtest.Request{In: []int{8}})
		p.Driver.Publish()
		pushAll(p.Queue, popAll(t, p.Queue, 8))
		check("pushed", off)
	}
}

// TestEmptyPopStaysArmed: only chains end the wait.
func TestEmptyPopStaysArmed(t *testing.T) {
	for _, v := range allVariants(8) {
		p := newPair(t, v.opts)
		p.Queue.Arm()
		popAll(t, p.Queue, 8)
		if !p.Queue.Armed() {
			t.Errorf("%s: an empty Pop disarmed", v.name)
		}
		add(t, p, vqtest.Request{In: []int{8}})
		if !p.Driver.Publish() {
			t.Errorf("%s: no kick after an empty Pop", v.name)
		}
	}
}

// TestArmSeesWhatCame: chains that came before Arm, or were unpopped, keep the
// caller awake.
func TestArmSeesWhatCame(t *testing.T) {
	for _, v := range allVariants(8) {
		p := newPair(t, v.opts)
		add(t, p, vqtest.Request{In: []int{8}})
		p.Driver.Publish()
		if !p.Queue.Arm() {
			t.Errorf("%s: Arm does not see a chain", v.name)
		}
		popAll(t, p.Queue, 8)
		if p.Queue.Arm() {
			t.Errorf("%s: Arm sees a chain that is taken", v.name)
		}
		p.Queue.Unpop(1)
		if !p.Queue.Arm() {
			t.Errorf("%s: Arm does not see a chain that was given back", v.name)
		}
		if v.opts.Features.Has(virtio.RingPacked) {
			continue
		}
		p.Driver.SetAvailIdx(0x4000)
		if !p.Queue.Arm() {
			t.Errorf("%s: Arm does not see an impossible index, so nobody would", v.name)
		}
	}
}

// TestV75_FirstCall: whatever the driver's wish, the first Push after a start
// or a resume makes a call, and only that one.
func TestV75_FirstCall(t *testing.T) {
	for _, v := range allVariants(8) {
		p := newPair(t, v.opts)
		transfer := func() (call bool) {
			add(t, p, vqtest.Request{In: []int{8}})
			p.Driver.Publish()
			call = pushAll(p.Queue, popAll(t, p.Queue, 8))
			if _, err := p.Driver.Collect(); err != nil {
				t.Fatal(err)
			}
			p.Driver.NoCalls()
			return call
		}
		p.Driver.NoCalls()
		for life := range 3 {
			if !transfer() {
				t.Errorf("%s, life %d: no call at first", v.name, life)
			}
			if transfer() {
				t.Errorf("%s, life %d: a second call that nobody wants", v.name, life)
			}
			state := p.Queue.Suspend()
			resume := &state
			if life == 1 {
				resume = nil
			}
			if err := p.Restart(resume); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestCalls: after the first one, calls follow the driver's wish.
func TestCalls(t *testing.T) {
	for _, v := range allVariants(8) {
		p := newPair(t, v.opts)
		push := func(n int) (call bool) {
			for range n {
				add(t, p, vqtest.Request{In: []int{8}})
			}
			p.Driver.Publish()
			return pushAll(p.Queue, popAll(t, p.Queue, 8))
		}
		reap := func() {
			if _, err := p.Driver.Collect(); err != nil {
				t.Fatal(err)
			}
		}
		push(1)
		reap()
		for i := range 70000 { // once around, and the first lap again
			reap()
			if i%3 == 0 {
				p.Driver.NoCalls()
				if push(1 + i%4) {
					t.Fatalf("%s: call %d is not wanted", v.name, i)
				}
				continue
			}
			if p.Driver.WantCalls() {
				t.Fatalf("%s: chains came from nowhere", v.name)
			}
			if !push(1 + i%4) {
				t.Fatalf("%s: call %d is missing", v.name, i)
			}
		}
		if v.opts.Features.Has(virtio.EventIdx) {
			reap()
			if third := p.Driver.UsedIdx(); v.opts.Features.Has(virtio.RingPacked) { // not before the third
				p.Driver.SetDriverEvent(p.Driver.Plus(third, 2), vqtest.EventDesc)
			} else {
				p.Driver.SetUsedEvent(third + 2)
			}
			if push(2) || !push(1) || push(1) {
				t.Errorf("%s: calls do not follow used_event", v.name)
			}
		}
	}
}

// TestV75_NoLostWakeup lets a driver and a device on two threads fall asleep
// as often as they can, each relying on the other's signal alone.
func TestV75_NoLostWakeup(t *testing.T) {
	for _, v := range allVariants(4) {
		t.Run(v.name, func(t *testing.T) {
			s := sleepers{
				pair: newPair(t, v.opts), transfers: 100_000,
				kick: make(chan struct{}, 1), call: make(chan struct{}, 1), stop: make(chan struct{}),
			}
			done := make(chan error, 2)
			go func() { done <- s.drive() }()
			go func() { done <- s.serve() }()
			limit := time.NewTimer(2 * time.Minute)
			defer limit.Stop()
			for range 2 {
				select {
				case err := <-done:
					if err != nil {
						t.Error(err)
					}
				case <-limit.C:
					t.Errorf("a signal was lost: %d of %d transfers, used.idx %d", s.moved.Load(), s.transfers, s.pair.Driver.UsedIdx())
					close(s.stop)
					t.Log(<-done)
				}
			}
			if s.sleeps.Load() == 0 {
				t.Error("nobody ever slept: nothing was tested")
			}
			t.Logf("%d transfers, %d sleeps", s.moved.Load(), s.sleeps.Load())
		})
	}
}

// sleepers are a driver and a device, with channels for the two descriptors.
type sleepers struct {
	pair          *vqtest.Pair
	transfers     int
	kick, call    chan struct{}
	stop          chan struct{}
	moved, sleeps atomic.Int64
}

// signal is a write to an eventfd: many before one read are one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *sleepers) sleep(c chan struct{}) error {
	s.sleeps.Add(1)
	select {
	case <-c:
		return nil
	case <-s.stop:
		return fmt.Errorf("stopped while asleep")
	}
}

func (s *sleepers) drive() error {
	d := s.pair.Driver
	used := make([]virtqueue.Used, d.Size())
	for added, back := 0, 0; back < s.transfers; {
		for n := added%3 + 1; n > 0 && added < s.transfers; n-- {
			if _, err := d.Add(vqtest.Request{In: []int{8}}); err != nil {
				break
			}
			added++
		}
		if d.Publish() {
			signal(s.kick)
		}
		n, err := d.Reap(used)
		if err != nil {
			return err
		}
		for _, u := range used[:n] {
			d.Free(u.Head)
		}
		if back += n; n > 0 {
			d.NoCalls()
			continue
		}
		if (d.Available() == 0 || added == s.transfers) && !d.WantCalls() {
			if err := s.sleep(s.call); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *sleepers) serve() error {
	q := s.pair.Queue
	chains, used := make([]virtqueue.Chain, q.Size()), make([]virtqueue.Used, q.Size())
	for served := 0; served < s.transfers; {
		n, err := q.Pop(chains)
		if err != nil {
			return err
		}
		for i := range n {
			used[i] = virtqueue.Used{Head: chains[i].Head, Len: chains[i].Writable}
		}
		if q.Push(used[:n]) {
			signal(s.call)
		}
		served += n
		s.moved.Store(int64(served))
		if n == 0 && !q.Arm() {
			if err := s.sleep(s.kick); err != nil {
				return err
			}
		}
	}
	return nil
}
