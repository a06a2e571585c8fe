package virtqueue

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"vhostnet/sharedmem"
)

// Theory of operation.
//
// A split ring tells its next device where the last one stood: used.idx lies in
// guest memory. A packed ring does not: of a chain that is used only the first
// slot is rewritten, so what is in the others looks as if it waited. Its device
// has to remember. The journal is where it does: memory that outlives the
// process, and that no guest can write.
//
// What a killed process leaves in memory is what it wrote, in the order of the
// program, up to some store: one aligned word is written or is not, and no later
// one is written before an earlier one. So each Push writes, in this order,
//
//  1. one entry per chain: its id, slots and length;
//  2. the word of the push: how many chains, from which position to which;
//  3. the used descriptors, in the order of the chains, and the first one's flags
//     last, by which the driver sees all of them (packed.push);
//  4. the word of no push: no chains, and where the ring stands.
//
// Killed before 2, the push has not begun: the next device takes the chains again.
// Killed in 3, some slots are used descriptors already, and their chains' lengths
// are gone from memory: the push cannot be taken back, so the next device completes
// it from the entries. Whether it is to be completed is what the first slot says:
// it is still available where the push began, or it is not. The driver cannot have
// made it look so again: that takes two laps, and somebody to serve them. A
// front-end can be that somebody, so a push that is over is no longer asked about;
// and it can have used the first slot. What else it may have done to the ring is
// told in givenback.go.
//
// # Which ring it is
//
// A key names the ring: the file of its memory, its place there, its size. A
// guest that boots anew while nobody serves it can have its ring at the same
// place, though, and its front-end says the same of it. But a driver sets its
// ring up with zeroes. So the device leaves a mark, which it has drawn when the
// ring began, in the half of its event suppression area that nobody looks at
// while it asks for all kicks or for none. With EVENT_IDX that half has another
// use, and any word but zero must do: QEMU writes there when a guest transmits
// while nobody serves it.
//
// Another device that serves the ring in between gets its position from the
// front-end, which was told it: that is when [Journal.Forget] ends a journal.

// Offsets in a journal, bytes.
const (
	journalMagicAt = 0  // journalMagic when all the rest holds
	journalPushAt  = 8  // from, to, chains, mark: 16 bits each, the lowest first
	journalKeyAt   = 16 // the Key
	journalEntries = 64 // id, slots, length: 16, 16 and 32 bits
	journalEntry   = 8

	journalMagic = 0x31_6c_6e_6a_67_6e_69_72 // "ringjnl1"
)

// JournalLen is the length in bytes of the journal of a ring of size entries.
func JournalLen(size int) uint64 { return journalEntries + journalEntry*uint64(size) }

// Journal is where a packed ring's position outlives the process.
type Journal struct {
	// Memory is JournalLen bytes that begin at a multiple of 8, zero at first,
	// and outlive the Queue. Nobody else writes to them.
	Memory sharedmem.Block
	// Key names the ring: no two rings that can get the same Memory have the
	// same.
	Key [32]byte
	// Recover has New go on from the position that is kept, if it is of this
	// ring, whatever Config.Resume says.
	Recover bool
}

var (
	errOtherRing = errors.New("virtqueue: the position that is kept is of another ring")
	errNewDriver = errors.New("virtqueue: the position that is kept is of a driver that has set up its ring anew since")
	errJournal   = errors.New("virtqueue: the position that is kept makes no sense")
)

// keep is the journal of a running ring, or its inflight region. Without a mark
// it keeps nothing.
type keep struct {
	memory sharedmem.Block // of the journal
	mark   uint32          // in the device's event suppression area; never 0 with either

	tracks bool // the rest is there, and no journal
	region region
	file   *sharedmem.Map // of region
}

// pushed is the word of a push.
type pushed struct {
	from, to uint16 // positions, as in a State
	chains   uint16
	mark     uint16
}

func (p pushed) word() uint64 {
	return uint64(p.from) | uint64(p.to)<<16 | uint64(p.chains)<<32 | uint64(p.mark)<<48
}

func pushedOf(word uint64) pushed {
	return pushed{uint16(word), uint16(word >> 16), uint16(word >> 32), uint16(word >> 48)}
}

// key is the Key that a journal holds.
func (j *Journal) key() (k [32]byte) {
	j.Memory.CopyTo(k[:], journalKeyAt)
	return k
}

// holds reports whether there is a position, and why it is not one of p.
func (j *Journal) holds(p *packed) (at pushed, found bool, err error) {
	switch magic := j.Memory.Load64(journalMagicAt); {
	case magic == 0:
		return at, false, nil
	case magic != journalMagic:
		return at, false, fmt.Errorf("%w: it begins with %#x", errJournal, magic)
	case j.key() != j.Key:
		return at, false, errOtherRing
	}
	at = pushedOf(j.Memory.Load64(journalPushAt))
	for _, pos := range []uint16{at.from, at.to} {
		if err := (State{Avail: pos, Used: pos, Packed: true}).check(int(p.size), true); err != nil {
			return at, false, fmt.Errorf("%w: %w", errJournal, err)
		}
	}
	if at.mark == 0 || uint32(at.chains) > p.size {
		return at, false, fmt.Errorf("%w: %d chains of a ring of %d entries, mark %#x", errJournal, at.chains, p.size, at.mark)
	}
	return at, true, nil
}

// recover takes the position that j holds for p, if it is of this ring and
// driver, and completes the push that was under way.
func (j *Journal) recover(p *packed, t *taker) (found bool, err error) {
	at, found, err := j.holds(p)
	if !found {
		return false, err
	}
	if word := p.device.Load32(0); !p.leftBy(at.mark, word) {
		return false, fmt.Errorf("%w: %#x in the device's event suppression area", errNewDriver, word)
	}
	from, to := p.positionOf(at.from), p.positionOf(at.to)
	if at.chains == 0 {
		p.nextAvail, p.nextUsed = to, to
		return true, nil
	}
	used, slots := j.entries(t, int(at.chains))
	if slots > p.size || p.add(from, slots) != to {
		return false, fmt.Errorf("%w: %d chains of %d slots from %#x to %#x", errJournal, at.chains, slots, at.from, at.to)
	}
	chains := make([]uint32, len(used))
	for i := range chains {
		chains[i] = t.oldest(i).slots()
	}
	if !p.available(from) {
		to = p.behind(from, to, chains)
		p.nextAvail, p.nextUsed = to, to
		return true, nil
	}
	p.nextAvail, p.nextUsed, p.slots = to, from, slots
	t.last = t.first + uint32(len(used))
	p.push(t, used, slots)
	t.first = t.last
	return true, nil
}

// entries are the chains of the last push, put into t as if they were taken,
// and how many slots they occupy: more than there are when they make no sense.
func (j *Journal) entries(t *taker, n int) (used []Used, slots uint32) {
	for i := range n {
		word := j.Memory.Load64(journalEntries + journalEntry*uint32(i))
		chain := taken(word)
		t.note(uint32(i), chain)
		used = append(used, Used{Head: chain.head(), Len: uint32(word >> 32)})
		if slots += chain.slots(); chain.slots() == 0 || slots > MaxSize {
			return nil, MaxSize + 1
		}
	}
	return used, slots
}

// leftBy reports whether word may be what the device with this mark has left in
// its event suppression area, and QEMU perhaps after it.
func (p *packed) leftBy(mark uint16, word uint32) bool {
	return uint16(word) == mark || p.eventIdx && word>>16 != eventEnable
}

// Forget ends the journal: the front-end was told where the ring stands. The
// ring's Queue is suspended.
func (j *Journal) Forget() { j.Memory.Store64(journalMagicAt, 0) }

// begin makes j the journal of p, which stands where it is to go on. One that
// says so already, or has told where, keeps its mark, so that a ring that gets
// another Queue is at no moment without.
func (j *Journal) begin(p *packed, told bool) {
	pos := p.offWrap(p.nextUsed)
	now := pushed{from: pos, to: pos}
	if at, found, _ := j.holds(p); found && (told || at.to == pos) {
		now.mark = at.mark
		j.Memory.Store64(journalPushAt, now.word())
	} else {
		now.mark = uint16(regionMark + 1 + rand.IntN(math.MaxUint16-regionMark))
		j.Memory.Store64(journalMagicAt, 0)
		j.Memory.CopyFrom(j.Key[:], journalKeyAt)
		j.Memory.Store64(journalPushAt, now.word())
		j.Memory.Store64(journalMagicAt, journalMagic)
	}
	p.keep = keep{memory: j.Memory, mark: uint32(now.mark)}
}

// openKept takes the position that is kept for the ring, if it is asked to and
// can, and has it kept from here on: by the inflight region if there is one, as
// whoever serves the ring next can read that.
func (q *Queue) openKept() error {
	j, f, p := q.cfg.Journal, q.cfg.Inflight, &q.ring.packed
	if err := q.takeKept(); err != nil {
		return fmt.Errorf("ring %d: %w", q.cfg.Index, err)
	}
	var left []taken
	if r := q.cfg.Resume; q.recovered && r != nil {
		left = p.overtaken(p.positionOf(r.Used))
	}
	switch {
	case f != nil:
		f.begin(p, q.recovered)
		if j != nil {
			j.Forget() // or it would be believed when there is no region any more
		}
	case j != nil:
		j.begin(p, q.recovered)
	}
	q.giveBack(left)
	if q.recovered && q.dirty != nil {
		q.marking(func(d *dirty) { d.log.Mark(d.desc, DescLen(q.cfg.Size)) }) // what was written to the ring
	}
	return nil
}

// takeKept takes the position that the inflight region has, or else the journal.
// A journal that cannot be used costs nothing else, a region the ring, unless it
// is of a driver that has gone.
func (q *Queue) takeKept() error {
	j, f, p := q.cfg.Journal, q.cfg.Inflight, &q.ring.packed
	if f != nil && f.Recover && f.Memory.Load16(regionVersion) != 0 {
		err := f.recover(p)
		if err == nil {
			q.recovered = true
			return nil
		}
		if !errors.Is(err, errNewDriver) {
			return err
		}
		q.foreign = err
	}
	if j != nil && j.Recover {
		found, err := j.recover(p, &q.take)
		if q.recovered = found; found || err != nil {
			q.foreign = err
		}
	}
	return nil
}

// Recovered reports whether the ring goes on from the position in its Inflight
// or Journal, and why not when there is one that cannot be used.
func (q *Queue) Recovered() (bool, error) { return q.recovered, q.foreign }

// checkJournal refuses a Journal that cannot be this ring's.
func (c *Config) checkJournal() error {
	switch j := c.Journal; {
	case j == nil:
		return nil
	case !c.packed():
		return fmt.Errorf("virtqueue: ring %d: a split ring needs no journal, its position is in the guest's memory", c.Index)
	case j.Memory.Len() != JournalLen(c.Size) || !j.Memory.Aligned(0, journalEntry):
		return fmt.Errorf("virtqueue: ring %d: a journal of %d bytes, %d entries need %d that begin at a multiple of %d", c.Index, j.Memory.Len(), c.Size, JournalLen(c.Size), journalEntry)
	}
	return nil
}

// note writes down what is about to be pushed: the oldest chains of t, which
// occupy so many slots.
func (k *keep) note(p *packed, t *taker, used []Used, slots uint32) {
	if k.tracks {
		k.track(p, t, used, slots)
		return
	}
	for i := range used {
		k.memory.Store64(journalEntries+journalEntry*uint32(i), uint64(t.oldest(i))|uint64(used[i].Len)<<32)
	}
	at := pushed{p.offWrap(p.nextUsed), p.offWrap(p.add(p.nextUsed, slots)), uint16(len(used)), uint16(k.mark)}
	k.memory.Store64(journalPushAt, at.word())
}

// over writes down that the push of so many slots, behind which p stands, is over.
func (k *keep) over(p *packed, t *taker, slots uint32) {
	if k.tracks {
		k.landed(p, t, slots)
		return
	}
	pos := p.offWrap(p.nextUsed)
	k.memory.Store64(journalPushAt, pushed{from: pos, to: pos, mark: uint16(k.mark)}.word())
}
