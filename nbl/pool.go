package nbl

import (
	"errors"
	"fmt"

	"vhostnet/sharedmem"
)

// PoolParameters say what a Pool holds (NET_BUFFER_LIST_POOL_PARAMETERS).
type PoolParameters struct {
	Tag  string // names the owner in a leak report
	Size int    // how many Lists are made ahead, at least 1

	// NoBuffer makes Lists without a NET_BUFFER (fAllocateNetBuffer FALSE): for
	// who chains Buffers of his own. The default is one in each List.
	NoBuffer bool

	// DataSize gives each List memory of its own, bytes, from Memory and under
	// Queue and Usage (Receive by default). Backfill bytes of it, at the
	// start, are left free in front of a new frame. Not with NoBuffer.
	DataSize uint32
	Backfill uint32
	Memory   *sharedmem.Allocator
	Queue    sharedmem.QueueID
	Usage    sharedmem.Usage

	// ContextSize is how many bytes of context each List has for its owners.
	ContextSize uint32

	// Verify spends time to find who uses what it gave back
	// (NET_BUFFER_LIST_POOL_FLAG_VERIFY): a List that is freed is filled with
	// a pattern and reused as late as possible, and the pattern is looked at
	// then. Close tells what was found.
	Verify bool
}

// Pool holds Lists made ahead, each with its Buffer, so that the packet's way
// allocates nothing (NDIS: a NET_BUFFER_LIST pool). One goroutine at a time may
// use a Pool.
//
// There are two ways to use one. Get and Put draw Lists as they are, in
// batches: for rings, whose every packet is built anew by Wrap or over receive
// chains. [Pool.AllocateList] and [Pool.Free] are NDIS's: one List at a time,
// made ready.
type Pool struct {
	tag  string
	all  []List
	free []*List

	// Of NewPoolWith.
	params PoolParameters
	memory *sharedmem.Allocation // of all Lists with DataSize
	verify *verifier             // nil without
}

// NewPool makes size Lists, each with its NET_BUFFER and no memory: for packets
// over chains. tag names the pool's owner in a leak report.
func NewPool(tag string, size int) (*Pool, error) {
	if size < 1 {
		return nil, fmt.Errorf("nbl: pool %q of %d lists; at least one is needed: %w", tag, size, ErrParameter)
	}
	p := &Pool{tag: tag, all: make([]List, size), free: make([]*List, size)}
	for i := range p.all {
		p.free[i] = &p.all[size-1-i]
	}
	return p, nil
}

// NewPoolWith makes a pool as q says. The error wraps ErrParameter, or what the
// allocator says.
func NewPoolWith(q PoolParameters) (*Pool, error) {
	if q.Usage == sharedmem.Undefined {
		q.Usage = sharedmem.Receive
	}
	switch {
	case q.DataSize > 0 && q.NoBuffer:
		return nil, fmt.Errorf("nbl: pool %q of lists with data and without buffers: data belongs to a buffer: %w", q.Tag, ErrParameter)
	case q.DataSize > 0 && q.Memory == nil:
		return nil, fmt.Errorf("nbl: pool %q of lists with %d bytes: PoolParameters.Memory must say whence: %w", q.Tag, q.DataSize, ErrParameter)
	case q.Backfill > q.DataSize:
		return nil, fmt.Errorf("nbl: pool %q: a backfill of %d does not fit into %d bytes of data: %w", q.Tag, q.Backfill, q.DataSize, ErrParameter)
	}
	p, err := NewPool(q.Tag, q.Size)
	if err != nil {
		return nil, err
	}
	p.params = q
	if q.DataSize > 0 {
		if err := p.allocateData(); err != nil {
			return nil, err
		}
	}
	mores := make([]more, q.Size)
	context := make([]byte, q.Size*int(q.ContextSize))
	var own []byte
	if p.memory != nil {
		own = p.memory.Bytes()
	}
	for i := range mores {
		m := &mores[i]
		m.pool, m.bare = p, q.NoBuffer
		m.context, context = context[:q.ContextSize:q.ContextSize], context[q.ContextSize:]
		p.all[i].more = m
		if p.memory != nil {
			at := uint64(i) * p.stride()
			m.data[0] = p.memory.VA[0].Sub(at, uint64(q.DataSize))
			if own != nil {
				m.own = own[at:][:q.DataSize:q.DataSize]
			}
		}
	}
	if q.Verify {
		p.verify = newVerifier(p)
	}
	return p, nil
}

// stride is from one List's data to the next one's: no two share a cache line.
func (p *Pool) stride() uint64 { return (uint64(p.params.DataSize) + 63) &^ 63 }

func (p *Pool) allocateData() error {
	q := &p.params
	mem, err := q.Memory.Allocate(sharedmem.Parameters{
		Queue: q.Queue, Usage: q.Usage, Length: p.stride() * uint64(q.Size), Flags: sharedmem.Contiguous,
	})
	if err != nil {
		return fmt.Errorf("nbl: pool %q: %w", q.Tag, err)
	}
	p.memory = mem
	return nil
}

// Get fills dst with free Lists, the most recently returned first, and
// answers how many there were.
func (p *Pool) Get(dst []*List) int {
	n := min(len(dst), len(p.free))
	if p.verify != nil {
		p.verify.take(p.free[:n])
		copy(dst, p.free[:n])
		p.free = append(p.free[:0], p.free[n:]...)
		return n
	}
	left := len(p.free) - n
	copy(dst, p.free[left:])
	p.free = p.free[:left]
	return n
}

// Put returns Lists of this pool. Their packets are gone.
func (p *Pool) Put(lists []*List) {
	if p.verify != nil {
		lists = p.verify.put(lists)
	}
	p.free = append(p.free, lists...)
}

// Out is how many Lists are with their users.
func (p *Pool) Out() int { return len(p.all) - len(p.free) }

// Memory is the allocation that the Lists' data lies in; nil without DataSize.
func (p *Pool) Memory() *sharedmem.Allocation { return p.memory }

// Close gives the pool's memory back. While Lists are out it fails with an
// error that names the pool's owner, and changes nothing. In a pool that
// verifies, it also tells what was used after it was freed.
func (p *Pool) Close() error {
	if n := p.Out(); n != 0 {
		return fmt.Errorf("nbl: pool %q closed with %d of %d lists out", p.tag, n, len(p.all))
	}
	var errs []error
	if p.verify != nil {
		p.verify.take(p.free)
		errs = append(errs, p.verify.err())
		p.verify = nil
	}
	if p.memory != nil {
		errs = append(errs, p.params.Memory.Free(p.memory.AllocationHandle))
		p.memory = nil
	}
	return errors.Join(errs...)
}
