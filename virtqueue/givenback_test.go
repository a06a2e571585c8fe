package virtqueue_test

import (
	"fmt"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// stale is a front-end that answers a kick of a ring nobody serves as QEMU does:
// from the position on that it knows, which may be of long ago, it gives back
// every chain that looks available there.
type stale struct {
	slots sharedmem.Block
	size  uint16
	at    otherPlace
	once  bool // no more than one chain, as QEMU does when its count goes wrong
}

// staleAt is one that knows a position between 0 and twice the ring's size.
func (j *journaled) staleAt(size, pos int, once bool) *stale {
	desc, _, _ := j.areas()
	return &stale{slots: desc, size: uint16(size), at: otherPlace{uint16(pos % size), pos < size}, once: once}
}

// drop gives chains back and answers how many.
func (s *stale) drop() (n int) {
	const next, both = 1, 1<<7 | 1<<15
	for n = 0; n == 0 || !s.once; n++ {
		first := 16 * uint32(s.at.at)
		flags := s.slots.Load16(first + 14)
		if flags&both != s.at.flags(false) {
			return n
		}
		end := s.at
		for end.move(1, s.size); flags&next != 0; end.move(1, s.size) {
			flags = s.slots.Load16(16*uint32(end.at) + 14)
		}
		s.slots.Store32(first+8, 0)
		s.slots.Store16(first+14, s.at.flags(true))
		s.at = end
	}
	return n
}

// base is what it says of the ring when it starts it again.
func (s *stale) base() *virtqueue.State {
	pos := s.at.at
	if s.at.wrap {
		pos |= 1 << 15
	}
	return &virtqueue.State{Avail: pos, Used: pos, Packed: true}
}

// beginAfter starts a Queue as the first one of that front-end's next session.
func (j *journaled) beginAfter(s *stale) {
	j.t.Helper()
	j.begin(func(c *virtqueue.Config) { c.Resume = s.base() })
	if found, err := j.Queue.Recovered(); !found || err != nil {
		j.t.Fatalf("recovered %t, %v", found, err)
	}
}

// frames are the chains of frames that a driver sends, in turn.
var frames = map[string][]vqtest.Request{
	"one slot":  {{Out: [][]byte{[]byte("frame")}}},
	"two slots": {{Out: [][]byte{[]byte("header"), []byte("frame")}}},
	"one to three": {
		{Out: [][]byte{[]byte("header"), []byte("a "), []byte("frame")}},
		{Out: [][]byte{[]byte("frame")}},
		{Out: [][]byte{[]byte("header"), []byte("frame")}},
	},
}

// stands is the position of the ring, whose chains have all come back.
func (j *journaled) stands(size int) int {
	pos, _ := j.Driver.Positions()
	if pos&(1<<15) == 0 {
		return int(pos) + size
	}
	return int(pos &^ (1 << 15))
}

// A front-end that has given chains back from a stale position, anywhere in the
// two laps of the ring, leaves none of them behind: wherever the device stood,
// every head comes back once, and the ring goes on.
func TestJournalBehindAFrontEndThatGaveBack(t *testing.T) {
	const size, given = 13, 3
	for where, make := range map[string]func(*testing.T, int, virtio.Features) *journaled{"journal": newJournaled, "region": newTracked} {
		for name, list := range frames {
			for _, once := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, once %t", where, name, once), func(t *testing.T) {
					j, touched, gaveBack := make(t, size, virtio.EventIdx), 0, 0
					for round := range 4 * size * size {
						from, behind := j.stands(size), round%(2*size)
						for i := range given {
							j.post(1, list[i%len(list)])
						}
						s := j.staleAt(size, (from+behind)%(2*size), once)
						dropped, quick := s.drop(), round/(2*size)%2 == 0
						reaped := 0
						if quick { // the driver is
							reaped = j.reap() - 1
							j.post(1, list[0])
						}
						j.beginAfter(s)
						if dropped > 0 {
							touched++
						} else if n := j.Queue.GivenBack(); n > 0 {
							t.Fatalf("round %d: %d chains were given back unserved, and the front-end had touched none", round, n)
						}
						gaveBack += j.Queue.GivenBack()
						if reaped += j.serve(); reaped != given || len(j.posted) != 0 {
							t.Fatalf("round %d: a device at %d, a front-end %d slots ahead that gave back %d: %d of %d heads came back", round, from, behind, dropped, reaped, given)
						}
						j.post(1, vqtest.Request{In: []int{100}})
						if n := j.serve(); n != 1 {
							t.Fatalf("round %d: afterwards %d of 1 head came back", round, n)
						}
					}
					if touched < size || gaveBack < size {
						t.Errorf("the front-end has touched something in %d rounds, and %d chains were given back unserved", touched, gaveBack)
					}
				})
			}
		}
	}
}

// A driver that has got back what its front-end dropped where the ring stands may
// be a lap ahead when it is served again.
func TestJournalBehindADriverALapAhead(t *testing.T) {
	const size = 7
	for before := range 2 * size {
		for more := range size + 1 {
			j := newJournaled(t, size, virtio.EventIdx)
			for range before {
				j.post(1, vqtest.Request{In: []int{100}})
				j.serve()
			}
			j.post(4, frames["one slot"][0])
			s := j.staleAt(size, before, false)
			if n := s.drop() + j.reap(); n != 8 {
				t.Fatalf("%d chains were dropped and reaped, want 4 each", n)
			}
			j.post(more, frames["one slot"][0])
			j.beginAfter(s)
			if n := j.serve(); n != more || len(j.posted) != 0 {
				t.Errorf("a device at %d: %d of %d heads came back", before, n, more)
			}
			if n := j.Queue.GivenBack(); n != 0 {
				t.Errorf("a device at %d: %d chains were given back unserved", before, n)
			}
			j.Close()
		}
	}
}

// A front-end's base that is ahead of the ring, or not far behind it, costs no
// chain as long as nobody has used one.
func TestJournalWithAnyBase(t *testing.T) {
	const size = 7
	for pos := range 2 * size {
		j := newJournaled(t, size, 0)
		j.post(5, vqtest.Request{In: []int{100}})
		j.serve()
		j.post(3, frames["two slots"][0])
		j.beginAfter(j.staleAt(size, pos, false))
		if n := j.Queue.GivenBack(); n != 0 {
			t.Errorf("base %d: %d chains were given back unserved", pos, n)
		}
		if n := len(popAll(t, j.Queue, 8)); n != 3 {
			t.Errorf("base %d: %d of 3 chains were there", pos, n)
		}
		j.Close()
	}
}

// The id of a chain is in its last slot, whatever is in the others, of which the
// front-end has made one a used one.
func TestJournalGivesBackByTheLastId(t *testing.T) {
	const last, more, used, garbage = 1 << 7, 1<<7 | 1, 1<<7 | 1<<15, 77
	j := newJournaled(t, 8, 0)
	for i, s := range []struct{ flags, id uint16 }{
		{more, garbage}, {used, garbage}, {last, 3}, // amid its slots
		{used, garbage}, {more, garbage}, {last, 2}, // from its first one on
		{used, 1}, // and in the only one
	} {
		j.Driver.SetDesc(uint16(i), vqtest.PairGPA, 8, s.flags, s.id)
	}
	j.beginAfter(j.staleAt(8, 7, false))
	for slot, id := range map[uint16]uint16{0: 3, 3: 2, 6: 1} {
		if got := j.Driver.Slot(slot); got.Flags != used || got.Next != id || got.Len != 0 {
			t.Errorf("slot %d is %+v, want it used by chain %d", slot, got, id)
		}
	}
	if n, state := j.Queue.GivenBack(), j.Queue.Suspend(); n != 3 || state.Used != 7|1<<15 {
		t.Errorf("%d chains were given back, and the ring stands at %+v", n, state)
	}
}

// Slots that no front-end and no driver can have left are not made sense of: the
// ring stands where it stood.
func TestJournalBehindSlotsOfNoSense(t *testing.T) {
	const last, more = 1 << 7, 1<<7 | 1
	const used, other = 1<<7 | 1<<15, 1 << 15
	for name, flags := range map[string][]uint16{
		"a chain beyond the base":              {used, last, more},
		"a chain that ends amid others":        {last, used, last, last, used},
		"a chain that goes on after its end":   {last, used, more, used},
		"a slot of the lap before":             {last, used, other},
		"a used chain that goes on to nowhere": {last, used, more},
		"a chain that leads to another lap":    {more, other, used},
		"another lap within a used chain":      {last, used, more, other, last},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJournaled(t, 8, 0)
			if flags[0] == used { // or it would stand where the driver can see it
				flags = append([]uint16{last}, flags...)
			}
			for i, f := range flags {
				j.Driver.SetDesc(uint16(i), vqtest.PairGPA, 8, f, uint16(i))
			}
			j.beginAfter(j.staleAt(8, len(flags), false))
			if n, state := j.Queue.GivenBack(), j.Queue.Suspend(); n != 0 || state.Used != 1<<15 {
				t.Errorf("%d chains were given back, and the ring stands at %+v", n, state)
			}
		})
	}
}

// Whatever a driver writes and a front-end says, the ring stands where it was
// left or where the front-end says, and nothing comes back but what makes sense.
func FuzzGivenBack(f *testing.F) {
	f.Add([]byte{14: 0x80, 30: 0x80, 31: 0x80}, uint8(2))
	f.Add([]byte{14: 0x80, 15: 0x80}, uint8(1))
	f.Fuzz(func(t *testing.T, ring []byte, base uint8) {
		j := newJournaled(t, 8, 0)
		desc, _, _ := j.areas()
		desc.CopyFrom(ring[:min(len(ring), int(desc.Len()))], 0)
		s := j.staleAt(8, int(base%16), false)
		j.beginAfter(s)
		n, state := j.Queue.GivenBack(), j.Queue.Suspend()
		at, told := state.Used == 1<<15, state.Used == s.base().Used
		if state.Used != state.Avail || !at && !told || n > 8 || n > 0 && at {
			t.Errorf("base %#x: %d chains were given back, and the ring stands at %+v", s.base().Used, n, state)
		}
	})
}

// A ring that is idle goes on where it stands whatever base is told, one lap away
// too, where the slots of the lap before look like those of the next one.
func TestJournalOfAnIdleRing(t *testing.T) {
	for name, keep := range map[string]func(*testing.T, int, virtio.Features) *journaled{"journal": newJournaled, "region": newTracked} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{5, 8} {
				for served := range 4 * size {
					for base := range 2 * size {
						j := keep(t, size, 0)
						for i := range served {
							chains := frames["one to three"]
							j.post(1, chains[i%len(chains)])
							j.serve()
						}
						j.beginAfter(j.staleAt(size, base, false))
						j.post(1, frames["one slot"][0])
						var chains [8]virtqueue.Chain
						if n, err := j.Queue.Pop(chains[:]); n != 1 || err != nil || j.Queue.GivenBack() != 0 {
							t.Errorf("%d entries, %d chains served, base %d: %d taken, %v, %d given back", size, served, base, n, err, j.Queue.GivenBack())
						}
						j.Close()
					}
				}
			}
		})
	}
}
