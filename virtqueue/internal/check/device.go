package check

// What the device does next.
const (
	vStart   = iota // New: avail_event
	vStart2         // New: used.flags|idx, or the event structure
	vPoll           // Pop: looks at avail
	vDisarm         // Pop: kicks off
	vRest           // Push, packed: all used descriptors but the first
	vPublish        // Push: used.idx, or the first used descriptor
	vWish           // Push: looks at the driver's wish
	vWish2          // Push: at the second word of it
	vArm            // Arm: writes its wish
	vFence          // Arm: fence
	vLook           // Arm: looks at avail again
	vDrain          // a flaw: forgets a kick
	vSleep          // until a kick
)

// What the device knows.
const (
	rNext  = iota // position of the next chain to take
	rUsed         // position of the next chain to return
	rOld          // rUsed before the last publication
	rBits         // see below
	rFirst        // the first word of the driver's wish
)

const (
	armed   = 1 << iota // it has asked for kicks
	started             // it has called once
	after               // it writes its wish after the look
)

// start is the first state: an empty ring, whose counters are near their end.
func (c *Case) start() (s state) {
	first := uint8(0)
	if !c.Protocol.packed() {
		first = 6
		s.mem[availIdx], s.mem[usedWord], s.mem[usedEvent] = first, first, first
	}
	s.left, s.restarts = uint8(c.Chains), uint8(c.Restarts)
	d := &s.threads[driver]
	d.pc, d.r[rAdded], d.r[rReaped] = dIdle, first, first
	s.begin(first)
	return s
}

// begin makes a new device at a position.
func (s *state) begin(at uint8) {
	s.threads[device] = thread{pc: vStart, r: [5]uint8{rNext: at, rUsed: at}}
}

// stuck says whether both sides sleep for good with work to be done. A new
// device that has not pushed yet cannot make up for a call that was not made.
func (c *Case) stuck(s *state) bool {
	v, d := &s.threads[device], &s.threads[driver]
	if v.pc != vSleep || d.pc != dSleeping || s.kick || s.call || v.waiting > 0 || d.waiting > 0 {
		return false
	}
	if c.Crash && !c.Strict && int(s.restarts) < c.Restarts && v.r[rBits]&started == 0 {
		return false
	}
	return d.r[rAdded] != v.r[rNext] || d.r[rReaped] != v.r[rUsed]
}

// deviceStep are all steps that the device can make.
func (c *Case) deviceStep(s *state, emit func(state, string)) {
	c.mayRestart(s, emit)
	n := *s
	t := &n.threads[device]
	switch t.pc {
	case vStart, vStart2, vDisarm:
		c.kicksOff(&n, emit)
	case vPoll:
		c.poll(&n, emit)
	case vRest, vPublish:
		c.publish(&n, emit)
	case vWish, vWish2:
		c.wish(&n, emit)
	case vArm:
		c.arm(&n, emit)
	case vFence:
		if t.pc = vLook; n.store(c.Machine, device, private, 0, release) {
			emit(n, "device: fence")
		}
	case vLook:
		c.look(&n, emit)
	case vDrain:
		n.kick, t.pc = false, vSleep
		emit(n, "device: drains the kick")
	case vSleep:
		if n.kick {
			n.kick, t.pc, t.has = false, vPoll, 0
			emit(n, "device: is woken by the kick")
		}
	}
}

// mayRestart replaces the device: where it owes nothing, or, as Case.Crash
// says, where it owes a call. What it stored is seen.
func (c *Case) mayRestart(s *state, emit func(state, string)) {
	t := &s.threads[device]
	quiet := t.pc == vPoll && t.r[rNext] == t.r[rUsed] || t.pc == vSleep
	if s.restarts == 0 || t.waiting > 0 || c.Crash && t.pc != vWish || !c.Crash && !quiet {
		return
	}
	n := *s
	n.restarts--
	n.begin(t.r[rUsed])
	emit(n, "device: is replaced by a new one")
}

// kicksOff says that no kicks are wanted: New, and a Pop after Arm.
func (c *Case) kicksOff(n *state, emit func(state, string)) {
	t, ok := &n.threads[device], true
	used := t.r[rUsed]
	switch p := c.Protocol; {
	case p.packed():
		ok = n.store(c.Machine, device, deviceEvent, disable<<4, release)
	case p == SplitFlags:
		ok = n.store(c.Machine, device, usedWord, used|noKicks, release)
	case t.pc == vStart:
		ok = n.store(c.Machine, device, availEvent, c.plus(t.r[rNext], c.modulus()-1), plain)
		if t.pc = vStart2; ok {
			emit(*n, "device: avail_event stays behind")
		}
		return
	case t.pc == vStart2:
		ok = n.store(c.Machine, device, usedWord, used, release)
	}
	t.r[rBits] &^= armed
	next := uint8(vPoll)
	if t.r[rNext] != used {
		next = vRest
	}
	if t.pc = next; ok {
		emit(*n, "device: wants no kicks")
	}
}

// ahead is how many chains the device sees available.
func (c *Case) ahead(n *state) (k uint8, ok bool) {
	next := n.threads[device].r[rNext]
	if !c.Protocol.packed() {
		v, ok := n.acquire(c.Machine, device, availIdx)
		return c.minus(v, next), ok
	}
	v, ok := n.acquire(c.Machine, device, c.desc(next))
	if v == c.availableAt(next) {
		return 1, ok
	}
	return 0, ok
}

// poll is Pop: it takes one chain or all that it sees, and returns them, or,
// packed, looks for more first. If there is none it may arm.
func (c *Case) poll(n *state, emit func(state, string)) {
	t := &n.threads[device]
	next, taken := t.r[rNext], c.minus(t.r[rNext], t.r[rUsed])
	k, ok := c.ahead(n)
	switch {
	case !ok:
	case k > 0 && taken < uint8(c.Size):
		for _, take := range []uint8{1, k} {
			t.r[rNext] = c.plus(next, take)
			t.pc = vRest
			if t.r[rBits]&armed != 0 {
				t.pc = vDisarm
			}
			emit(*n, "device: takes chains")
			if t.pc == vRest && c.Protocol.packed() {
				t.pc = vPoll
				emit(*n, "device: takes a chain and looks for more")
			}
		}
	case taken > 0:
		t.pc = vRest
		emit(*n, "device: finds no more chains")
	default:
		t.pc = vPoll
		emit(*n, "device: finds the ring empty")
		t.pc = vArm
		if c.Flaw == ArmLookFirst {
			t.pc, t.r[rBits] = vLook, t.r[rBits]|after
		}
		emit(*n, "device: finds the ring empty and arms")
	}
}

// publish is Push: packed, the first used descriptor is the last to be stored.
func (c *Case) publish(n *state, emit func(state, string)) {
	t, p := &n.threads[device], c.Protocol
	used, ok := t.r[rUsed], true
	how := release
	if c.Flaw == PushNoFence {
		how = ordered
	}
	switch {
	case t.pc == vRest && p.packed():
		for at := c.plus(used, 1); at != t.r[rNext] && ok; at = c.plus(at, 1) {
			ok = n.store(c.Machine, device, c.desc(at), c.usedAt(at), plain)
		}
		if t.pc = vPublish; ok {
			emit(*n, "device: stores used descriptors behind the first")
		}
		return
	case p.packed():
		ok = n.store(c.Machine, device, c.desc(used), c.usedAt(used), how)
	case p == SplitFlags && t.r[rBits]&armed == 0:
		ok = n.store(c.Machine, device, usedWord, t.r[rNext]|noKicks, how)
	default:
		ok = n.store(c.Machine, device, usedWord, t.r[rNext], how)
	}
	t.r[rOld], t.r[rUsed] = used, t.r[rNext]
	if t.pc = vWish; ok {
		emit(*n, "device: publishes used")
	}
}

// wish is the end of Push: does the driver want a call?
func (c *Case) wish(n *state, emit func(state, string)) {
	t, p := &n.threads[device], c.Protocol
	read := func(at word) (uint8, bool) {
		if c.Flaw == PushNoAcquire {
			return n.load(device, at), true
		}
		return n.acquire(c.Machine, device, at)
	}
	switch {
	case p == SplitFlags:
		if v, ok := read(availFlags); ok {
			c.decide(n, v&noCalls == 0, emit)
		}
	case p == SplitEvent && t.pc == vWish:
		if _, ok := read(availIdx); ok {
			t.pc = vWish2
			emit(*n, "device: acquire")
		}
	case p == SplitEvent:
		c.decide(n, c.passed(n.load(device, usedEvent), t.r[rOld], c.minus(t.r[rUsed], t.r[rOld])), emit)
	case c.Flaw == PushTornWish && t.pc == vWish:
		if v, ok := read(driverOff); ok {
			t.r[rFirst], t.pc = v, vWish2
			emit(*n, "device: reads off/wrap")
		}
	default:
		off, ok := read(driverOff)
		mode, ok2 := read(driverMode)
		if c.Flaw == PushTornWish {
			off, t.r[rFirst] = t.r[rFirst], 0
		}
		if ok && ok2 {
			c.decide(n, mode == enable || mode == atDesc && c.passed(off, t.r[rOld], c.minus(t.r[rUsed], t.r[rOld])), emit)
		}
	}
}

// decide calls, or not.
func (c *Case) decide(n *state, wants bool, emit func(state, string)) {
	t := &n.threads[device]
	first := t.r[rBits]&started == 0
	t.pc, t.r[rOld] = vPoll, 0
	t.r[rBits] |= started
	if wants || first && c.Flaw != NoFirstCall {
		n.call = true
		emit(*n, "device: reads the driver's wish and calls")
		return
	}
	emit(*n, "device: reads the driver's wish and does not call")
}

// arm writes the device's wish for kicks.
func (c *Case) arm(n *state, emit func(state, string)) {
	t, p, ok := &n.threads[device], c.Protocol, true
	how, event := release, t.r[rNext]
	if c.Flaw == ArmNoFence {
		how = ordered
	}
	if c.Flaw == ArmNextButOne {
		event = c.plus(event, 1)
	}
	if c.Flaw == ArmNoWrap {
		event %= uint8(c.Size)
	}
	t.r[rBits] |= armed
	t.pc = vLook
	switch {
	case c.Flaw == ArmForgotten:
	case p == SplitFlags:
		ok = n.store(c.Machine, device, usedWord, t.r[rUsed], how)
	case p == SplitEvent:
		ok = n.store(c.Machine, device, availEvent, event, plain)
		if c.Flaw != ArmNoFence {
			t.pc = vFence
		}
	case p == PackedFlags:
		ok = n.store(c.Machine, device, deviceEvent, enable<<4, how)
	default:
		ok = n.store(c.Machine, device, deviceEvent, event|atDesc<<4, how)
	}
	if t.r[rBits]&after != 0 {
		t.pc, t.r[rBits] = vSleep, t.r[rBits]&^after
	}
	if ok {
		emit(*n, "device: writes its wish for kicks")
	}
}

// look is the end of Arm: sleep, or chains have come.
func (c *Case) look(n *state, emit func(state, string)) {
	t := &n.threads[device]
	k, ok := c.ahead(n)
	switch {
	case !ok:
		return
	case k > 0 && c.Flaw != ArmNoRecheck:
		t.pc, t.r[rBits] = vPoll, t.r[rBits]&^after
		emit(*n, "device: looks again and finds chains")
		return
	case t.r[rBits]&after != 0:
		t.pc = vArm
	case c.Flaw == DrainAfterArm:
		t.pc = vDrain
	default:
		t.pc = vSleep
	}
	emit(*n, "device: looks again, finds nothing, sleeps")
}
