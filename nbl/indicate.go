package nbl

import (
	"errors"
	"fmt"
	"sync"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
)

// IndicateFlags go with packets that are indicated (NDIS_RECEIVE_FLAGS_*, same
// values).
type IndicateFlags uint32

// Flags of an indication. Without Resources the receiver owns the Lists until
// it returns them; with it they are the driver's again when the call returns,
// so the receiver copies what it wants (Hold), leaves every List as it was and
// returns none.
const (
	Resources             IndicateFlags = 0x2
	SingleQueue           IndicateFlags = 0x800  // all Lists are of one queue
	SharedMemoryInfoValid IndicateFlags = 0x1000 // Buffer.SharedMemory answers for every List
)

// SourceParameters say how a driver receives.
type SourceParameters struct {
	Tag      string               // names the owner in a leak report
	Lists    int                  // allocated ahead, at least 1
	DataSize uint32               // bytes of memory of each
	Backfill uint32               // bytes of them in front of a frame, for headers to come
	Memory   *sharedmem.Allocator // of the host
	Queue    sharedmem.QueueID    // whose memory it is

	// LowWater is the number of free Lists below which packets are indicated
	// with Resources. 0: never.
	LowWater int

	// ToPool frees returned Lists to the pool and allocates each anew, instead
	// of keeping them in the Source's own list. It costs more, and is there to
	// be compared with. Verify, which makes the pool look for Lists that are
	// used after they were given back, implies it.
	ToPool bool
	Verify bool

	// Indicate is the way up: it is given packets and what goes for them
	// (NdisMIndicateReceiveNetBufferLists).
	Indicate func(batch []*List, flags IndicateFlags)
}

// Source is the receive side of a driver that brings frames in its own memory:
// an uplink. It is made when the driver initializes, with all Lists that it
// will ever use, and ends when it halts:
//
//	     Get            Fill, Indicate              Return
//	free -----> drawn -----------------> indicated --------> free
//	  ^           |                          |
//	  +-- Put ----+                          +-- with Resources: at once
//
// Free Lists are kept in a list of the Source's own and not given back to the
// pool, which is cheaper; the one that was returned last, whose memory is in
// the cache, is drawn first. Get, Put and Indicate are for one goroutine, the
// driver's; Return is for any.
type Source struct {
	params SourceParameters
	pool   *Pool

	lent []Buffer // of an indication with Resources: what its Lists were

	mu     sync.Mutex
	spare  []*List // free, ready for a frame; the last is drawn first
	halted bool

	violations metrics.Counter
}

// The states of a Source's List.
const (
	listFree uint8 = iota
	listDrawn
	listIndicated
	listLent // indicated with Resources
)

// NewSource makes the pool and allocates the Lists. The error wraps
// ErrParameter, or what the allocator says.
func NewSource(p SourceParameters) (*Source, error) {
	if p.Indicate == nil || p.DataSize < EthernetHeaderLen+p.Backfill || p.LowWater < 0 {
		return nil, fmt.Errorf("nbl: source %q of lists with %d bytes, %d of them backfill: room for a frame, and a function to indicate it to, are needed: %w",
			p.Tag, p.DataSize, p.Backfill, ErrParameter)
	}
	pool, err := NewPoolWith(PoolParameters{
		Tag: p.Tag, Size: p.Lists, DataSize: p.DataSize, Backfill: p.Backfill, Memory: p.Memory, Queue: p.Queue, Verify: p.Verify,
	})
	if err != nil {
		return nil, err
	}
	p.ToPool = p.ToPool || p.Verify
	s := &Source{params: p, pool: pool, spare: make([]*List, 0, p.Lists)}
	for !p.ToPool && len(s.spare) < p.Lists {
		l, err := pool.AllocateList()
		if err != nil {
			return nil, err
		}
		s.spare = append(s.spare, l)
	}
	return s, nil
}

// Get fills dst with free Lists and answers how many there were. Each is empty
// and ready for Fill.
func (s *Source) Get(dst []*List) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range dst {
		l := s.draw()
		if l == nil {
			return n
		}
		l.more.state = listDrawn
		dst[n] = l
	}
	return len(dst)
}

// draw is a free List, nil when there is none. The caller holds mu.
func (s *Source) draw() *List {
	if s.params.ToPool {
		l, err := s.pool.AllocateList()
		if err != nil {
			return nil
		}
		return l
	}
	if len(s.spare) == 0 {
		return nil
	}
	l := s.spare[len(s.spare)-1]
	s.spare = s.spare[:len(s.spare)-1]
	return l
}

// Put gives back what Get gave and nobody was told of.
func (s *Source) Put(lists []*List) error { return s.takeBack(lists, listDrawn) }

// Return gives indicated Lists back (NdisReturnNetBufferLists): of several
// indications, in any order, some or all. They are ready for the next frame
// then. Lists that are not out by an indication are refused with an error that
// wraps ErrParameter; the others are taken.
func (s *Source) Return(lists []*List) error { return s.takeBack(lists, listIndicated) }

func (s *Source) takeBack(lists []*List, from uint8) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	refused := 0
	for _, l := range lists {
		if l.more == nil || l.more.pool != s.pool || l.more.state != from {
			refused++
			continue
		}
		s.recycle(l)
	}
	if refused > 0 {
		return fmt.Errorf("nbl: %d of %d lists given back to %q are not out by it: %w", refused, len(lists), s.params.Tag, ErrParameter)
	}
	return nil
}

// recycle makes l free, whatever its receiver left on it. The caller holds mu.
func (s *Source) recycle(l *List) {
	l.more.state = listFree
	l.more.taken = 0
	if s.params.ToPool {
		s.pool.takeBack(l)
		return
	}
	l.renew()
	s.spare = append(s.spare, l)
}

// Indicate hands filled Lists up. When few are left the receiver only borrows
// them (Resources): they are free again when the call returns, and a List that
// the receiver changed, derived others from that live on, or gave back is
// counted in Violations.
func (s *Source) Indicate(batch []*List) error {
	flags, err := s.announce(batch)
	if err != nil || len(batch) == 0 {
		return err
	}
	if flags&Resources == 0 {
		s.params.Indicate(batch, flags)
		return nil
	}
	s.lent = s.lent[:0]
	for _, l := range batch {
		s.lent = append(s.lent, l.Buffer)
	}
	s.params.Indicate(batch, flags)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, l := range batch {
		if !unchanged(&s.lent[i], &l.Buffer) || l.Children() != 0 {
			s.violations.Add(1)
		}
		s.recycle(l)
	}
	return nil
}

// announce says what goes for batch and makes it out.
func (s *Source) announce(batch []*List) (IndicateFlags, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range batch {
		if l.more == nil || l.more.pool != s.pool || l.more.state != listDrawn {
			return 0, fmt.Errorf("nbl: %q indicates a list that it has not drawn from its pool: %w", s.params.Tag, ErrParameter)
		}
	}
	flags, state := SharedMemoryInfoValid|SingleQueue, listIndicated
	if s.free() < s.params.LowWater {
		flags, state = flags|Resources, listLent
	}
	for _, l := range batch {
		l.more.state = state
		if l.QueueID != batch[0].QueueID {
			flags &^= SingleQueue
		}
	}
	return flags, nil
}

func unchanged(a, b *Buffer) bool {
	return a.Offset == b.Offset && a.Length == b.Length && len(a.MDLs) == len(b.MDLs) &&
		(len(a.MDLs) == 0 || a.MDLs[0] == b.MDLs[0])
}

// Violations is how many Lists a receiver did not leave as they were while it
// only borrowed them.
func (s *Source) Violations() uint64 { return s.violations.Value() }

// Free is how many Lists can be drawn.
func (s *Source) Free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free()
}

func (s *Source) free() int {
	if s.params.ToPool {
		return len(s.pool.free)
	}
	return len(s.spare)
}

// PoolOut is how many Lists the pool has given out, to the Source's own list
// or further.
func (s *Source) PoolOut() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pool.Out()
}

// Memory is the allocation in which all frames lie.
func (s *Source) Memory() *sharedmem.Allocation { return s.pool.Memory() }

// Halt frees every List, then the pool and its memory. While Lists are drawn or
// indicated it fails, says how many, and changes nothing.
func (s *Source) Halt() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.halted {
		return nil
	}
	if out := s.params.Lists - s.free(); out > 0 {
		return fmt.Errorf("nbl: source %q halted with %d of %d lists out", s.params.Tag, out, s.params.Lists)
	}
	var errs []error
	for _, l := range s.spare {
		errs = append(errs, s.pool.Free(l))
	}
	s.spare, s.halted = nil, true
	return errors.Join(append(errs, s.pool.Close())...)
}
