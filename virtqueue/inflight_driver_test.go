package virtqueue_test

import (
	"strings"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// areas are the ring's areas.
func (j *journaled) areas() (desc, driver, device sharedmem.Block) {
	j.t.Helper()
	c, err := j.Config()
	if err != nil {
		j.t.Fatal(err)
	}
	return c.Desc, c.Avail, c.Used
}

// anew is what a driver does that sets the ring up anew.
func (j *journaled) anew() {
	j.t.Helper()
	desc, driver, device := j.areas()
	desc.Zero()
	driver.Zero()
	device.Zero()
}

// wantBase has the ring start at the front-end's base, and say that its driver
// is another one.
func (j *journaled) wantBase() {
	j.t.Helper()
	j.begin(nil)
	if found, err := j.Queue.Recovered(); found || err == nil || !strings.Contains(err.Error(), "set up its ring anew") {
		j.t.Errorf("recovered %t, %v", found, err)
	}
	if state := j.Queue.Suspend(); state.Used != 1<<15 {
		j.t.Errorf("the ring stands at %+v, want the front-end's base", state)
	}
}

// wantFound has the ring go on at pos, as the region says.
func (j *journaled) wantFound(pos uint16) {
	j.t.Helper()
	j.begin(nil)
	if found, err := j.Queue.Recovered(); !found || err != nil {
		j.t.Errorf("recovered %t, %v", found, err)
	}
	if state := j.Queue.Suspend(); state.Used != pos {
		j.t.Errorf("the ring stands at %+v, want %#x", state, pos)
	}
}

// A driver that has set up its ring anew while nobody served it has it served
// from where the front-end says, whatever the region holds, and the region is that
// ring's from then on.
func TestInflightOfAnotherDriver(t *testing.T) {
	for _, f := range []virtio.Features{0, virtio.EventIdx} {
		for name, left := range map[string]func(*journaled){
			"at rest":        func(*journaled) {},
			"armed":          func(j *journaled) { j.Queue.Arm() },
			"replaced":       func(j *journaled) { j.replace() },
			"recovered":      func(j *journaled) { j.begin(nil) },
			"with chains":    func(j *journaled) { j.post(2, vqtest.Request{In: []int{100}}); popAll(t, j.Queue, 2) },
			"a whole lap on": func(j *journaled) { j.post(8, vqtest.Request{In: []int{100}}); j.serve() },
		} {
			t.Run(name, func(t *testing.T) {
				j := newTracked(t, 8, f)
				j.post(3, vqtest.Request{In: []int{100}})
				j.serve()
				left(j)
				j.anew()
				j.wantBase()
				j.wantFound(1 << 15)
			})
		}
	}
}

// That driver may want a smaller ring, in which the position is none.
func TestInflightOfAnotherDriverOfASmallerRing(t *testing.T) {
	j := newTracked(t, 8, 0)
	j.post(5, vqtest.Request{In: []int{100}})
	j.serve()
	j.anew()
	j.begin(func(c *virtqueue.Config) { c.Size, c.Desc = 4, c.Desc.Sub(0, virtqueue.DescLen(4)) })
	if found, err := j.Queue.Recovered(); found || err == nil {
		t.Errorf("recovered %t, %v", found, err)
	}
}

// A region of which another back-end moved the position last is taken, whatever
// that one has left in its event suppression area.
func TestInflightSignIsOfAPosition(t *testing.T) {
	t.Run("never ours", func(t *testing.T) {
		j, _ := newOther(t, 11, 4)
		j.wantFound(4 | 1<<15)
	})
	t.Run("ours before", func(t *testing.T) {
		j := newTracked(t, 11, 0)
		j.post(3, vqtest.Request{In: []int{100}})
		j.serve()
		j.inflight.Memory.Store16(16, 5)
		j.inflight.Memory.Store16(18, 5)
		_, _, device := j.areas()
		device.Zero()
		j.wantFound(5 | 1<<15)
		j.wantFound(5 | 1<<15)
	})
}

// signed is the word of positions in a region with this back-end's sign.
func signed(word uint64) uint64 {
	return word | uint64(uint16(word<<16*0x9e37_79b9_7f4a_7c15>>48)|1)<<48
}

// A back-end of the same sign that is killed behind a push, and had landed the
// oldest of its chains, leaves the others in the region. All of them are back.
func TestInflightWithoutTheOldest(t *testing.T) {
	for landed := 1; landed < 3; landed++ {
		j := newTracked(t, 16, virtio.EventIdx)
		for _, in := range [][]int{{100}, {20, 30, 50}, {20, 30, 50}} {
			j.post(1, vqtest.Request{In: in})
		}
		j.serve() // slots 0 to 6
		g := j.inflight.Memory
		for i, head := range []uint64{1: 1 | 2<<16 | 3<<32 | 3<<48, 2: 1 | 5<<16 | 6<<32 | 3<<48} {
			if i >= landed {
				entry := uint16([]int{0, 1, 4}[i])
				g.Store64(entryAt(entry, 0), head)
				g.Store64(entryAt(entry, 8), uint64(i))
			}
		}
		g.Store32(12, 7<<16)                 // what was before the push is free from entry 7 on
		g.Store64(16, signed(7|1<<32|1<<40)) // from slot 0 to slot 7
		j.post(1, vqtest.Request{In: []int{100}})
		j.wantFound(7 | 1<<15)
		j.begin(nil)
		if got := j.serve(); got != 1 || len(j.posted) != 0 {
			t.Errorf("behind %d that were landed, %d of 1 head came back", landed, got)
		}
	}
}

// A position that the front-end was told is not kept, and whoever reads the rest
// of the region finds nothing in flight there.
func TestInflightForgets(t *testing.T) {
	j := newTracked(t, 8, virtio.EventIdx)
	j.post(3, vqtest.Request{In: []int{100}})
	j.serve()
	g := j.inflight.Memory
	j.inflight.Forget(j.Queue.Suspend())
	for i := range uint16(11) {
		if g.Load8(entryAt(i, 0)) != 0 || g.Load16(entryAt(i, 2)) != i+1 {
			t.Errorf("entry %d: in flight %d, leads to %d", i, g.Load8(entryAt(i, 0)), g.Load16(entryAt(i, 2)))
		}
	}
	if g.Load32(12) != 0 || g.Load32(16) != 3|3<<16 || g.Load16(20) != 1|1<<8 || g.Load16(8) != 0 {
		t.Errorf("heads %#x, used indexes %#x, wrap counters %#x, version %d", g.Load32(12), g.Load32(16), g.Load16(20), g.Load16(8))
	}
	j.begin(nil)
	if found, err := j.Queue.Recovered(); found || err != nil {
		t.Errorf("recovered %t, %v", found, err)
	}
	if state := j.Queue.Suspend(); state.Used != 1<<15 {
		t.Errorf("the ring stands at %+v, want the front-end's base", state)
	}
}

// A region that is given to a ring again which had a journal meanwhile does not
// hide what the journal knows.
func TestInflightRegionBehindAJournal(t *testing.T) {
	j := newTracked(t, 8, 0)
	j.post(3, vqtest.Request{In: []int{100}})
	j.serve()
	state, region := j.Queue.Suspend(), j.inflight
	j.inflight = nil
	j.begin(func(c *virtqueue.Config) { c.Resume = &state })
	j.post(2, vqtest.Request{In: []int{100}})
	j.serve()
	j.begin(func(c *virtqueue.Config) {
		inflight := *region
		inflight.Recover = true
		c.Inflight = &inflight
	})
	if found, err := j.Queue.Recovered(); !found || err != nil {
		t.Errorf("recovered %t, %v", found, err)
	}
	if state := j.Queue.Suspend(); state.Used != 5|1<<15 {
		t.Errorf("the ring stands at %+v, want what the journal says", state)
	}
}
