package ndis5

import "fmt"

// Buffer is a buffer descriptor (NDIS_BUFFER): it maps a range of a Region and
// does not own it.
type Buffer struct {
	pool   *BufferPool
	region *Region
	bytes  []byte
	next   *Buffer
	packet *Packet // whose chain it is in
}

// Bytes is the range that is mapped.
func (b *Buffer) Bytes() []byte { return b.bytes }

// Region is the memory that the range is of.
func (b *Buffer) Region() *Region { return b.region }

// Next is the Buffer behind it in its chain (NdisGetNextBuffer), nil at the end.
func (b *Buffer) Next() *Buffer { return b.next }

// BufferPool gives out buffer descriptors, as many at once as it was made for.
type BufferPool struct {
	limit int
	live  int
	spare []*Buffer
}

// AllocateBufferPool makes a pool of n descriptors. It always succeeds; what is
// wrong with n shows when descriptors are asked for.
func AllocateBufferPool(n int) *BufferPool { return &BufferPool{limit: n} }

// AllocateBuffer makes a descriptor of length bytes of r from offset on: of all
// of it, with 0 and the length it was allocated with, or of a part. The error
// wraps ErrFailure when the pool is used up, and ErrParameter for a range that
// is not inside of allocated memory.
func (p *BufferPool) AllocateBuffer(r *Region, offset, length uint32) (*Buffer, error) {
	if r == nil || r.heap == nil || length == 0 || uint64(offset)+uint64(length) > uint64(len(r.bytes)) {
		return nil, fmt.Errorf("ndis5: a buffer of %d bytes at %d of memory that is freed or shorter: %w", length, offset, ErrParameter)
	}
	if p.live >= p.limit {
		return nil, fmt.Errorf("ndis5: all %d buffers of the pool are in use: %w", p.limit, ErrFailure)
	}
	b := new(Buffer)
	if last := len(p.spare) - 1; last >= 0 {
		b, p.spare = p.spare[last], p.spare[:last]
	}
	end := offset + length
	*b = Buffer{pool: p, region: r, bytes: r.bytes[offset:end:end]}
	p.live++
	r.mapped++
	return b, nil
}

// FreeBuffer takes a descriptor back; the memory stays. The error wraps
// ErrParameter, and has no effect, for one of another pool, freed before, or in
// the chain of a packet.
func (p *BufferPool) FreeBuffer(b *Buffer) error {
	if b.pool != p || b.packet != nil {
		return fmt.Errorf("ndis5: free a buffer that is not this pool's, or chained to a packet: %w", ErrParameter)
	}
	b.region.mapped--
	*b = Buffer{}
	p.spare = append(p.spare, b)
	p.live--
	return nil
}

// Live is how many descriptors are in use.
func (p *BufferPool) Live() int { return p.live }

// Free ends the pool (NdisFreeBufferPool). The error wraps ErrParameter while
// descriptors are in use.
func (p *BufferPool) Free() error {
	if p.live != 0 {
		return fmt.Errorf("ndis5: free a buffer pool with %d buffers in use: %w", p.live, ErrParameter)
	}
	p.limit, p.spare = 0, nil
	return nil
}
