package virtqueue_test

import (
	"errors"
	"fmt"

	"vhostnet/sharedmem"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/internal/model"
)

// ringDevice is what is compared with the model: a Queue, or one in a wrapper
// that does something wrong.
type ringDevice interface {
	Pop(dst []virtqueue.Chain) (n int, err error)
	Push(used []virtqueue.Used) (call bool)
	Unpop(n int)
	Arm() (more bool)
	Ready() (n int, err error)
	Suspend() virtqueue.State
}

// diffCounts are what was compared.
type diffCounts struct {
	programs, chains, bytes, used, calls, quiet, arms, broken, either int
	faults                                                            map[model.Fault]int
}

// differ runs programs on both devices and stops where they differ.
type differ struct {
	*diffGuest
	model  model.Device
	queue  ringDevice
	wrap   func(*virtqueue.Queue, *diffGuest) ringDevice
	config func(*virtqueue.Config)

	chains  []virtqueue.Chain // popped; taken are those of [first:behind]
	first   int
	behind  int
	used    []virtqueue.Used
	lengths []uint32
	pattern []byte
	long    bool // a chain of more Blocks than it holds itself came since none was taken
	spoiled bool // something happened that a good driver does not do
	loud    bool // there may be a kick too many
	asleep  bool // Arm has promised that there is nothing
	always  bool // looks at the canaries after each program
	counts  diffCounts
}

func newDiffer() (*differ, error) {
	g, err := newDiffGuest()
	if err != nil {
		return nil, err
	}
	d := &differ{diffGuest: g, chains: make([]virtqueue.Chain, 4*diffMaxSize), pattern: make([]byte, 1<<16)}
	d.counts.faults = map[model.Fault]int{}
	for i := range d.pattern {
		d.pattern[i] = byte(i*167 + i>>7)
	}
	return d, nil
}

// run runs a program from its beginning. The error says where the devices
// differ.
func (d *differ) run(p *diffProgram) error {
	d.counts.programs++
	d.clear()
	if err := d.restart(p.shape, p.shape.start); err != nil {
		return err
	}
	for i, s := range p.steps {
		if err := d.step(s); err != nil {
			return fmt.Errorf("step %d, %v: %w", i, s, err)
		}
	}
	d.queue.Suspend()
	if d.always || d.counts.programs%64 == 0 {
		return d.canaries()
	}
	return nil
}

// restart sets a ring up, with new devices on it.
func (d *differ) restart(s ringShape, start uint16) error {
	d.begin(s, start)
	d.spoiled = false
	if first := (model.Position{Index: 0, Wrap: true}); s.packed && d.avail != first {
		return d.start(&model.State{Avail: d.avail, Used: d.avail})
	}
	return d.start(nil)
}

// start makes new devices.
func (d *differ) start(resume *model.State) error {
	d.first, d.behind = 0, 0
	d.long, d.loud, d.asleep = false, false, false
	c := virtqueue.Config{Size: d.cfg.Size, Features: d.shape.features(), MaxChain: d.cfg.MaxChain, MaxBytes: d.shape.maxBytes}
	driver, device := d.cfg.AreaLengths()
	c.Desc, c.Avail, c.Used = d.area(d.cfg.Desc, 16*uint64(d.cfg.Size)), d.area(d.cfg.Driver, driver), d.area(d.cfg.DeviceArea, device)
	if resume != nil {
		c.Resume = &virtqueue.State{Avail: word(resume.Avail, d.shape.packed), Used: word(resume.Used, d.shape.packed), Packed: d.shape.packed}
	}
	if d.config != nil {
		d.config(&c)
	}
	q, err := virtqueue.New(c, d.mem)
	if err != nil {
		return err
	}
	if d.queue = q; d.wrap != nil {
		d.queue = d.wrap(q, d.diffGuest)
	}
	d.model.Start(d.cfg, d.bytes, resume)
	return d.differs()
}

func (d *differ) area(gpa, n uint64) sharedmem.Block {
	b, err := d.mem.Block(gpa, n)
	if err != nil {
		panic(err) // the areas are laid out by constants
	}
	return b
}

// word is a Position as the device's State has it.
func word(p model.Position, packed bool) uint16 {
	if packed && p.Wrap {
		return p.Index | 0x8000
	}
	return p.Index
}

func (d *differ) step(s diffStep) error {
	switch s.op {
	case opAdd:
		d.add(s.a, s.b)
	case opPublish:
		return d.show()
	case opWish:
		d.wish(s.a, s.b)
	case opReap:
		d.reap(int(s.a))
	case opPop:
		return d.pop(int(s.a))
	case opPush:
		return d.push(int(s.a), s.b)
	case opUnpop:
		d.unpop(min(int(s.a), d.behind-d.first))
	case opArm:
		return d.arm()
	case opReady:
		return d.ready()
	case opRestart:
		return d.resume(s.a&1 != 0)
	case opWrong:
		return d.wrong()
	case opBegin:
		d.queue.Suspend()
		return d.restart(d.shape, uint16(s.a))
	case opSpoil:
		d.spoiled = true
		d.spoil(s.a, s.b)
	}
	return nil
}

// show publishes. A device that sleeps must be told, one that is awake must
// not be (P7, as far as one thread can show it).
func (d *differ) show() error {
	tells, n := d.notifies(), d.slots
	d.publish()
	if d.spoiled || d.model.Dead() != 0 || n == 0 || tells == model.Either {
		return nil
	}
	if d.asleep && tells != model.Yes {
		return errors.New("the device sleeps and the driver was told not to kick it")
	}
	if !d.model.Armed() && !d.loud && tells != model.No {
		return errors.New("the device is awake and the driver was told to kick it")
	}
	d.asleep = false
	return nil
}

// pop takes chains out of both.
func (d *differ) pop(limit int) error {
	if d.first == d.behind {
		d.first, d.behind, d.long = 0, 0, false
	}
	dst := d.chains[d.behind:]
	dst = dst[:min(limit, len(dst))]
	if len(dst) == 0 {
		return nil
	}
	n, err := d.queue.Pop(dst)
	if err != nil {
		return d.broken(n, err, len(dst))
	}
	want := d.model.Pop(n)
	if len(want) != n {
		return fmt.Errorf("Pop gives %d chains, the model %d (fault %#x)", n, len(want), d.model.Dead())
	}
	for i := range want {
		if err := d.sameChain(&dst[i], &want[i]); err != nil {
			return fmt.Errorf("chain %d of %d: %w", i, n, err)
		}
		d.long = d.long || len(dst[i].ReadableBlocks())+len(dst[i].WritableBlocks()) > 4
	}
	d.behind += n
	d.counts.chains += n
	if n > 0 {
		d.asleep = false
	}
	if n < len(dst) {
		if err := d.whyNoMore(n); err != nil {
			return err
		}
	}
	return d.differs()
}

// whyNoMore checks that a Pop that took n and had room for more took all there
// were. It may also stop for want of room for the Blocks of long chains, if it
// took some since last none was taken, and before a chain that breaks the ring, if it is not the first.
func (d *differ) whyNoMore(n int) error {
	more, fault := d.model.Probe()
	if fault != 0 && n == 0 {
		return fmt.Errorf("Pop gives nothing, the model finds fault %#x", fault)
	}
	if !more || fault != 0 {
		return nil
	}
	if d.long && d.first < d.behind {
		return nil
	}
	return fmt.Errorf("Pop stops after %d chains, there are more", n)
}

// sameChain compares what may be read and written, byte by byte.
func (d *differ) sameChain(got *virtqueue.Chain, want *model.Chain) error {
	if got.Head != want.ID || uint64(got.Readable) != want.ReadableLen || uint64(got.Writable) != want.WritableLen {
		return fmt.Errorf("head %d, %d bytes to read, %d to write; the model has %d, %d, %d",
			got.Head, got.Readable, got.Writable, want.ID, want.ReadableLen, want.WritableLen)
	}
	d.counts.bytes += int(want.ReadableLen + want.WritableLen)
	if err := d.sameSpans(got.ReadableBlocks(), want.Readable); err != nil {
		return fmt.Errorf("readable: %w", err)
	}
	if err := d.sameSpans(got.WritableBlocks(), want.Writable); err != nil {
		return fmt.Errorf("writable: %w", err)
	}
	return nil
}

// sameSpans wants blocks to be exactly the bytes of spans, in order.
func (d *differ) sameSpans(blocks []sharedmem.Block, spans []model.Span) error {
	var s model.Span
	for _, b := range blocks {
		addr, ok := d.address(b)
		if !ok || b.Len() == 0 {
			return fmt.Errorf("a Block of %d bytes that is not in the guest's memory", b.Len())
		}
		if s.Len == 0 && len(spans) > 0 {
			s, spans = spans[0], spans[1:]
		}
		if addr != s.Addr || b.Len() > s.Len {
			return fmt.Errorf("%d bytes at %#x; the model has %d at %#x", b.Len(), addr, s.Len, s.Addr)
		}
		s.Addr, s.Len = s.Addr+b.Len(), s.Len-b.Len()
	}
	if s.Len != 0 || len(spans) != 0 {
		return fmt.Errorf("%d bytes at %#x and %d more pieces are missing", s.Len, s.Addr, len(spans))
	}
	return nil
}

// broken wants the model to have found the same fault.
func (d *differ) broken(n int, err error, limit int) error {
	var b *virtqueue.BrokenError
	if n != 0 || !errors.As(err, &b) {
		return fmt.Errorf("%d chains and %w", n, err)
	}
	before := d.model.Dead()
	if got := d.model.Pop(limit); len(got) != 0 {
		return fmt.Errorf("%w; the model has %d chains", err, len(got))
	}
	if d.model.Dead()&diffFaults[b.Reason] == 0 {
		return fmt.Errorf("%w; the model finds fault %#x", err, d.model.Dead())
	}
	if before == 0 {
		d.counts.broken++
		d.counts.faults[diffFaults[b.Reason]]++
	}
	return d.differs()
}

// diffFaults are the rules behind each Reason.
var diffFaults = [...]model.Fault{
	virtqueue.ReasonAvailIndex:    model.FaultIndex,
	virtqueue.ReasonOverrun:       model.FaultIndex,
	virtqueue.ReasonIndirectChain: model.FaultIndirectNext,
	virtqueue.ReasonHead:          model.FaultHead,
	virtqueue.ReasonNext:          model.FaultNext,
	virtqueue.ReasonLoop:          model.FaultLoop,
	virtqueue.ReasonTooLong:       model.FaultTooLong,
	virtqueue.ReasonDirection:     model.FaultDirection,
	virtqueue.ReasonUnnegotiated:  model.FaultUnnegotiated,
	virtqueue.ReasonIndirectNext:  model.FaultIndirectNext,
	virtqueue.ReasonNested:        model.FaultNested,
	virtqueue.ReasonTable:         model.FaultTable,
	virtqueue.ReasonTableAddress:  model.FaultTableAddress,
	virtqueue.ReasonUnmapped:      model.FaultUnmapped,
	virtqueue.ReasonTotal:         model.FaultTotal,
	virtqueue.ReasonPush:          model.FaultOwner,
}
