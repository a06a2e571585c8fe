package nbl

import (
	"fmt"

	"vhostnet/metrics"
	"vhostnet/sharedmem"
)

// AllocateList draws a List as the pool was made (NdisAllocateNetBufferList):
// without NET_BUFFER, with an empty one, or with one over the List's own
// memory, whose first Backfill bytes are left free. Everything that was said of
// the packet before is forgotten. The error wraps ErrResources.
func (p *Pool) AllocateList() (*List, error) {
	var one [1]*List
	if p.Get(one[:]) == 0 {
		return nil, fmt.Errorf("nbl: all %d lists of pool %q are out: %w", len(p.all), p.tag, ErrResources)
	}
	l := one[0]
	if l.more != nil {
		l.more.out = true
	}
	l.renew()
	return l, nil
}

// AllocateBufferAndList draws a List whose NET_BUFFER is length bytes at offset
// of mdls (NdisAllocateNetBufferAndNetBufferList). It is for pools without data
// and with buffers; nil mdls go with 0, 0. The error wraps ErrParameter or
// ErrResources.
func (p *Pool) AllocateBufferAndList(mdls []MDL, offset, length uint32) (*List, error) {
	if p.params.NoBuffer || p.params.DataSize > 0 {
		return nil, fmt.Errorf("nbl: a list over a chain from pool %q, whose lists have no buffer or data of their own: %w", p.tag, ErrParameter)
	}
	b := Buffer{MDLs: mdls, Offset: offset, Length: length}
	if err := b.Check(); err != nil {
		return nil, err
	}
	l, err := p.AllocateList()
	if err != nil {
		return nil, err
	}
	l.Buffer = b
	return l, nil
}

// Free takes back what an Allocate function gave, with the NET_BUFFER and the
// memory that came with it (NdisFreeNetBufferList). It fails with an error that
// wraps ErrParameter, and has no effect, for a List that is not out or of
// another pool, that has children, to which Buffers are still chained or of
// which context is still taken.
func (p *Pool) Free(l *List) error {
	m := l.more
	switch {
	case m == nil || m.pool != p || !m.out:
		return fmt.Errorf("nbl: free a list that is not out of pool %q: %w", p.tag, ErrParameter)
	case l.Children() != 0:
		return fmt.Errorf("nbl: free a list of pool %q with %d children: %w", p.tag, l.Children(), ErrParameter)
	case len(m.extra) != 0:
		return fmt.Errorf("nbl: free a list of pool %q with %d buffers chained to it: %w", p.tag, len(m.extra), ErrParameter)
	case m.taken != 0:
		return fmt.Errorf("nbl: free a list of pool %q with %d bytes of context taken: %w", p.tag, m.taken, ErrParameter)
	}
	p.takeBack(l)
	return nil
}

// takeBack makes l free, without a question.
func (p *Pool) takeBack(l *List) {
	l.more.out = false
	one := [1]*List{l}
	p.Put(one[:])
}

// renew makes l what its pool's Lists are: no packet, and an empty Buffer over
// the List's own memory if it has any.
func (l *List) renew() {
	l.reset(0)
	l.Buffer = Buffer{}
	if m := l.more; m != nil && m.pool != nil && m.pool.params.DataSize > 0 {
		l.MDLs, l.Offset = m.data[:], m.pool.params.Backfill
	}
}

// Fill makes frame the bytes of l, in the List's own memory behind the
// backfill, and reads its head (Parse). Frames that do not fit, are shorter than
// an Ethernet header or longer than MaxFrame are refused by their reason.
func (l *List) Fill(frame []byte, serial uint64) metrics.Reason {
	l.renew()
	if uint64(len(frame)) > l.Capacity()-uint64(l.Offset) {
		l.serial = serial
		return l.malformed(metrics.ReasonTooLong)
	}
	l.Length = uint32(len(frame))
	c := l.At(0)
	c.Write(frame)
	return l.Parse(serial)
}

// Parse makes l the packet whose frame its Buffer holds, complete and without
// offloads: the head is copied and read, as Wrap does it for a guest's frame.
// It is for frames that were put together in host memory: read in, or with
// headers that a Retreat made room for. serial names the packet. Frames that
// are shorter than an Ethernet header or longer than MaxFrame are refused by
// their reason.
func (l *List) Parse(serial uint64) metrics.Reason {
	b := l.Buffer
	l.reset(serial)
	l.Buffer = b
	if l.Length < EthernetHeaderLen || b.Check() != nil {
		return l.malformed(metrics.ReasonShort)
	}
	if l.Length > MaxFrame {
		return l.malformed(metrics.ReasonTooLong)
	}
	l.headerLen = uint16(min(l.Length, plainHeader))
	c := l.At(0)
	c.Read(l.header[:l.headerLen])
	l.parseEthernet()
	return metrics.ReasonNone
}

// TakeContext gives n more bytes of the List's context to its present owner
// (NdisAllocateNetBufferListContext): each owner on a packet's way takes his
// own, and gives it back in the opposite order. The error wraps ErrResources.
func (l *List) TakeContext(n uint32) ([]byte, error) {
	m := l.more
	if m == nil || uint64(n) > uint64(len(m.context))-uint64(m.taken) {
		return nil, fmt.Errorf("nbl: %d bytes of context that the list does not have: %w", n, ErrResources)
	}
	m.taken += n
	at := uint32(len(m.context)) - m.taken
	return m.context[at : at+n : at+n], nil
}

// Context is what TakeContext gave last and the bytes taken before it, in one.
func (l *List) Context() []byte {
	if l.more == nil {
		return nil
	}
	return l.more.context[uint32(len(l.more.context))-l.more.taken:]
}

// ReturnContext gives back the n bytes that were taken last
// (NdisFreeNetBufferListContext). The error wraps ErrParameter when that is
// more than are taken.
func (l *List) ReturnContext(n uint32) error {
	if l.more == nil || n > l.more.taken {
		return fmt.Errorf("nbl: return %d bytes of context that were not taken: %w", n, ErrParameter)
	}
	l.more.taken -= n
	return nil
}

// SharedMemory is where an MDL of a packet lies
// (NET_BUFFER_SHARED_MEMORY).
type SharedMemory struct {
	Handle sharedmem.Handle // of the allocation, never what frees it
	Offset uint64           // of the MDL from the allocation's start, bytes
	Length uint64           // of the MDL, bytes
}

// SharedMemory appends to dst where the MDLs of b lie, one element for each, in
// their order, and answers false when one lies in none of the allocations. It
// is computed when somebody asks, not kept with each packet.
func (b *Buffer) SharedMemory(dst []SharedMemory, in ...*sharedmem.Allocation) ([]SharedMemory, bool) {
	out := dst
	for _, mdl := range b.MDLs {
		found := false
		for _, a := range in {
			if off, ok := a.Offset(mdl); ok {
				out = append(out, SharedMemory{Handle: a.Handle, Offset: off, Length: mdl.Len()})
				found = true
				break
			}
		}
		if !found {
			return dst, false
		}
	}
	return out, true
}
