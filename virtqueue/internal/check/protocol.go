package check

// Protocol is how the sides tell each other what they want.
type Protocol uint8

// The Protocols.
const (
	SplitFlags  Protocol = iota // avail.flags and used.flags
	SplitEvent                  // used_event and avail_event
	PackedFlags                 // ENABLE and DISABLE
	PackedEvent                 // DESC
)

func (p Protocol) String() string {
	return [...]string{"split flags", "split EVENT_IDX", "packed ENABLE/DISABLE", "packed DESC"}[p]
}

func (p Protocol) packed() bool { return p >= PackedFlags }

// maxSize is the largest ring, entries.
const maxSize = 4

// modulus is where counters wrap around: indices of a split ring, as a small
// 65536; positions of a packed one after two rounds, one with each wrap
// counter.
func (c *Case) modulus() uint8 {
	if c.Protocol.packed() {
		return 2 * uint8(c.Size)
	}
	return 8
}

// plus is the counter n places on.
func (c *Case) plus(at, n uint8) uint8 { return (at + n) % c.modulus() }

// minus is how many places a is ahead of b.
func (c *Case) minus(a, b uint8) uint8 { return (a + c.modulus() - b) % c.modulus() }

// The flags of a packed descriptor at a position (2.8.1).
const (
	bitAvail = 1
	bitUsed  = 2
)

// wrap is the wrap counter at a position.
func (c *Case) wrap(pos uint8) bool { return pos < uint8(c.Size) }

func (c *Case) desc(pos uint8) word { return firstDesc + word(pos%uint8(c.Size)) }

func (c *Case) availableAt(pos uint8) uint8 {
	if c.wrap(pos) {
		return bitAvail
	}
	return bitUsed
}

func (c *Case) usedAt(pos uint8) uint8 {
	if c.wrap(pos) {
		return bitAvail | bitUsed
	}
	return 0
}

// Wishes. An event suppression structure as one word is position | mode<<4.
const (
	enable  = 0
	disable = 1
	atDesc  = 2

	noKicks = 1 << 4 // in usedWord
	noCalls = 1      // in availFlags
)

// passed says whether event is one of the n positions from old on: what
// section 2.7.7.2 and 2.8.10 mean.
func (c *Case) passed(event, old, n uint8) bool {
	from, to := uint8(0), n
	switch c.Flaw {
	case EventBehind:
		from, to = 1, n+1
	case EventLastOnly:
		from = n - 1
	case NoWrap: // compares as if counters never went round
		return event >= old && event < c.plus(old, n)
	default:
	}
	for i := from; i < to; i++ {
		if c.plus(old, i) == event {
			return true
		}
	}
	return false
}

// Flaw is something that a side does wrong.
type Flaw uint8

// The Flaws.
const (
	None            Flaw = iota
	ArmNoFence           // device: no fence between its wish and the look at avail
	ArmNoRecheck         // device: sleeps without a second look
	ArmLookFirst         // device: looks, then writes its wish
	ArmForgotten         // device: sleeps without a wish
	ArmNextButOne        // device: wants a kick for the chain after the next
	ArmNoWrap            // device: forgets the wrap counter in its wish
	DrainAfterArm        // device: drains the kick after Arm, before it sleeps
	PushNoFence          // device: no fence between used and the look at the driver's wish
	PushNoAcquire        // device: looks at the wish with a plain load
	NoFirstCall          // device: the first Push of a new device calls only if asked to
	KickNoFence          // driver: no fence between avail and the look at the device's wish
	EnableNoFence        // driver: no fence between its wish and the look at used
	EnableNoRecheck      // driver: sleeps without a second look
	EnableLookFirst      // driver: looks, then writes its wish
	EventBehind          // both: event compared with the position behind the one that was passed
	EventLastOnly        // both: event compared with the last position of a batch only
	NoWrap               // both: positions compared as if they never went round

	// These change nothing: the fence and the second look make up for them.
	PushTornWish    // device: reads off/wrap and flags of the wish one after the other
	EnableModeFirst // driver: writes the event flags before off/wrap
	flaws
)

var flawNames = [flaws]string{
	"none", "device: no fence after its wish", "device: no second look after its wish", "device: its wish is written after the second look",
	"device: no wish", "device: the wish is one off", "device: the wish has no wrap counter", "device: drains the kick after Arm",
	"device: no fence after used", "device: the driver's wish is read without acquire",
	"device: no call at the first Push", "driver: no fence after avail",
	"driver: no fence after its wish", "driver: no second look after its wish", "driver: its wish is written after the second look",
	"both: wrong inequality", "both: only the last of a batch is compared", "both: wrap-around is forgotten",
	"device: off/wrap and flags are read one after the other", "driver: event flags are written before off/wrap",
}

func (f Flaw) String() string { return flawNames[f] }
