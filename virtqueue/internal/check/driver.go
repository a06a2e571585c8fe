package check

// What the driver does next.
const (
	dIdle     = iota // adds, takes back, or gets ready to sleep
	dAdd             // makes chains available
	dFence           // between avail and the wish
	dWish            // looks at the wish, kicks
	dReap            // looks at used
	dOff             // writes off/wrap or used_event
	dMode            // writes flags
	dFence2          // between its wish and used
	dAgain           // looks at used again
	dDisable         // wants no calls
	dSleeping        // until a call, or until somebody sends
)

// What the driver knows.
const (
	rAdded    = iota // position behind what is available
	rReaped          // position behind what was taken back
	rBatch           // chains that are being added
	rDone            // of them, those that are available
	rSleeping        // 1: it adds in its sleep
)

// driverStep are all steps that the driver can make.
func (c *Case) driverStep(s *state, emit func(state, string)) {
	n := *s
	t := &n.threads[driver]
	switch t.pc {
	case dIdle:
		c.mayAdd(s, emit)
		t.pc = dReap
		emit(n, "driver: looks for used chains")
		t.pc = c.firstWish()
		if c.Flaw == EnableLookFirst {
			t.pc = dFence2
		}
		emit(n, "driver: gets ready to sleep")
	case dAdd:
		if c.driverAdds(&n) {
			emit(n, "driver: makes a chain available")
		}
	case dFence:
		if c.Flaw == KickNoFence || n.fence(driver) {
			t.pc = dWish
			emit(n, "driver: fence")
		}
	case dWish:
		c.driverKicks(&n, emit)
	case dReap:
		t.pc = dIdle
		c.driverReaps(&n)
		emit(n, "driver: reads used")
	case dOff, dMode:
		c.driverEnables(&n, emit)
	case dFence2:
		if c.Flaw == EnableNoFence || n.fence(driver) {
			t.pc = dAgain
			emit(n, "driver: fence")
		}
	case dAgain:
		t.pc = dSleeping
		if c.Flaw == EnableLookFirst {
			t.pc = c.firstWish()
		}
		if c.Flaw != EnableNoRecheck && c.driverReaps(&n) {
			t.pc = dDisable
		}
		emit(n, "driver: reads used again")
	case dDisable:
		if c.driverDisables(&n) {
			t.pc = dReap
			emit(n, "driver: wants no calls")
		}
	case dSleeping:
		c.mayAdd(s, emit)
		if n.call {
			n.call, t.pc, t.has = false, dDisable, 0
			emit(n, "driver: is woken by the call")
		}
	}
}

// firstWish is where the driver begins to write its wish for calls.
func (c *Case) firstWish() uint8 {
	if c.Protocol == PackedEvent || c.Protocol == SplitEvent {
		return dOff
	}
	return dMode
}

// mayAdd begins to add one or two chains, if there is room.
func (c *Case) mayAdd(s *state, emit func(state, string)) {
	t := &s.threads[driver]
	room := uint8(c.Size) - c.minus(t.r[rAdded], t.r[rReaped])
	for b := uint8(1); b <= min(2, room, s.left); b++ {
		n := *s
		n.left -= b
		d := &n.threads[driver]
		d.r[rBatch], d.r[rDone], d.r[rSleeping] = b, 0, 0
		if d.pc == dSleeping {
			d.r[rSleeping] = 1
		}
		d.pc = dAdd
		emit(n, [...]string{"", "driver: has one chain to send", "driver: has two chains to send"}[b])
	}
}

// driverAdds makes the next chain of the batch available: packed one after the
// other, split all by one store.
func (c *Case) driverAdds(s *state) bool {
	t, p := &s.threads[driver], c.Protocol
	if !p.packed() {
		t.r[rAdded] = c.plus(t.r[rAdded], t.r[rBatch])
		t.pc = dFence
		return s.store(c.Machine, driver, availIdx, t.r[rAdded], ordered)
	}
	at := t.r[rAdded]
	t.r[rAdded] = c.plus(at, 1)
	if t.r[rDone]++; t.r[rDone] == t.r[rBatch] {
		t.pc = dFence
	}
	return s.store(c.Machine, driver, c.desc(at), c.availableAt(at), ordered)
}

// driverKicks reads the device's wish and acts on it.
func (c *Case) driverKicks(n *state, emit func(state, string)) {
	t := &n.threads[driver]
	batch := t.r[rBatch]
	old := c.minus(t.r[rAdded], batch)
	wants := false
	switch c.Protocol {
	case SplitFlags:
		wants = n.load(driver, usedWord)&noKicks == 0
	case SplitEvent:
		wants = c.passed(n.load(driver, availEvent), old, batch)
	default:
		v := n.load(driver, deviceEvent)
		wants = v>>4 == enable || v>>4 == atDesc && c.passed(v&0xf, old, batch)
	}
	t.pc = dIdle
	if t.r[rSleeping] == 1 {
		t.pc = dSleeping
	}
	t.r[rBatch], t.r[rDone], t.r[rSleeping] = 0, 0, 0
	if wants {
		n.kick = true
		emit(*n, "driver: reads the device's wish and kicks")
		return
	}
	emit(*n, "driver: reads the device's wish and does not kick")
}

// driverReaps takes back what it sees as used, and says whether there was any.
func (c *Case) driverReaps(n *state) bool {
	t, p := &n.threads[driver], c.Protocol
	reaped := t.r[rReaped]
	if !p.packed() {
		t.r[rReaped] = n.load(driver, usedWord) &^ noKicks
		return t.r[rReaped] != reaped
	}
	if reaped == t.r[rAdded] || n.load(driver, c.desc(reaped)) != c.usedAt(reaped) {
		return false
	}
	t.r[rReaped] = c.plus(reaped, 1)
	return true
}

// driverEnables writes one word of its wish for calls.
func (c *Case) driverEnables(n *state, emit func(state, string)) {
	t, p := &n.threads[driver], c.Protocol
	next, ok := uint8(dFence2), false
	if c.Flaw == EnableLookFirst {
		next = dSleeping
	}
	modeFirst := c.Flaw == EnableModeFirst && p == PackedEvent
	switch {
	case p == SplitFlags:
		ok = n.store(c.Machine, driver, availFlags, 0, plain)
	case p == SplitEvent:
		ok = n.store(c.Machine, driver, usedEvent, t.r[rReaped], plain)
	case p == PackedFlags:
		ok = n.store(c.Machine, driver, driverMode, enable, plain)
	case (t.pc == dOff) != modeFirst:
		ok = n.store(c.Machine, driver, driverOff, t.r[rReaped], plain)
	default:
		ok = n.store(c.Machine, driver, driverMode, atDesc, ordered)
	}
	if p == PackedEvent && t.pc == dOff {
		next = dMode
	}
	if t.pc = next; ok {
		emit(*n, "driver: writes its wish for calls")
	}
}

// driverDisables says that no calls are wanted; with EVENT_IDX the event stays
// behind.
func (c *Case) driverDisables(n *state) bool {
	switch c.Protocol {
	case SplitFlags:
		return n.store(c.Machine, driver, availFlags, noCalls, plain)
	case PackedFlags, PackedEvent:
		return n.store(c.Machine, driver, driverMode, disable, plain)
	default:
		return true
	}
}
