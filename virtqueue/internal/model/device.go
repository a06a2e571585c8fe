package model

// Config is a ring as the driver set it up.
type Config struct {
	Packed    bool   // RING_PACKED
	Indirect  bool   // INDIRECT_DESC
	EventIdx  bool   // EVENT_IDX
	OnEmpty   bool   // NOTIFY_ON_EMPTY, of a legacy driver
	Size      int    // Queue Size
	MaxChain  int    // descriptors that the device allows in a chain or an indirect table
	MaxBytes  uint64 // that the device allows in a chain
	MaxPieces int    // regions that the device allows the elements of a chain to lie in

	// Guest addresses of the Descriptor Area, the Driver Area and the Device
	// Area.
	Desc, Driver, DeviceArea uint64
}

// AreaLengths are the bytes of the Driver Area and of the Device Area (2.7,
// 2.8.10.1).
func (c *Config) AreaLengths() (driver, device uint64) {
	if c.Packed {
		return 4, 4
	}
	driver, device = 4+2*uint64(c.Size), 4+8*uint64(c.Size)
	if c.EventIdx {
		driver, device = driver+2, device+2
	}
	return driver, device
}

// Answer is what a device should do.
type Answer uint8

// The Answers.
const (
	No Answer = iota
	Yes
	Either // the text does not say
)

// Fits says whether a device that does so follows the Answer.
func (a Answer) Fits(does bool) bool { return a == Either || does == (a == Yes) }

// Position is a place in the ring. Split: a free-running index, Wrap is
// false. Packed: a slot and a wrap counter.
type Position struct {
	Index uint16
	Wrap  bool
}

// State is where a ring that is left can be taken up again.
type State struct{ Avail, Used Position }

// Device is the device's side of one ring.
type Device struct {
	cfg Config
	mem Memory

	next    Position // of the next chain to take
	used    Position // of the next chain to return
	started bool     // it has called once
	armed   bool     // the driver was asked for a notification
	dead    Fault    // why it stopped
	taken   []Chain  // oldest first
}

// Start makes d the device of a ring: at the place where another left it, or,
// when resume is nil, split at used.idx, packed at the first slot with both
// wrap counters 1 (2.8.1). Notifications are unwanted until Arm.
func (d *Device) Start(cfg Config, mem Memory, resume *State) {
	*d = Device{cfg: cfg, mem: mem, taken: d.taken[:0]}
	switch {
	case resume != nil:
		d.next, d.used = resume.Avail, resume.Used
	case cfg.Packed:
		d.next, d.used = Position{0, true}, Position{0, true}
	default:
		idx := mem.le16(cfg.DeviceArea + 2)
		d.next, d.used = Position{Index: idx}, Position{Index: idx}
	}
	d.unwanted()
}

// Armed says whether the driver was asked for a notification.
func (d *Device) Armed() bool { return d.armed }

// Next is the position of the next chain to take.
func (d *Device) Next() Position { return d.next }

// Dead is why the ring is broken, 0 if it is not.
func (d *Device) Dead() Fault { return d.dead }

// Taken are the chains that were taken and not returned, oldest first.
func (d *Device) Taken() []Chain { return d.taken }

// Pop takes up to limit chains, oldest first. It stops before one that breaks
// a rule; if that is the first one, the ring is broken.
func (d *Device) Pop(limit int) []Chain {
	if d.dead != 0 {
		return nil
	}
	before := len(d.taken)
	ready, fault := d.ready()
	if fault != 0 {
		d.dead = fault
		return nil
	}
	for n := 0; n < limit && n < ready; n++ {
		c := d.grow()
		d.taken = d.taken[:before+n]
		more, fault := d.take(c)
		if fault != 0 && n == 0 {
			d.dead = fault
		}
		if fault != 0 || !more {
			break
		}
		d.taken = d.taken[:before+n+1]
		d.next = d.after(d.next, c)
	}
	if len(d.taken) > before && d.armed {
		d.armed = false
		d.popped()
	}
	return d.taken[before:]
}

// Probe says whether there is one more chain to take, or why the ring would
// break there. It changes nothing.
func (d *Device) Probe() (more bool, fault Fault) {
	if d.dead != 0 {
		return false, d.dead
	}
	ready, fault := d.ready()
	if ready == 0 || fault != 0 {
		return false, fault
	}
	n := len(d.taken)
	c := d.grow()
	d.taken = d.taken[:n]
	return d.take(c)
}

// grow is one more taken chain, in memory that an earlier one may have left.
func (d *Device) grow() *Chain {
	n := len(d.taken)
	if n < cap(d.taken) {
		d.taken = d.taken[:n+1]
	} else {
		d.taken = append(d.taken, Chain{})
	}
	d.taken[n].reset()
	return &d.taken[n]
}

// Unpop gives the n chains taken last back to the ring.
func (d *Device) Unpop(n int) {
	d.taken = d.taken[:len(d.taken)-n]
	d.next = d.used
	for i := range d.taken {
		d.next = d.after(d.next, &d.taken[i])
	}
}

// Push returns the oldest chains that were taken, as many as there are
// lengths: how many bytes were written to each. It answers whether to call.
func (d *Device) Push(lengths []uint32) Answer {
	if d.dead != 0 || len(lengths) == 0 {
		return No
	}
	if len(lengths) > len(d.taken) {
		d.dead = FaultOwner
		return No
	}
	call := d.put(lengths)
	// The returned ones go behind the others, whose arrays are used again.
	for range lengths {
		first := d.taken[0]
		copy(d.taken, d.taken[1:])
		d.taken[len(d.taken)-1] = first
		d.taken = d.taken[:len(d.taken)-1]
	}
	if !d.started {
		// The driver's wish may be meant for an earlier device.
		d.started = true
		return Yes
	}
	return call
}

// Arm asks for a notification at the next chain, and says whether there is one
// already.
func (d *Device) Arm() Answer {
	if d.dead != 0 {
		return No
	}
	d.armed = true
	return d.wanted()
}

// Refuse is what happens when the owner returns a chain that is not the next
// one taken.
func (d *Device) Refuse() {
	if d.dead == 0 {
		d.dead = FaultOwner
	}
}

// Ready is how many chains are there to be taken; of a packed ring, whether
// there is one.
func (d *Device) Ready() int {
	if d.dead != 0 {
		return 0
	}
	find := d.splitReady
	if d.cfg.Packed {
		find = d.packedReady
	}
	ready, fault := find()
	d.dead = fault
	return ready
}

// Stop leaves the ring: what is taken goes back.
func (d *Device) Stop() State {
	d.Unpop(len(d.taken))
	return State{Avail: d.next, Used: d.used}
}

// Both formats answer the same questions.

// ready is how many chains there may be to take.
func (d *Device) ready() (int, Fault) {
	if d.cfg.Packed {
		return d.cfg.Size, 0 // each tells of itself
	}
	return d.splitReady()
}

// take makes c the chain at next, if there is one.
func (d *Device) take(c *Chain) (bool, Fault) {
	if d.cfg.Packed {
		return d.packedTake(c)
	}
	return true, d.splitTake(c)
}

// after is the position behind c at p.
func (d *Device) after(p Position, c *Chain) Position {
	if d.cfg.Packed {
		return d.packedAfter(p, c.slots)
	}
	return Position{Index: p.Index + 1}
}

// put writes used entries for the oldest chains.
func (d *Device) put(lengths []uint32) Answer {
	if d.cfg.Packed {
		return d.packedPut(lengths)
	}
	return d.splitPut(lengths)
}

// unwanted asks for no notifications, at the start.
func (d *Device) unwanted() {
	if d.cfg.Packed {
		d.packedUnwanted()
		return
	}
	d.splitUnwanted()
}

// popped asks for no notifications, after Arm.
func (d *Device) popped() {
	switch {
	case d.cfg.Packed:
		d.packedUnwanted()
	case !d.cfg.EventIdx:
		d.splitUnwanted()
	}
}

// wanted asks for a notification.
func (d *Device) wanted() Answer {
	if d.cfg.Packed {
		return d.packedWanted()
	}
	return d.splitWanted()
}
