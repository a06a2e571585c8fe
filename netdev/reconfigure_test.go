package netdev_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"vhostnet/internal/sys"
	"vhostnet/netdev"
	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
	"vhostnet/virtio"
)

// changer is a front-end that changes what can be changed while its rings run.
type changer struct {
	r   *rig
	ctx context.Context
	rng *rand.Rand
	fe  *vutest.FrontEnd

	guest   []vhostuser.MemRegion // the guest's memory, all in file
	table   []vhostuser.MemRegion // what the back-end was told
	file    *sys.FD
	plugged *sys.FD // the file of regions that the guest does not use
	next    uint64  // counts them
	tables  int     // changes of the memory table
	enabled []bool  // by ring
	polls   []bool  // rings without a call
}

func newChanger(r *rig, fe *vutest.FrontEnd, seed uint64) *changer {
	c := &changer{r: r, rng: rand.New(rand.NewPCG(seed, 0)), fe: fe}
	memory, fds, err := fe.MemTable()
	r.must(err)
	c.file = fds[0] // QEMU has one file for all
	sys.CloseAll(fds[1:])
	extra, err := sharedmem.NewMemoryFile(1 << 20)
	r.must(err)
	defer extra.Unref()
	c.plugged, err = extra.Dup()
	r.must(err)
	r.t.Cleanup(func() { sys.CloseAll([]*sys.FD{c.file, c.plugged}) })
	c.guest, c.table = memory.Regions, slices.Clone(memory.Regions)
	c.enabled, c.polls = make([]bool, fe.Rings()), make([]bool, fe.Rings())
	for i := range c.enabled {
		c.enabled[i] = true
	}
	return c
}

// request sends a message and waits for its acknowledgement.
func (c *changer) request(q vhostuser.Request, payload []byte, fds ...*sys.FD) error {
	_, err := c.fe.Request(c.ctx, q, payload, fds, true)
	return err
}

// isPlugged tells a region that the guest does not use.
func isPlugged(m vhostuser.MemRegion) bool { return m.GPA >= 1<<40 }

func (c *changer) fileOf(m vhostuser.MemRegion) *sys.FD {
	if isPlugged(m) {
		return c.plugged
	}
	return c.file
}

func (c *changer) add(m vhostuser.MemRegion) error {
	c.table = append(c.table, m)
	c.tables++
	return c.request(vhostuser.AddMemReg, vhostuser.SingleRegion{Region: m}.Marshal(), c.fileOf(m))
}

func (c *changer) remove(i int) error {
	m := c.table[i]
	c.table = slices.Delete(c.table, i, i+1)
	c.tables++
	return c.request(vhostuser.RemMemReg, vhostuser.SingleRegion{Region: m}.Marshal())
}

// set sends the whole table.
func (c *changer) set(table []vhostuser.MemRegion) error {
	c.table = table
	c.tables++
	fds := make([]*sys.FD, len(table))
	for i := range table {
		fds[i] = c.fileOf(table[i])
	}
	return c.request(vhostuser.SetMemTable, vhostuser.MemTable{Regions: table}.Marshal(), fds...)
}

// plug adds a region that the guest does not use.
func (c *changer) plug() error {
	if len(c.table) == 8 { // front-ends have no longer ones
		return c.whole()
	}
	c.next++
	return c.add(vhostuser.MemRegion{GPA: 1<<40 + c.next<<21, User: 1<<45 + c.next<<21, Size: 1 << 20})
}

// unplug takes one of those away.
func (c *changer) unplug() error {
	i := slices.IndexFunc(c.table, isPlugged)
	if i < 0 {
		return c.plug()
	}
	return c.remove(i)
}

// cut sends the same memory in other pieces. One that ends inside a ring makes
// the ring rest until the next table.
func (c *changer) cut() error {
	table := slices.Clone(c.guest)
	for range 1 + c.rng.IntN(3) {
		i := c.rng.IntN(len(table))
		m := &table[i]
		if m.Size < 8192 {
			continue
		}
		first := 4096 * (1 + c.rng.Uint64N(m.Size/4096-1))
		rest := vhostuser.MemRegion{GPA: m.GPA + first, User: m.User + first, Size: m.Size - first, Offset: m.Offset + first}
		m.Size = first
		table = append(table, rest)
	}
	return c.set(table)
}

func (c *changer) whole() error { return c.set(slices.Clone(c.guest)) }

func (c *changer) again() error { return c.set(c.table) }

// takeAway removes one of the guest's regions while no ring is enabled, and
// gives it back. Rings in it rest meanwhile.
func (c *changer) takeAway() error {
	errs := []error{c.whole()}
	for i := range c.enabled {
		errs = append(errs, c.fe.Enable(c.ctx, i, false))
	}
	m := c.guest[c.rng.IntN(len(c.guest))]
	errs = append(errs, c.remove(slices.Index(c.table, m)), c.add(m))
	for i, on := range c.enabled {
		errs = append(errs, c.fe.Enable(c.ctx, i, on))
	}
	return errors.Join(errs...)
}

func (c *changer) anyRing() int { return c.rng.IntN(c.fe.Rings()) }

func (c *changer) call() error {
	i := c.anyRing()
	c.polls[i] = false
	return c.fe.SetCall(c.ctx, i)
}

func (c *changer) noCall() error {
	i := c.anyRing()
	c.polls[i] = true
	return c.fe.SetCallFD(c.ctx, i, nil)
}

func (c *changer) kick() error { return c.fe.SetKick(c.ctx, c.anyRing()) }

func (c *changer) toggle() error {
	i := c.anyRing()
	c.enabled[i] = !c.enabled[i]
	return c.fe.Enable(c.ctx, i, c.enabled[i])
}

// pairs changes how many queue pairs are used, which sets every ring's state.
func (c *changer) pairs() error {
	n := len(c.enabled)/2 + 1 - c.fe.Pairs() // of two: the other number
	for i := range c.enabled {
		c.enabled[i] = i/2 < n
	}
	return c.fe.UsePairs(c.ctx, n)
}

// features sends again what is known; QEMU does so for each pair.
func (c *changer) features() error {
	return errors.Join(
		c.request(vhostuser.SetFeatures, vhostuser.U64(c.fe.Features()|virtio.ProtocolFeatures).Marshal()),
		c.request(vhostuser.SetProtocolFeatures, vhostuser.U64(c.fe.Protocol()).Marshal()),
		c.request(vhostuser.SetOwner, nil))
}

// settle brings every ring into use, with a call.
func (c *changer) settle() error {
	errs := []error{c.whole()}
	for i := range c.enabled {
		c.enabled[i] = true
		errs = append(errs, c.fe.Enable(c.ctx, i, true))
		if c.polls[i] {
			c.polls[i] = false
			errs = append(errs, c.fe.SetCall(c.ctx, i))
		}
	}
	if c.fe.Pairs() != len(c.enabled)/2 {
		errs = append(errs, c.fe.UsePairs(c.ctx, len(c.enabled)/2))
	}
	return errors.Join(append(errs, c.fe.Barrier(c.ctx))...)
}

// change makes one change.
func (c *changer) change() error {
	list := []struct {
		name string
		do   func() error
	}{
		{"plug", c.plug},
		{"unplug", c.unplug},
		{"cut", c.cut},
		{"whole", c.whole},
		{"again", c.again},
		{"take away", c.takeAway},
		{"call", c.call},
		{"no call", c.noCall},
		{"kick", c.kick},
		{"enable", c.toggle},
		{"pairs", c.pairs},
		{"features", c.features},
	}
	one := list[c.rng.IntN(len(list))]
	if err := one.do(); err != nil {
		return errors.Join(errors.New(one.name), err)
	}
	return nil
}

// V29: a front-end changes memory, events, enabled rings, pairs and features
// while frames go both ways. Each frame arrives unaltered and once or is
// counted, each chain comes back, and afterwards nobody sleeps over anything.
// With VHOSTNET_SOAK=1 the memory table changes 100,000 times for each format of
// rings.
func TestV29_ChangesUnderTraffic(t *testing.T) {
	both(t, testChanges)
}

func testChanges(t *testing.T, v flavour) {
	const changes = 250 // between two looks at what became of the frames
	tables := 1         // changes of the memory table in all
	if os.Getenv("VHOSTNET_SOAK") != "" {
		tables = 100_000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := newRig(t, 2, netdev.Options{Name: "a", MAC: macA, Pairs: 2}, netdev.Options{Name: "b", MAC: macB})
	o := v.options()
	o.Pairs = 2
	a, b := r.connect("a", o), r.connect("b", v.options())
	tr := &traffic{t: t, flows: []*flowState{
		{id: 0, sender: a, pair: 0, dst: macB, src: macA, from: 1000, to: 80},
		{id: 1, sender: a, pair: 1, dst: macB, src: macA, from: 1001, to: 80},
		{id: 2, sender: b, dst: macA, src: macB, from: 80, to: 1000},
		{id: 3, sender: b, pair: 0, dst: macA, src: macB, from: 80, to: 1001},
	}}
	c := newChanger(r, a, seed)
	for round := 0; round < 2 || c.tables < tables; round++ {
		ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
		defer cancel()
		c.ctx = ctx
		tr.start(map[*vutest.FrontEnd]int{a: 2, b: 1})
		for i := range changes {
			if err := c.change(); err != nil {
				t.Fatalf("round %d, change %d: %v", round, i, err)
			}
		}
		r.must(c.settle())
		tr.endSending()
		tr.wantAllAccounted(r)
		tr.endReceiving()
		for pair := range 2 {
			tr.wantAnswer(tr.flows[pair], tr.flows[2+pair])
		}
		r.note(func() {
			if len(r.broken) > 0 || r.stuck > 0 {
				t.Errorf("broken rings: %v; stuck calls: %d", r.broken, r.stuck)
			}
		})
		if t.Failed() {
			return
		}
		cancel()
	}
	sent, got := tr.totals()
	t.Logf("%d changes of the memory table; %d of %d frames arrived; %s", c.tables, got, sent, r.counters())
	if got < sent/4 {
		t.Errorf("only %d of %d frames arrived; this shows little", got, sent)
	}
}
