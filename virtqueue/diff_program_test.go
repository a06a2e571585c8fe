package virtqueue_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"vhostnet/virtio"
	"vhostnet/virtqueue/internal/model"
)

// ringShape is what is negotiated, and where a ring begins.
type ringShape struct {
	packed, indirect, event bool
	shift                   bool // the avail ring lies beside a multiple of four
	onEmpty                 bool
	size, maxChain          int
	maxBytes                uint32 // 0: no limit
	start                   uint16
}

func (s ringShape) String() string {
	return fmt.Sprintf("packed=%t indirect=%t event=%t onEmpty=%t shift=%t size=%d maxChain=%d maxBytes=%d start=%#x",
		s.packed, s.indirect, s.event, s.onEmpty, s.shift, s.size, s.maxChain, s.maxBytes, s.start)
}

func (s ringShape) config() model.Config {
	c := model.Config{
		Packed: s.packed, Indirect: s.indirect, EventIdx: s.event, Size: s.size, MaxChain: s.maxChain,
		OnEmpty: s.onEmpty, MaxBytes: math.MaxUint32,
		MaxPieces: max(s.maxChain+len(diffRegions), 4),
		Desc:      diffDesc, Driver: diffDriver, DeviceArea: diffDevice,
	}
	if s.maxBytes > 0 {
		c.MaxBytes = uint64(s.maxBytes)
	}
	if s.shift {
		c.Driver += 2
	}
	return c
}

func (s ringShape) features() (f virtio.Features) {
	f = virtio.Version1
	if s.packed {
		f |= virtio.RingPacked
	}
	if s.indirect {
		f |= virtio.IndirectDesc
	}
	if s.event {
		f |= virtio.EventIdx
	}
	if s.onEmpty { // a legacy driver's
		f = f&^virtio.Version1 | virtio.NotifyOnEmpty
	}
	return f
}

// step is one thing that driver, device or chance does. Its operands mean
// something for every value, so that a program can be made smaller blindly.
type diffStep struct {
	op   diffOp
	a, b uint32
}

type diffOp uint8

const (
	opAdd     diffOp = iota // driver: a chain of shape a, at places b
	opPublish               // driver: shows what was added
	opWish                  // driver: wants calls as a says, at b
	opReap                  // driver: takes a chains back
	opPop                   // device: takes up to a chains
	opPush                  // device: returns up to a chains, with lengths b
	opUnpop                 // device: gives up to a chains back
	opArm                   // device: wants a kick
	opReady                 // device: counts
	opRestart               // device: suspended, and a new one; a&1: that is not told where
	opWrong                 // device: returns a chain that is not the next one
	opBegin                 // driver: sets the ring up anew, at a
	opSpoil                 // chance: spoils word a of the ring with b
	diffOps
)

var diffNames = [...]string{"add", "publish", "wish", "reap", "pop", "push", "unpop", "arm", "ready", "restart", "wrong", "begin", "spoil"}

func (s diffStep) String() string {
	return fmt.Sprintf("%-7s %#x %#x", diffNames[s.op], s.a, s.b)
}

// diffProgram is what one comparison runs.
type diffProgram struct {
	shape ringShape
	steps []diffStep
}

func (p *diffProgram) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "ring %v\n", p.shape)
	for i, step := range p.steps {
		fmt.Fprintf(&s, "%3d %v\n", i, step)
	}
	return s.String()
}

// diffRandom is a small generator for the operands of one step (splitmix).
type diffRandom uint32

func (r *diffRandom) next() uint32 {
	*r += 0x9e3779b9
	x := uint32(*r)
	x = (x ^ x>>16) * 0x21f0aaad
	x = (x ^ x>>15) * 0x735a2d97
	return x ^ x>>15
}

// generator makes programs: a good driver and a good owner of the device, and
// in half of the programs things that neither would do.
type generator struct {
	source *rand.PCG
	random *rand.Rand
	packed bool
}

func newGenerator(packed bool) *generator {
	source := rand.NewPCG(0, 0)
	return &generator{source: source, random: rand.New(source), packed: packed}
}

func (g *generator) chance(percent int) bool { return g.random.IntN(100) < percent }

func (g *generator) shape() ringShape {
	s := ringShape{packed: g.packed, indirect: g.chance(75), event: g.chance(50), size: 1 << g.random.IntN(6)}
	s.maxChain = []int{1, 2, 5, 12, 32, 64}[g.random.IntN(6)]
	switch g.random.IntN(3) {
	case 0:
		s.start = uint16(-g.random.IntN(70))
	case 1:
		s.start = uint16(g.random.Uint32())
	}
	if g.chance(5) {
		s.maxBytes = 64 << g.random.IntN(6)
	}
	if g.packed {
		s.size = 1 + g.random.IntN(diffMaxSize)
	} else {
		s.shift = g.chance(25)
		s.onEmpty = g.chance(20)
	}
	return s
}

// program makes p the program of a seed.
func (g *generator) program(seed uint64, p *diffProgram) {
	g.source.Seed(seed, 0)
	p.shape = g.shape()
	p.steps = p.steps[:0]
	spoil := 0
	if g.chance(50) {
		spoil = 2 + g.random.IntN(12)
	}
	wish := g.random.IntN(40)
	for range 4 + g.random.IntN(20) {
		for range 1 + g.random.IntN(1+min(p.shape.size, 6)) {
			p.step(opAdd, g.random.Uint32(), g.random.Uint32())
		}
		g.some(p, spoil/2, opSpoil, 0)
		g.some(p, wish, opWish, 0)
		g.some(p, 95, opPublish, 0)
		g.some(p, spoil, opSpoil, 0)
		g.some(p, 5, opReady, 0)
		g.device(p)
		g.some(p, spoil, opSpoil, 0)
		g.some(p, spoil/2, opWrong, 0)
		g.some(p, 3, opRestart, 0)
		if spoil > 0 {
			g.some(p, 25, opBegin, 0)
		}
		g.some(p, 85, opReap, diffMaxSize)
	}
}

// device is what the owner of the device does in one visit.
func (g *generator) device(p *diffProgram) {
	for range 1 + g.random.IntN(2) {
		p.step(opPop, 1+g.random.Uint32N(diffMaxSize), 0)
	}
	g.some(p, 8, opUnpop, 4)
	g.some(p, 80, opPush, diffMaxSize)
	g.some(p, 20, opPush, 4)
	if g.chance(30) {
		p.step(opArm, 0, 0)
	}
}

// some adds a step in so many of a hundred cases. limit: of its first operand,
// 0 for none.
func (g *generator) some(p *diffProgram, percent int, op diffOp, limit uint32) {
	if !g.chance(percent) {
		return
	}
	a := g.random.Uint32()
	if limit > 0 {
		a = 1 + a%limit
	}
	p.step(op, a, g.random.Uint32())
}

func (p *diffProgram) step(op diffOp, a, b uint32) {
	p.steps = append(p.steps, diffStep{op, a, b})
}
