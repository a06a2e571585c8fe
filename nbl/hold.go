package nbl

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"vhostnet/sharedmem"
)

// Errors of the packet's memory, named after NDIS's statuses.
var (
	// ErrResources: there is none left now (NDIS_STATUS_RESOURCES).
	ErrResources = errors.New("not enough resources")
	// ErrParameter: the request is wrong (NDIS_STATUS_INVALID_PARAMETER).
	ErrParameter = errors.New("invalid parameter")
)

// holdChunk is the unit in which memory for held frames is given out, bytes: a
// frame of ordinary size takes one.
const holdChunk = 2 << 10

// HolderParameters say what a Holder can keep.
type HolderParameters struct {
	Tag    string               // names the owner in a leak report
	Memory *sharedmem.Allocator // of the host; must outlive the Holder
	Lists  int                  // how many packets can be out at once, at least 1
	Bytes  uint64               // of frames that can be out at once; each takes multiples of 2 KiB
}

// Holder keeps packets beyond the call in which they were delivered. A packet
// that is handed to a port borrows its sender's memory until the call returns.
// Who must keep it longer calls Hold, which copies the frame to memory of this
// process, so the sender's chain goes back at once, and calls Return later,
// from any goroutine. What is out is counted by queue: FREE_QUEUE waits for it
// (NDIS: between indication and MiniportReturnNetBufferLists). All methods may
// be called concurrently.
type Holder struct {
	tag    string
	memory *sharedmem.Allocator
	handle sharedmem.AllocationHandle

	mu     sync.Mutex
	lists  int     // in all
	free   []*List // the last returned is taken first
	chunks []MDL   // likewise
	out    map[sharedmem.QueueID]*outstanding
}

// outstanding is what is out of one queue. It stays when nothing is: ids are
// few, and come again.
type outstanding struct {
	n    int
	none chan struct{} // closed when n is 0 again; nil while nobody waits
}

// NewHolder allocates memory for queue 0, usage Receive, and makes the Lists.
// The error wraps ErrParameter, or what the allocator says.
func NewHolder(p HolderParameters) (*Holder, error) {
	if p.Lists < 1 || p.Bytes < holdChunk || p.Memory == nil {
		return nil, fmt.Errorf("nbl: holder %q of %d lists and %d bytes; at least 1 and %d, and an allocator, are needed: %w",
			p.Tag, p.Lists, p.Bytes, holdChunk, ErrParameter)
	}
	mem, err := p.Memory.Allocate(sharedmem.Parameters{Usage: sharedmem.Receive, Length: p.Bytes &^ (holdChunk - 1), Flags: sharedmem.Contiguous})
	if err != nil {
		return nil, fmt.Errorf("nbl: holder %q: %w", p.Tag, err)
	}
	h := &Holder{tag: p.Tag, memory: p.Memory, handle: mem.AllocationHandle, lists: p.Lists, out: map[sharedmem.QueueID]*outstanding{}}
	for at := mem.VA[0].Len(); at > 0; at -= holdChunk {
		h.chunks = append(h.chunks, mem.VA[0].Sub(at-holdChunk, holdChunk))
	}
	lists, mores := make([]List, p.Lists), make([]more, p.Lists)
	for i := range lists {
		mores[i].holder = h
		lists[i].more = &mores[i]
		lists[i].MDLs = make([]MDL, 0, (MaxFrame+holdChunk-1)/holdChunk)
		h.free = append(h.free, &lists[i])
	}
	return h, nil
}

// Hold makes a packet of the same description and bytes as l, in memory of
// this process, and counts it as out of queue. The error wraps ErrResources
// when too much is out. A fault of the sender's memory goes on as a panic;
// nothing is out then.
func (h *Holder) Hold(l *List, queue sharedmem.QueueID) (*List, error) {
	held := h.take(l.Length, queue)
	if held == nil {
		return nil, fmt.Errorf("nbl: hold %d bytes in %q: %w", l.Length, h.tag, ErrResources)
	}
	whole := false
	defer func() {
		if !whole {
			_ = h.Return(held)
		}
	}()
	held.reset(l.serial)
	held.describe(l)
	held.Offset, held.Length = 0, l.Length
	to := NewCursor(held.MDLs)
	whole = WriteFrame(&to, l) == uint64(l.Length)
	if !whole {
		return nil, fmt.Errorf("nbl: hold a frame whose chain is shorter than its length %d: %w", l.Length, ErrParameter)
	}
	return held, nil
}

// take draws a List over memory for n bytes, nil when there is not enough.
func (h *Holder) take(n uint32, queue sharedmem.QueueID) *List {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := len(h.chunks) - int((n+holdChunk-1)/holdChunk)
	last := len(h.free) - 1
	if n > MaxFrame || left < 0 || last < 0 {
		return nil
	}
	l := h.free[last]
	h.free = h.free[:last]
	l.MDLs = append(l.MDLs[:0], h.chunks[left:]...)
	h.chunks = h.chunks[:left]
	l.more.held, l.more.queue = true, queue
	o := h.out[queue]
	if o == nil {
		o = new(outstanding)
		h.out[queue] = o
	}
	o.n++
	return l
}

// Return takes back what Hold gave (NdisReturnNetBufferLists): any of it, in
// any order. The error wraps ErrParameter for a List that is not out, or not
// this Holder's; it has no effect then.
func (h *Holder) Return(l *List) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.more == nil || l.more.holder != h || !l.more.held {
		return fmt.Errorf("nbl: return to %q: the list is not out of it: %w", h.tag, ErrParameter)
	}
	l.more.held = false
	h.chunks = append(h.chunks, l.MDLs...)
	l.MDLs = l.MDLs[:0]
	h.free = append(h.free, l)
	o := h.out[l.more.queue]
	if o.n--; o.n == 0 && o.none != nil {
		close(o.none)
		o.none = nil
	}
	return nil
}

// Out is how many packets of queue are out.
func (h *Holder) Out(queue sharedmem.QueueID) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o := h.out[queue]; o != nil {
		return o.n
	}
	return 0
}

// Wait returns when no packet of queue is out, or with the cause of ctx's end.
// Who lets more of them out meanwhile makes it wait for those too.
func (h *Holder) Wait(ctx context.Context, queue sharedmem.QueueID) error {
	for {
		none := h.none(queue)
		if none == nil {
			return nil
		}
		select {
		case <-none:
		case <-ctx.Done():
			return fmt.Errorf("nbl: %d packets of queue %d are still held by %q: %w", h.Out(queue), queue, h.tag, context.Cause(ctx))
		}
	}
}

// none is closed when no packet of queue is out; nil when none is now.
func (h *Holder) none(queue sharedmem.QueueID) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.out[queue]
	if o == nil || o.n == 0 {
		return nil
	}
	if o.none == nil {
		o.none = make(chan struct{})
	}
	return o.none
}

// Close frees the memory. While packets are out it fails, names the owner, and
// changes nothing.
func (h *Holder) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.lists - len(h.free); n != 0 {
		return fmt.Errorf("nbl: holder %q closed with %d of %d lists out", h.tag, n, h.lists)
	}
	return h.memory.Free(h.handle)
}
