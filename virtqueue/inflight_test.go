package virtqueue_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// Between two pushes another back-end that reads the region by the letter of the
// protocol finds that nothing is in flight, and where the ring stands.
func TestInflightRegionIsReadable(t *testing.T) {
	j := newTracked(t, 8, virtio.EventIdx)
	for range 7 {
		j.post(3, vqtest.Request{In: []int{10, 20}}) // six slots of eight
		j.serve()
		g := j.inflight.Memory
		c, err := j.Config()
		if err != nil {
			t.Fatal(err)
		}
		free, at := g.Load16(14), otherPlace{g.Load16(18), g.Load8(21) == 1}
		if used := g.Load16(16); used != at.at && c.Desc.Load16(16*uint32(at.at)+14)&(1<<7|1<<15) != at.flags(false) {
			free, at = g.Load16(12), otherPlace{used, g.Load8(20) == 1}
		}
		inFlight := 0
		for i := range uint16(8) {
			inFlight += int(g.Load8(entryAt(i, 0)))
		}
		listed := 0
		for ; free < 11; free = g.Load16(entryAt(free, 2)) {
			listed++
			inFlight -= int(g.Load8(entryAt(free, 0)))
		}
		if listed != 11 || inFlight != 0 || g.Load16(8) != 1 || g.Load16(10) != 11 {
			t.Errorf("%d entries are free, %d chains in flight, version %d, %d entries", listed, inFlight, g.Load16(8), g.Load16(10))
		}
		if state := j.Queue.Suspend(); state.Used != at.at|uint16(one(at.wrap))<<15 {
			t.Errorf("the ring stands at %#x, the region says %+v", state.Used, at)
		}
		j.begin(nil)
	}
}

// V10: a region that makes no sense starts no ring, and the error says what is
// wrong with it.
func TestV10_InflightIsRefused(t *testing.T) {
	store16 := func(off uint32, v uint16) func(*journaled) {
		return func(j *journaled) { j.inflight.Memory.Store16(off, v) }
	}
	// a chain of three entries from entry 2 on, which is in flight
	flying := func(spoil func(g sharedmem.Block)) func(*journaled) {
		return func(j *journaled) {
			g := j.inflight.Memory
			g.Store32(12, 5|5<<16)
			g.Store64(32+32*2, 1|3<<16|4<<32|3<<48)
			spoil(g)
		}
	}
	for name, c := range map[string]struct {
		spoil func(*journaled)
		says  string
	}{
		"version":            {store16(8, 2), "version 2"},
		"features":           {store16(0, 1), "features 0x1"},
		"used index":         {store16(16, 8), "used index 8"},
		"old used index":     {store16(18, 0xffff), "used index 65535"},
		"wrap counter":       {func(j *journaled) { j.inflight.Memory.Store8(20, 2) }, "wrap counter 2"},
		"a circle":           {store16(32+32*5+2, 0), "comes back to entry 0"},
		"no entries":         {flying(func(g sharedmem.Block) { g.Store16(32+32*2+6, 0) }), "a chain of 0 entries"},
		"too many entries":   {flying(func(g sharedmem.Block) { g.Store16(32+32*2+6, 9) }), "a chain of 9 entries"},
		"beyond the region":  {flying(func(g sharedmem.Block) { g.Store16(32+32*3+2, 11) }), "leads to entry 11"},
		"into itself":        {flying(func(g sharedmem.Block) { g.Store16(32+32*3+2, 3) }), "leads to entry 3"},
		"into the free list": {flying(func(g sharedmem.Block) { g.Store16(32+32*3+2, 7) }), "leads to entry 7"},
		"another end":        {flying(func(g sharedmem.Block) { g.Store16(32+32*2+4, 3) }), "ends at 4"},
		"two that share":     {flying(func(g sharedmem.Block) { g.Store32(12, 11|11<<16); g.Store64(32, 1|2<<16|2<<32|2<<48) }), "leads to entry 2"},
		"more than the ring": {flying(func(g sharedmem.Block) {
			g.Store32(12, 11|11<<16)
			g.Store64(32, 1|1<<16|5<<32|6<<48)
			g.Store64(32+32*2, 3<<16)
			g.Store64(32+32*6, 1|7<<16|8<<32|3<<48)
		}), "of 9 so far, in a ring of 8"},
		"no entries at all":   {store16(10, 0), "0 entries"},
		"entries beyond it":   {store16(10, 12), "12 entries"},
		"a list of any start": {store16(14, 60000), ""},
	} {
		t.Run(name, func(t *testing.T) {
			j := newTracked(t, 8, 0)
			j.post(3, vqtest.Request{In: []int{100}})
			j.serve()
			j.replace() // settled
			c.spoil(j)
			cfg, err := j.Config()
			if err != nil {
				t.Fatal(err)
			}
			inflight := *j.inflight
			inflight.Recover = true
			cfg.Inflight = &inflight
			before := make([]byte, cfg.Desc.Len())
			cfg.Desc.CopyTo(before, 0)
			q, err := virtqueue.New(cfg, j.Mem)
			if c.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				q.Close()
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "makes no sense") {
				t.Errorf("error %v, want one about %q", err, c.says)
			}
			after := make([]byte, cfg.Desc.Len())
			if cfg.Desc.CopyTo(after, 0); !slices.Equal(before, after) {
				t.Error("the ring was written to")
			}
		})
	}
}

// A ring with a region has its journal read once, and kept no longer: it would be
// believed when the region is gone.
func TestInflightRegionEndsAJournal(t *testing.T) {
	j := newJournaled(t, 8, 0)
	j.post(3, vqtest.Request{In: []int{100}})
	j.serve()
	region := &virtqueue.Inflight{Memory: sharedmem.BytesBlock(make([]byte, virtqueue.InflightLen(8))), Map: j.Mem, Recover: true}
	both := func(c *virtqueue.Config) { c.Inflight = region }
	for range 2 { // a fresh region: the position is the journal's; then the region's
		j.post(2, vqtest.Request{In: []int{100}})
		j.begin(both)
		if found, err := j.Queue.Recovered(); !found || err != nil || j.serve() != 2 {
			t.Fatalf("recovered %t, %v", found, err)
		}
	}
	j.begin(nil)
	if found, err := j.Queue.Recovered(); found || err != nil {
		t.Errorf("the journal of before is believed: %t, %v", found, err)
	}
}

// V12: whatever is written into the region while the ring runs, the ring goes on.
func TestV12_InflightIsWrittenMeanwhile(t *testing.T) {
	j := newTracked(t, 8, 0)
	for i := range 40 {
		g := j.inflight.Memory
		for off := uint32(0); uint64(off) < g.Len(); off += 8 {
			g.Store64(off, uint64(i)*0x9e37_79b9_7f4a_7c15)
		}
		j.post(4, vqtest.Request{In: []int{10, 20}})
		if got := j.serve(); got != 4 || len(j.posted) != 0 {
			t.Fatalf("round %d: %d of 4 heads came back", i, got)
		}
	}
}

// V12: a front-end that takes the region away loses that ring, as if its memory
// had gone.
func TestV12_InflightRegionFault(t *testing.T) {
	j := newTracked(t, 8, 0)
	file, fd := softFile(t, page)
	m, err := sharedmem.NewMap([]sharedmem.Region{{Size: page, File: file}}, sharedmem.MapOptions{Owner: "region"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Unref()
	b, err := m.Block(0, virtqueue.InflightLen(8))
	if err != nil {
		t.Fatal(err)
	}
	j.inflight = &virtqueue.Inflight{Memory: b, Map: m}
	j.begin(nil)
	j.post(2, vqtest.Request{In: []int{100}})
	chains := popAll(t, j.Queue, 8)
	truncate(t, fd, 0)
	if fault := wantFault(t, "push", func() { pushAll(j.Queue, chains) }); fault.Map != j.Mem {
		t.Fatalf("%v, want a fault of the guest's memory", &fault)
	}
	if n := j.Driver.Ready(); n != 0 {
		t.Errorf("%d heads came back that the region does not know of", n)
	}
}

// Config refuses a region that cannot be the ring's.
func TestInflightConfig(t *testing.T) {
	j := newTracked(t, 8, 0)
	for name, change := range map[string]func(*virtqueue.Config){
		"too short": func(c *virtqueue.Config) { c.Inflight.Memory = c.Inflight.Memory.Sub(0, virtqueue.InflightLen(8)-32) },
		"too long": func(c *virtqueue.Config) {
			c.Inflight.Memory = sharedmem.BytesBlock(make([]byte, virtqueue.InflightLen(virtqueue.MaxSize)+32))
		},
		"unaligned": func(c *virtqueue.Config) { c.Inflight.Memory = c.Inflight.Memory.Sub(4, virtqueue.InflightLen(8)) },
		"no map":    func(c *virtqueue.Config) { c.Inflight.Map = nil },
		"split":     func(c *virtqueue.Config) { c.Features, c.Resume = 0, nil },
	} {
		c, err := j.Config()
		if err != nil {
			t.Fatal(err)
		}
		inflight := *j.inflight
		c.Inflight = &inflight
		change(&c)
		if _, err := virtqueue.New(c, j.Mem); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What a front-end may write into its region, and a guest into its ring, moves no
// position out of it: the region is refused, or the ring runs on.
func FuzzInflight(f *testing.F) {
	f.Add([]byte{}, []byte{})
	f.Add(binary.LittleEndian.AppendUint64(nil, 5|5<<16), []byte{0xff})
	whole := make([]byte, virtqueue.InflightLen(11))
	whole[8], whole[20], whole[21] = 1, 1, 1
	for i := range 11 {
		binary.LittleEndian.PutUint64(whole[32+32*i:], uint64(i+1)<<16)
	}
	binary.LittleEndian.PutUint64(whole[32+32*2:], 1|3<<16|4<<32|3<<48)
	binary.LittleEndian.PutUint32(whole[12:], 5|5<<16)
	f.Add(whole, []byte{})
	// a push that is taken back, as this back-end leaves it, of slots that are none
	forged := slices.Clone(whole)
	binary.LittleEndian.PutUint64(forged[16:], signed(5|1<<32|1<<40))
	binary.LittleEndian.PutUint32(forged[12:], 5<<16|5)
	for i := 2; i < 5; i++ {
		copy(forged[32+32*i+16:], "\xff\x7f\x85\xfe\xff\xff\xff\xff\xf0\xff\xff\xff\xff\xff\xff\xff")
	}
	f.Add(forged, []byte{14: 0x80})
	f.Fuzz(func(t *testing.T, spoiled, ring []byte) {
		j := newTracked(t, 8, 0)
		defer j.Close()
		j.post(3, vqtest.Request{In: []int{100}})
		j.serve()
		j.inflight.Memory.CopyFrom(spoiled[:min(len(spoiled), int(j.inflight.Memory.Len()))], 0)
		c, err := j.Config()
		if err != nil {
			t.Fatal(err)
		}
		c.Desc.CopyFrom(ring[:min(len(ring), int(c.Desc.Len()))], 0)
		inflight := *j.inflight
		inflight.Recover = true
		c.Inflight = &inflight
		j.Queue.Close()
		q, err := virtqueue.New(c, j.Mem)
		if err != nil {
			if !strings.Contains(err.Error(), "makes no sense") {
				t.Error(err)
			}
			return
		}
		var chains [8]virtqueue.Chain
		if n, err := q.Pop(chains[:]); err == nil {
			pushAll(q, chains[:n])
		}
		if state := q.Suspend(); state.Used&^(1<<15) >= 8 || state.Used != state.Avail {
			t.Errorf("the ring stands at %+v", state)
		}
	})
}
