package sharedmem

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Errors of an Allocator, named after the statuses of NdisAllocateSharedMemory.
var (
	// ErrResources: the request is right, but cannot be met (NDIS_STATUS_RESOURCES).
	ErrResources = errors.New("not enough shared memory")
	// ErrParameter: the request is wrong (NDIS_STATUS_INVALID_PARAMETER).
	ErrParameter = errors.New("invalid parameter")
	// ErrProvider: the provider's answer is not what was asked for.
	ErrProvider = errors.New("the provider broke its contract")
	// ErrHandle: nothing is allocated under the handle, any more or ever.
	ErrHandle = errors.New("no such allocation")
	// ErrClosed: the Allocator has been closed.
	ErrClosed = errors.New("the allocator is closed")
)

// Segment is one element of a scatter/gather list.
type Segment struct {
	Address uint64 // of a guest: guest physical; of the host: offset in the arena
	Length  uint64 // bytes
}

// Handle names an allocation in indications: the SharedMemoryHandle of a
// packet's segments. It is unique in the process.
type Handle uint64

// AllocationHandle names an allocation to its Allocator, and is the only thing
// that frees it. The zero AllocationHandle names nothing.
type AllocationHandle struct {
	owner *Allocator
	id    Handle
}

// Allocation is memory handed out. It is good until it is freed.
type Allocation struct {
	Parameters       Parameters
	VA               []Block   // the memory, in order; one Block when it is contiguous
	SG               []Segment // where each Block of VA lies
	Node             Node      // the node that its pages come from; AnyNode when nobody chose, or nobody could
	Handle           Handle
	AllocationHandle AllocationHandle
}

// Offset is how far b begins behind the start of the allocation, in bytes:
// with Handle it names a packet's segment. It fails when b is not wholly
// inside one Block of VA.
func (l *Allocation) Offset(b Block) (offset uint64, ok bool) {
	for _, piece := range l.VA {
		if off := uint64(b.addr()) - uint64(piece.addr()); off <= piece.n && b.n <= piece.n-off {
			return offset + off, true
		}
		offset += piece.n
	}
	return 0, false
}

// Account is what is allocated under one tag.
type Account struct {
	Queue QueueID
	Usage Usage
	Bytes uint64
	Count int
}

type tag struct {
	queue QueueID
	usage Usage
}

// record is what an Allocator remembers of an allocation.
type record struct {
	p   Parameters
	mem Memory
}

// lastHandle is the Handle given out last, by any Allocator. None is reused, so
// a stale one names nothing.
var lastHandle atomic.Uint64

// Allocator hands out shared memory under a tag, queue and usage, and accounts
// for it exactly: every count returns to zero. All methods may be called
// concurrently.
type Allocator struct {
	known func(QueueID) bool

	mu       sync.Mutex
	provider Provider // nil once closed
	live     map[Handle]record
	accounts map[tag]*Account
}

// AllocatorOptions is what an Allocator is made from beside its Provider.
type AllocatorOptions struct {
	// Queue reports whether a queue exists, from ALLOCATE_QUEUE until it is
	// freed; requests for others are refused. It is called under the
	// Allocator's lock and must not call it. nil: whoever asks has checked.
	Queue func(QueueID) bool
}

// NewAllocator hands out the memory of a provider (NDIS: NdisSetOptionalHandlers
// with the provider's handlers). The Allocator owns p from now on.
func NewAllocator(p Provider, o AllocatorOptions) *Allocator {
	if o.Queue == nil {
		o.Queue = func(QueueID) bool { return true }
	}
	return &Allocator{provider: p, known: o.Queue, live: map[Handle]record{}, accounts: map[tag]*Account{}}
}

// Allocate hands out memory as p asks (NdisAllocateSharedMemory). It fails with
// an error that wraps ErrParameter, ErrResources, ErrProvider or ErrClosed, or
// what the provider says, and then has no effect. The caller frees what it got
// before Close.
func (a *Allocator) Allocate(p Parameters) (*Allocation, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.provider == nil {
		return nil, fmt.Errorf("sharedmem: allocate: %w", ErrClosed)
	}
	mem, err := a.provide(p)
	if err != nil {
		return nil, fmt.Errorf("sharedmem: allocate %d bytes for queue %d, %s: %w", p.Length, p.Queue, p.Usage, err)
	}
	h := Handle(lastHandle.Add(1))
	a.live[h] = record{p, Memory{slices.Clone(mem.VA), slices.Clone(mem.SG), mem.Node}} // copies: what the caller does to his changes nothing
	a.charge(p)
	return &Allocation{
		Parameters: p, VA: mem.VA, SG: mem.SG, Node: mem.Node,
		Handle: h, AllocationHandle: AllocationHandle{a, h},
	}, nil
}

// provide asks the provider and checks its answer.
func (a *Allocator) provide(p Parameters) (Memory, error) {
	if !a.known(p.Queue) {
		return Memory{}, fmt.Errorf("there is no such queue: %w", ErrParameter)
	}
	mem, err := a.provider.Allocate(p)
	if err != nil {
		return Memory{}, err
	}
	if err := mem.check(p); err != nil {
		a.provider.Free(p, mem)
		return Memory{}, err
	}
	return mem, nil
}

// Free takes an allocation back. It fails with an error that wraps ErrHandle,
// and has no effect, when the handle was freed before or is another
// Allocator's.
func (a *Allocator) Free(h AllocationHandle) error {
	if h.owner != a {
		return fmt.Errorf("sharedmem: free: the handle is not of this allocator: %w", ErrHandle)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r, ok := a.live[h.id]
	if !ok {
		return fmt.Errorf("sharedmem: free: handle %d was freed before: %w", h.id, ErrHandle)
	}
	delete(a.live, h.id)
	a.discharge(r.p)
	a.provider.Free(r.p, r.mem)
	return nil
}

func (a *Allocator) charge(p Parameters) {
	t := tag{p.Queue, p.Usage}
	acc := a.accounts[t]
	if acc == nil {
		acc = &Account{Queue: p.Queue, Usage: p.Usage}
		a.accounts[t] = acc
	}
	acc.Bytes += p.Length
	acc.Count++
}

func (a *Allocator) discharge(p Parameters) {
	t := tag{p.Queue, p.Usage}
	acc := a.accounts[t]
	acc.Bytes -= p.Length
	if acc.Count--; acc.Count == 0 {
		delete(a.accounts, t)
	}
}

// Bytes is what is allocated for a queue and usage now.
func (a *Allocator) Bytes(queue QueueID, usage Usage) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if acc := a.accounts[tag{queue, usage}]; acc != nil {
		return acc.Bytes
	}
	return 0
}

// Accounts lists every tag under which something is allocated, ordered by
// queue and usage. Views of the same guest bytes are counted once each.
func (a *Allocator) Accounts() []Account {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.list()
}

func (a *Allocator) list() []Account {
	list := make([]Account, 0, len(a.accounts))
	for _, acc := range a.accounts {
		list = append(list, *acc)
	}
	slices.SortFunc(list, func(x, y Account) int {
		return cmp.Or(cmp.Compare(x.Queue, y.Queue), cmp.Compare(x.Usage, y.Usage))
	})
	return list
}

// Close gives the provider's memory back. While anything is allocated it fails
// with an error that says what, and changes nothing: memory in use is never
// taken away. Closing again does nothing.
func (a *Allocator) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if list := a.list(); len(list) != 0 {
		words := make([]string, len(list))
		for i, acc := range list {
			words[i] = fmt.Sprintf("queue %d %s: %d bytes in %d pieces", acc.Queue, acc.Usage, acc.Bytes, acc.Count)
		}
		return fmt.Errorf("sharedmem: close an allocator with memory still allocated: %s", strings.Join(words, "; "))
	}
	if a.provider != nil {
		a.provider.Close()
		a.provider = nil
	}
	return nil
}
