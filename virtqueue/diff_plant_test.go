//go:build !race

package virtqueue_test

import (
	"errors"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// flawed is a Queue that does something wrong, where a field says so.
type flawed struct {
	*virtqueue.Queue
	guest *diffGuest

	pop  func(f *flawed, dst []virtqueue.Chain, n int)
	push func(f *flawed, used []virtqueue.Used)
	call func(call bool, n int) bool
	arm  func(f *flawed) bool

	lenient bool // says empty where the ring is broken
	less    int  // than Unpop is asked for
	ahead   int  // what Ready says too much
	state   uint16
	last    *virtqueue.Chain
}

func (f *flawed) Pop(dst []virtqueue.Chain) (int, error) {
	n, err := f.Queue.Pop(dst)
	if n > 0 {
		f.last = &dst[0]
		if f.pop != nil {
			f.pop(f, dst, n)
		}
	}
	if f.lenient && !errors.Is(err, virtqueue.ErrSuspended) {
		err = nil
	}
	return n, err
}

func (f *flawed) Push(used []virtqueue.Used) bool {
	if f.push != nil && len(used) > 0 && f.Broken() == nil {
		f.push(f, used)
	}
	call := f.Queue.Push(used)
	if f.call != nil {
		call = f.call(call, len(used))
	}
	return call
}

func (f *flawed) Unpop(n int) { f.Queue.Unpop(n - f.less) }

func (f *flawed) Arm() bool {
	if f.arm != nil {
		return f.arm(f)
	}
	return f.Queue.Arm()
}

func (f *flawed) Ready() (int, error) {
	n, err := f.Queue.Ready()
	return n + f.ahead, err
}

func (f *flawed) Suspend() virtqueue.State {
	s := f.Queue.Suspend()
	s.Avail += f.state
	return s
}

// plant is something wrong, which the comparison has to find.
type plant struct {
	name   string
	flaw   flawed
	config func(*virtqueue.Config)
	split  bool // only there
}

var plants = []plant{
	{name: "used.len too large", flaw: flawed{push: func(_ *flawed, u []virtqueue.Used) { u[len(u)-1].Len++ }}},
	{name: "used.len of another unit", flaw: flawed{push: func(_ *flawed, u []virtqueue.Used) { u[0].Len &^= 1 }}},
	{name: "more is written than said", flaw: flawed{push: func(f *flawed, u []virtqueue.Used) {
		if f.last == nil {
			return
		}
		if b := f.last.WritableBlocks(); len(b) == 1 && u[0].Head == f.last.Head && uint64(u[0].Len) < b[0].Len() {
			b[0].Store8(u[0].Len, 0xee)
		}
	}}},
	{name: "a byte behind the used ring", flaw: flawed{push: func(f *flawed, _ []virtqueue.Used) {
		_, n := f.guest.cfg.AreaLengths()
		f.guest.file.Store8(uint32(diffRegions[0].Offset+diffDevice-diffRegions[0].GPA+n), 1)
	}}},
	{name: "a byte behind the memory", flaw: flawed{push: func(f *flawed, _ []virtqueue.Used) {
		f.guest.file.Store8(uint32(diffRegions[1].Offset+diffRegions[1].Size), 1)
	}}},
	{name: "a descriptor's address is changed", flaw: flawed{push: func(f *flawed, u []virtqueue.Used) {
		f.guest.file.Store8(uint32(diffRegions[0].Offset+16*uint64(u[0].Head)), 9)
	}}},
	{name: "no call when several are returned", flaw: flawed{call: func(call bool, n int) bool { return call && n < 2 }}},
	{name: "a call for nothing", flaw: flawed{call: func(_ bool, n int) bool { return n > 0 }}},
	{name: "no call ever", flaw: flawed{call: func(bool, int) bool { return false }}},
	{name: "Arm does not look again", flaw: flawed{arm: func(f *flawed) bool { f.Queue.Arm(); return false }}},
	{name: "Arm does not ask", flaw: flawed{arm: func(f *flawed) bool { n, _ := f.Queue.Ready(); return n > 0 }}},
	{name: "kicks stay on", flaw: flawed{pop: func(f *flawed, _ []virtqueue.Chain, _ int) { f.Queue.Arm() }}},
	{name: "Unpop gives too few back", flaw: flawed{less: 1}},
	{name: "Ready counts one too many", flaw: flawed{ahead: 1}, split: true},
	{name: "Suspend tells the next position", flaw: flawed{state: 1}},
	{name: "two chains change places", flaw: flawed{pop: func(_ *flawed, dst []virtqueue.Chain, n int) {
		if n > 1 {
			dst[0], dst[1] = dst[1], dst[0]
		}
	}}},
	{name: "another head", flaw: flawed{pop: func(_ *flawed, dst []virtqueue.Chain, _ int) { dst[0].Head ^= 1 }}},
	{name: "readable counts as writable", flaw: flawed{pop: func(_ *flawed, dst []virtqueue.Chain, _ int) {
		dst[0].Readable, dst[0].Writable = dst[0].Writable, dst[0].Readable
	}}},
	{name: "a broken ring is taken for an empty one", flaw: flawed{lenient: true}},
	{name: "one descriptor too many is allowed", config: func(c *virtqueue.Config) { c.MaxChain++ }},
	{name: "one descriptor too few is allowed", config: func(c *virtqueue.Config) { c.MaxChain = max(1, c.MaxChain-1) }},
	{name: "INDIRECT without the feature", config: func(c *virtqueue.Config) { c.Features |= virtio.IndirectDesc }},
	{name: "no INDIRECT with the feature", config: func(c *virtqueue.Config) { c.Features &^= virtio.IndirectDesc }},
	{name: "EVENT_IDX is ignored", config: func(c *virtqueue.Config) {
		if c.Features.Has(virtio.EventIdx) && !c.Features.Has(virtio.RingPacked) {
			c.Avail, c.Used = shorter(c.Avail), shorter(c.Used)
		}
		c.Features &^= virtio.EventIdx
	}},
	{name: "NOTIFY_ON_EMPTY is ignored", config: func(c *virtqueue.Config) { c.Features &^= virtio.NotifyOnEmpty }, split: true},
	{name: "one byte too many is allowed", config: func(c *virtqueue.Config) {
		if c.MaxBytes > 0 {
			c.MaxBytes++
		}
	}},
	{name: "resumed one chain further", config: func(c *virtqueue.Config) {
		if c.Resume != nil {
			c.Resume.Avail++
			c.Resume.Used++
		}
	}, split: true},
}

func shorter(b sharedmem.Block) sharedmem.Block { return b.Sub(0, b.Len()-2) }

// TestDifferentialFinds is the test of the comparison: each plant is found,
// and shown by a program that fits on a screen. It is not for the race detector,
// which finds nothing new in one goroutine, and takes minutes for it.
func TestDifferentialFinds(t *testing.T) {
	for _, p := range plants {
		t.Run("split/"+p.name, func(t *testing.T) { p.find(t, false) })
		if !p.split {
			t.Run("packed/"+p.name, func(t *testing.T) { p.find(t, true) })
		}
	}
}

// find lets the comparison look for a plant.
func (p *plant) find(t *testing.T, packed bool) {
	t.Parallel()
	const chains, small = 100_000, 12
	d := openDiffer(t)
	d.config = p.config
	d.always = true
	d.wrap = func(q *virtqueue.Queue, g *diffGuest) ringDevice {
		f := p.flaw
		f.Queue, f.guest = q, g
		return &f
	}
	err := d.search(1, packed, chains)
	var found *difference
	if !errors.As(err, &found) {
		t.Fatalf("not found in %d chains: %v", d.counts.chains, err)
	}
	t.Log(found)
	if n := len(found.program.steps); n > small || found.err == nil {
		t.Errorf("the program has %d steps and shows %v", n, found.err)
	}
	d.wrap, d.config = nil, nil
	if err := d.run(&found.program); err != nil {
		t.Errorf("without the flaw the program still differs: %v", err)
	}
}
