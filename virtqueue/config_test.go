package virtqueue_test

import (
	"strings"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

func TestAreaLengths(t *testing.T) {
	for _, tc := range []struct {
		size              int
		features          virtio.Features
		desc, avail, used uint64
	}{
		{1, 0, 16, 6, 12},
		{1, virtio.EventIdx, 16, 8, 14},
		{256, 0, 4096, 516, 2052},
		{256, virtio.EventIdx, 4096, 518, 2054},
		{32768, virtio.EventIdx, 524288, 65542, 262150},
		{1, virtio.RingPacked, 16, 4, 4},
		{1000, virtio.RingPacked | virtio.EventIdx, 16000, 4, 4},
	} {
		desc, avail, used := virtqueue.DescLen(tc.size), virtqueue.AvailLen(tc.size, tc.features), virtqueue.UsedLen(tc.size, tc.features)
		if desc != tc.desc || avail != tc.avail || used != tc.used {
			t.Errorf("%d entries, %v: %d, %d, %d; want %d, %d, %d", tc.size, tc.features, desc, avail, used, tc.desc, tc.avail, tc.used)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 8})
	good, err := p.Config()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(c *virtqueue.Config)
		want   string
	}{
		{"size 0", func(c *virtqueue.Config) { c.Size = 0 }, "size 0 is not from 1 to 32768"},
		{"size -8", func(c *virtqueue.Config) { c.Size = -8 }, "size -8 is not from 1"},
		{"size 3", func(c *virtqueue.Config) { c.Size = 3 }, "size 3 of a split ring is not a power of two"},
		{"size 65536", func(c *virtqueue.Config) { c.Size = 65536 }, "size 65536 is not from 1"},
		{"another size", func(c *virtqueue.Config) { c.Size = 16 }, "the descriptor table has 128 bytes, 16 entries need 256"},
		{"EVENT_IDX without room", func(c *virtqueue.Config) { c.Features = virtio.EventIdx }, "the avail ring has 20 bytes, 8 entries need 22"},
		{"no used ring", func(c *virtqueue.Config) { c.Used = sharedmem.Block{} }, "the used ring has 0 bytes"},
		{"packed areas of split ones", func(c *virtqueue.Config) { c.Features = virtio.RingPacked }, "the driver event area has 20 bytes, 8 entries need 4"},
		{"size 65536, packed", func(c *virtqueue.Config) { c.Features, c.Size = virtio.RingPacked, 65536 }, "size 65536 is not from 1"},
		{"resume a packed ring's state", func(c *virtqueue.Config) { c.Resume = &virtqueue.State{Packed: true} }, "the state is of a packed ring, the driver set up a split one"},
		{"resume a split ring's state", func(c *virtqueue.Config) { c.Features, c.Resume = virtio.RingPacked, &virtqueue.State{} }, "the state is of a split ring, the driver set up a packed one"},
		{"resume behind the ring's end", func(c *virtqueue.Config) {
			c.Features, c.Resume = virtio.RingPacked, &virtqueue.State{Avail: 0x8008, Used: 0x8008, Packed: true}
		}, "cannot resume at slot 8 of a packed ring of 8 entries"},
		{"MaxChain -1", func(c *virtqueue.Config) { c.MaxChain = -1 }, "MaxChain -1"},
		{"MaxChain 32769", func(c *virtqueue.Config) { c.MaxChain = 32769 }, "MaxChain 32769"},
		{"resume with chains taken", func(c *virtqueue.Config) { c.Resume = &virtqueue.State{Avail: 5, Used: 4} }, "cannot resume at avail 5, used 4"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := good
			c.Index = 3
			tc.change(&c)
			q, err := virtqueue.New(c, p.Mem)
			if q != nil || err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "ring 3") {
				t.Fatalf("New = %v, %v; want an error with %q", q, err, tc.want)
			}
		})
	}
	if _, err := virtqueue.New(good, nil); err == nil {
		t.Error("New without memory succeeded")
	}
}

// TestV56_NothingOfAnything: a ring without entries is refused before anything
// is divided by its size; one without room for a chain of one is none either.
func TestV56_NothingOfAnything(t *testing.T) {
	for name, f := range formats {
		p := newPair(t, vqtest.Options{Size: 8, Features: f})
		for _, size := range []int{0, -1, virtqueue.MaxSize + 1} {
			c, err := p.Config()
			if err != nil {
				t.Fatal(err)
			}
			c.Size = size
			if q, err := virtqueue.New(c, p.Mem); err == nil {
				q.Close()
				t.Errorf("%s: a ring of %d entries was accepted", name, size)
			}
		}
		c, err := p.Config()
		if err != nil {
			t.Fatal(err)
		}
		c.Desc = c.Desc.Sub(0, 0)
		if q, err := virtqueue.New(c, p.Mem); err == nil {
			q.Close()
			t.Errorf("%s: a ring in no memory was accepted", name)
		}
	}
}

// TestV35_RingAlignment: every address that the specification forbids is
// refused, and every one that it allows is served.
func TestV35_RingAlignment(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 8})
	for shift := uint64(1); shift < 16; shift++ {
		for _, area := range []struct {
			name  string
			align uint64
			pick  func(c *virtqueue.Config) *sharedmem.Block
		}{
			{"descriptor table", 16, func(c *virtqueue.Config) *sharedmem.Block { return &c.Desc }},
			{"avail ring", 2, func(c *virtqueue.Config) *sharedmem.Block { return &c.Avail }},
			{"used ring", 4, func(c *virtqueue.Config) *sharedmem.Block { return &c.Used }},
		} {
			c, err := p.Config()
			if err != nil {
				t.Fatal(err)
			}
			block := area.pick(&c)
			moved, err := p.Mem.Block(vqtest.PairGPA+1<<20+shift, block.Len())
			if err != nil {
				t.Fatal(err)
			}
			*block = moved
			q, err := virtqueue.New(c, p.Mem)
			if shift%area.align == 0 {
				if err != nil {
					t.Errorf("%s moved by %d: %v", area.name, shift, err)
					continue
				}
				q.Close()
			} else if err == nil || !strings.Contains(err.Error(), area.name) {
				t.Errorf("%s moved by %d: %v, want a refusal that names it", area.name, shift, err)
			}
		}
	}
}

// TestQueueHoldsItsMemory: the Queue keeps the Map until it is suspended, and
// only until then.
func TestQueueHoldsItsMemory(t *testing.T) {
	file, err := sharedmem.NewMemoryFile(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Unref()
	budget, err := sharedmem.NewBudget(sharedmem.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	port := budget.Port()
	mem, err := sharedmem.NewMap([]sharedmem.Region{{Size: 1 << 20, File: file}}, sharedmem.MapOptions{Budget: port})
	if err != nil {
		t.Fatal(err)
	}
	c := virtqueue.Config{Size: 8}
	for _, area := range []struct {
		at, n uint64
		block *sharedmem.Block
	}{{0, virtqueue.DescLen(8), &c.Desc}, {4096, virtqueue.AvailLen(8, 0), &c.Avail}, {8192, virtqueue.UsedLen(8, 0), &c.Used}} {
		if *area.block, err = mem.Block(area.at, area.n); err != nil {
			t.Fatal(err)
		}
	}
	q, err := virtqueue.New(c, mem)
	if err != nil {
		t.Fatal(err)
	}
	if q.Mem() != mem {
		t.Errorf("Mem = %p, want %p", q.Mem(), mem)
	}
	mem.Unref()
	if bytes, _ := port.Spent(); bytes == 0 {
		t.Fatal("the memory was unmapped under a Queue")
	}
	q.Suspend()
	q.Close()
	if bytes, _ := port.Spent(); bytes != 0 || q.Mem() != nil {
		t.Fatalf("%d bytes are still mapped after Suspend", bytes)
	}
}
