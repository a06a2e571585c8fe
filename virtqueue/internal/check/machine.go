package check

// Machine is a memory model.
type Machine uint8

// The Machines.
const (
	TSO  Machine = iota // amd64
	Weak                // arm64
)

func (m Machine) String() string { return [...]string{"TSO", "weak"}[m] }

// word is a place in memory. Two words that lie in one aligned 32-bit word can
// be loaded together.
type word uint8

const (
	availIdx    word = iota // split
	availFlags              // split: 1: no calls
	usedEvent               // split
	usedWord                // split: used.idx, and used.flags as bit 4: no kicks
	availEvent              // split
	deviceEvent             // packed: position, and mode << 4
	driverOff               // packed: position
	driverMode              // packed
	private                 // of the device, for a fence
	firstDesc               // packed: the flags of each slot
	words       = firstDesc + maxSize
)

// order is how a store is ordered with the stores before it.
type order uint8

const (
	plain   order = iota
	ordered       // behind a store fence: not before the stores ahead of it
	release       // the same, and later acquires wait for it
)

// pending is a store that nobody else has seen.
type pending struct {
	at    word
	value uint8
	order order
}

const bufferSize = 4

// thread is one side: what it does next, what it knows, and its part of the
// machine.
type thread struct {
	pc      uint8
	r       [5]uint8
	waiting uint8 // stores
	buffer  [bufferSize]pending
	early   [words]uint8 // values that later loads have got already
	has     uint16       // a bit for each such word
}

// The threads.
const (
	driver = iota
	device
)

// state is everything at one moment.
type state struct {
	mem      [words]uint8
	threads  [2]thread
	kick     bool  // the kick descriptor is signalled
	call     bool  // the call descriptor is signalled
	left     uint8 // chains that the driver will still add
	restarts uint8 // of the device, that may still happen
}

// store puts a store into the buffer of thread t, or says that it is full. On
// TSO a release is an exchange: it waits for the buffer and is seen at once.
func (s *state) store(m Machine, t int, at word, v uint8, o order) bool {
	th := &s.threads[t]
	if m == TSO && o == release {
		if th.waiting == 0 {
			s.mem[at] = v
		}
		return th.waiting == 0
	}
	if th.waiting == bufferSize {
		return false
	}
	th.buffer[th.waiting] = pending{at, v, o}
	th.waiting++
	return true
}

// fence waits until all stores of thread t are seen, and makes its later loads
// late ones.
func (s *state) fence(t int) bool {
	s.threads[t].has = 0
	return s.threads[t].waiting == 0
}

// own is the value that thread t itself has stored and nobody has seen.
func (th *thread) own(at word) (v uint8, ok bool) {
	for i := int(th.waiting) - 1; i >= 0; i-- {
		if th.buffer[i].at == at {
			return th.buffer[i].value, true
		}
	}
	return 0, false
}

// load is a plain load of thread t.
func (s *state) load(t int, at word) uint8 {
	th := &s.threads[t]
	if v, ok := th.own(at); ok {
		return v
	}
	if th.has>>at&1 != 0 {
		return th.early[at]
	}
	return s.mem[at]
}

// acquire loads with acquire: no later load has been done before it. It waits
// for releases of its thread.
func (s *state) acquire(m Machine, t int, at word) (v uint8, ok bool) {
	th := &s.threads[t]
	for i := range th.waiting {
		if m == Weak && th.buffer[i].order == release {
			return 0, false
		}
	}
	if v, ok := th.own(at); ok {
		return v, true
	}
	th.has = 0
	return s.mem[at], true
}

// machineSteps are what the machine does by itself. A store leaves a buffer.
// A load that comes later may have been done before that: then its thread
// keeps the value that the word had, or, at any later time, forgets it.
func (c *Case) machineSteps(s *state, emit func(state, string)) {
	for t := range s.threads {
		for i := range int(s.threads[t].waiting) {
			if !s.mayLeave(c.Machine, t, i) {
				continue
			}
			n := *s
			at, other := n.threads[t].buffer[i].at, &n.threads[1-t]
			old := n.mem[at]
			n.leave(t, i)
			emit(n, [...]string{"a store of the driver is seen", "a store of the device is seen"}[t])
			if c.Machine == Weak && c.mayLoad(1-t, other.pc)>>at&1 != 0 {
				other.has |= 1 << at
				other.early[at] = old
				emit(n, [...]string{"a store of the driver is seen; the device has loaded before", "a store of the device is seen; the driver has loaded before"}[t])
			}
		}
		for has := s.threads[t].has; has != 0; has &= has - 1 {
			n := *s
			n.threads[t].has &^= has & -has
			emit(n, [...]string{"the driver's load is done", "the device's load is done"}[t])
		}
	}
}

// mayLoad are the words, as bits, that thread t at pc can load before its next
// acquire or fence: those loads can be done now.
func (c *Case) mayLoad(t int, pc uint8) (bits uint16) {
	const descs = 1<<maxSize - 1
	used, wish, calls := uint16(1<<usedWord), uint16(1<<usedWord|1<<availEvent), uint16(1<<availFlags|1<<usedEvent)
	if c.Protocol.packed() {
		used, wish, calls = descs<<firstDesc, 1<<deviceEvent, 1<<driverOff|1<<driverMode
	}
	switch {
	case t == device && c.Flaw == PushNoAcquire:
		return calls
	case t == device && pc == vWish2:
		return 1 << usedEvent
	case t == device:
		return 0
	case c.Flaw == KickNoFence, c.Flaw == EnableNoFence, pc == dWish:
		return used | wish
	case pc == dIdle, pc == dReap, pc == dAgain, pc == dDisable:
		return used
	}
	return 0
}

// settle forgets early loads that make no difference any more, so that states
// that are alike are equal.
func (c *Case) settle(s *state) {
	for t := range s.threads {
		th := &s.threads[t]
		if th.has == 0 {
			continue
		}
		th.has &= c.mayLoad(t, th.pc)
		for at := range words {
			if th.has>>at&1 != 0 && th.early[at] == s.mem[at] {
				th.has &^= 1 << at
			}
			if th.has>>at&1 == 0 {
				th.early[at] = 0
			}
		}
	}
}

// mayLeave says whether store i of thread t may be seen before those ahead of
// it.
func (s *state) mayLeave(m Machine, t, i int) bool {
	b := &s.threads[t].buffer
	if i > 0 && (m == TSO || b[i].order != plain) {
		return false
	}
	for j := range i {
		if b[j].at == b[i].at {
			return false
		}
	}
	return true
}

// leave makes store i of thread t seen.
func (s *state) leave(t, i int) {
	th := &s.threads[t]
	s.mem[th.buffer[i].at] = th.buffer[i].value
	th.has &^= 1 << th.buffer[i].at
	copy(th.buffer[i:], th.buffer[i+1:])
	th.waiting--
	th.buffer[th.waiting] = pending{}
}
