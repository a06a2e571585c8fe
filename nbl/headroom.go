package nbl

import (
	"fmt"

	"vhostnet/sharedmem"
)

// HeadroomParameters say what a Headroom holds.
type HeadroomParameters struct {
	Tag    string               // names the owner in a leak report
	Rooms  int                  // how many MDLs can be out at once, at least 1
	Size   uint32               // bytes of each, at least 1
	Memory *sharedmem.Allocator // of the host
	Queue  sharedmem.QueueID    // whose memory it is
}

// Headroom is memory for headers that are put in front of a frame which has no
// room there: the MDLs of [Buffer.Retreat]. An MDL remembers the chain that it
// was put in front of, and Advance puts that back. In the steady state nothing
// is allocated. One goroutine at a time may use a Headroom. The nil Headroom
// holds nothing.
type Headroom struct {
	tag    string
	size   uint64
	memory *sharedmem.Allocator
	mem    *sharedmem.Allocation
	rooms  []room
	free   []*room
}

// room is one piece of a Headroom.
type room struct {
	space  MDL
	chain  []MDL // what a Buffer was given: a part of space, then its former MDLs
	before []MDL // the former MDLs
}

// NewHeadroom allocates the memory, for usage XmitHeader. The error wraps
// ErrParameter, or what the allocator says.
func NewHeadroom(p HeadroomParameters) (*Headroom, error) {
	if p.Rooms < 1 || p.Size < 1 || p.Memory == nil {
		return nil, fmt.Errorf("nbl: headroom %q of %d pieces of %d bytes; at least 1, 1, and an allocator, are needed: %w", p.Tag, p.Rooms, p.Size, ErrParameter)
	}
	size := (uint64(p.Size) + 63) &^ 63
	mem, err := p.Memory.Allocate(sharedmem.Parameters{
		Queue: p.Queue, Usage: sharedmem.XmitHeader, Length: size * uint64(p.Rooms), Flags: sharedmem.Contiguous,
	})
	if err != nil {
		return nil, fmt.Errorf("nbl: headroom %q: %w", p.Tag, err)
	}
	h := &Headroom{tag: p.Tag, size: size, memory: p.Memory, mem: mem, rooms: make([]room, p.Rooms)}
	for i := range h.rooms {
		h.rooms[i].space = mem.VA[0].Sub(uint64(i)*size, size)
		h.free = append(h.free, &h.rooms[i])
	}
	return h, nil
}

// prepend puts an MDL of delta+backfill bytes in front of b's, with the end of
// it next to the bytes that were free already.
func (h *Headroom) prepend(b *Buffer, delta, backfill uint32) error {
	n := uint64(delta) + uint64(backfill)
	if h == nil || len(h.free) == 0 || n > h.size {
		return ErrResources
	}
	r := h.free[len(h.free)-1]
	h.free = h.free[:len(h.free)-1]
	r.before = b.MDLs
	r.chain = append(append(r.chain[:0], r.space.Sub(0, n)), b.MDLs...)
	b.MDLs = r.chain
	b.Offset += uint32(n)
	return nil
}

// takeBack frees the MDLs of h in front of b's frame, or all of h at the head
// of its chain.
func (h *Headroom) takeBack(b *Buffer, all bool) {
	for h != nil && len(b.MDLs) > 0 {
		r := h.heads(b.MDLs)
		n := b.MDLs[0].Len()
		if r == nil || !all && uint64(b.Offset) < n {
			return
		}
		b.Offset -= uint32(min(n, uint64(b.Offset)))
		b.MDLs = r.before
		r.before = nil
		h.free = append(h.free, r)
	}
}

// heads is the room that mdls is the chain of, nil when it is of none.
func (h *Headroom) heads(mdls []MDL) *room {
	off, ok := h.mem.Offset(mdls[0])
	if !ok {
		return nil
	}
	r := &h.rooms[off/h.size]
	if len(r.chain) != len(mdls) || &r.chain[0] != &mdls[0] || r.before == nil && len(r.chain) > 1 {
		return nil
	}
	return r
}

// Out is how many MDLs are in front of frames.
func (h *Headroom) Out() int { return len(h.rooms) - len(h.free) }

// Close frees the memory. While MDLs are out it fails, names the owner, and
// changes nothing.
func (h *Headroom) Close() error {
	if n := h.Out(); n != 0 {
		return fmt.Errorf("nbl: headroom %q closed with %d of %d MDLs out", h.tag, n, len(h.rooms))
	}
	return h.memory.Free(h.mem.AllocationHandle)
}
