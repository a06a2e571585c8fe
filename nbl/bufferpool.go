package nbl

import (
	"fmt"

	"vhostnet/sharedmem"
)

// PoolBuffer is a NET_BUFFER that is not part of a List: it comes from a
// BufferPool and is chained to one.
type PoolBuffer struct {
	Buffer
	pool    *BufferPool
	out     bool
	chained bool
	data    [1]MDL // memory of its own, empty without
	mdls    []MDL  // chain of a derived one; grown once, then kept
}

// BufferPoolParameters say what a BufferPool holds
// (NET_BUFFER_POOL_PARAMETERS).
type BufferPoolParameters struct {
	Tag      string               // names the owner in a leak report
	Size     int                  // how many there are, at least 1
	DataSize uint32               // bytes of memory of each, from Memory; 0: none
	Memory   *sharedmem.Allocator // of the host; only with DataSize
	Queue    sharedmem.QueueID    // whose memory it is
}

// BufferPool holds NET_BUFFERs made ahead (NdisAllocateNetBufferPool). One
// goroutine at a time may use it.
type BufferPool struct {
	params BufferPoolParameters
	memory *sharedmem.Allocation
	all    []PoolBuffer
	free   []*PoolBuffer
}

// NewBufferPool makes the NET_BUFFERs. Memory is allocated for usage Receive.
// The error wraps ErrParameter, or what the allocator says.
func NewBufferPool(q BufferPoolParameters) (*BufferPool, error) {
	if q.Size < 1 || q.DataSize > 0 && q.Memory == nil {
		return nil, fmt.Errorf("nbl: pool %q of %d buffers with %d bytes each; at least 1, and with data an allocator, are needed: %w", q.Tag, q.Size, q.DataSize, ErrParameter)
	}
	p := &BufferPool{params: q, all: make([]PoolBuffer, q.Size)}
	stride := (uint64(q.DataSize) + 63) &^ 63
	if q.DataSize > 0 {
		mem, err := q.Memory.Allocate(sharedmem.Parameters{
			Queue: q.Queue, Usage: sharedmem.Receive, Length: stride * uint64(q.Size), Flags: sharedmem.Contiguous,
		})
		if err != nil {
			return nil, fmt.Errorf("nbl: pool %q: %w", q.Tag, err)
		}
		p.memory = mem
	}
	for i := range p.all {
		b := &p.all[i]
		b.pool = p
		if p.memory != nil {
			b.data[0] = p.memory.VA[0].Sub(uint64(i)*stride, uint64(q.DataSize))
		}
		p.free = append(p.free, b)
	}
	return p, nil
}

// Allocate draws an empty NET_BUFFER, over its own memory if the pool has any
// (NdisAllocateNetBuffer, NdisAllocateNetBufferMdlAndData). The error wraps
// ErrResources.
func (p *BufferPool) Allocate() (*PoolBuffer, error) {
	if p == nil || len(p.free) == 0 {
		return nil, fmt.Errorf("nbl: no buffer is left in the pool: %w", ErrResources)
	}
	b := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	b.Buffer, b.out = Buffer{}, true
	if p.memory != nil {
		b.MDLs = b.data[:]
	}
	return b, nil
}

// Free takes a NET_BUFFER back (NdisFreeNetBuffer). It fails with an error that
// wraps ErrParameter, and has no effect, for one that is not out, of another
// pool, or chained to a List.
func (p *BufferPool) Free(b *PoolBuffer) error {
	if b.pool != p || !b.out || b.chained {
		return fmt.Errorf("nbl: free a buffer that is not out of pool %q, or still chained: %w", p.params.Tag, ErrParameter)
	}
	b.out = false
	p.free = append(p.free, b)
	return nil
}

// Out is how many NET_BUFFERs are with their users.
func (p *BufferPool) Out() int { return len(p.all) - len(p.free) }

// Close frees the memory. While NET_BUFFERs are out it fails, names the owner,
// and changes nothing.
func (p *BufferPool) Close() error {
	if n := p.Out(); n != 0 {
		return fmt.Errorf("nbl: pool %q closed with %d of %d buffers out", p.params.Tag, n, len(p.all))
	}
	if p.memory == nil {
		return nil
	}
	mem := p.memory
	p.memory = nil
	return p.params.Memory.Free(mem.AllocationHandle)
}

// Chain puts b behind the List's other NET_BUFFERs. Only who made the List
// may: what belongs to a List stays with it on its way. The error wraps
// ErrParameter for a List that is not of NewPoolWith, or b that is chained.
func (l *List) Chain(b *PoolBuffer) error {
	if l.more == nil || l.more.pool == nil || !b.out || b.chained {
		return fmt.Errorf("nbl: chain a buffer that is not out, or is chained, or to a list that holds only its own: %w", ErrParameter)
	}
	b.chained = true
	l.more.extra = append(l.more.extra, b)
	return nil
}

// Unchain takes the last chained NET_BUFFER off the List, nil when there is
// none.
func (l *List) Unchain() *PoolBuffer {
	if l.more == nil || len(l.more.extra) == 0 {
		return nil
	}
	last := len(l.more.extra) - 1
	b := l.more.extra[last]
	l.more.extra[last] = nil
	l.more.extra = l.more.extra[:last]
	b.chained = false
	return b
}
