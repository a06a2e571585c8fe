package ndis5

import (
	"fmt"

	"vhostnet/nbl"
	"vhostnet/sharedmem"
)

// Packet is a packet descriptor (NDIS_PACKET): a chain of Buffers, and a
// reserved area for its owners.
type Packet struct {
	pool     *PacketPool
	out      bool
	sent     bool // the adapter has it
	head     *Buffer
	tail     *Buffer
	reserved []byte

	counted bool // the two that follow are right
	buffers int
	bytes   uint32
}

// Reserved is the area for the owners of the packet, ReservedLen bytes.
func (p *Packet) Reserved() []byte { return p.reserved }

// Query tells the first Buffer of the chain, how many there are and how many
// bytes they map (NdisQueryPacket). It counts once for each change of the
// chain.
func (p *Packet) Query() (first *Buffer, buffers int, bytes uint32) {
	if !p.counted {
		p.buffers, p.bytes = 0, 0
		for b := p.head; b != nil; b = b.next {
			p.buffers++
			p.bytes += uint32(len(b.bytes))
		}
		p.counted = true
	}
	return p.head, p.buffers, p.bytes
}

// ChainBufferAtFront puts b before the chain. The error wraps ErrParameter for
// a descriptor that is free or chained, or a packet that is free or sent.
func (p *Packet) ChainBufferAtFront(b *Buffer) error {
	if err := p.mayChain(b); err != nil {
		return err
	}
	b.next, p.head = p.head, b
	if p.tail == nil {
		p.tail = b
	}
	return nil
}

// ChainBufferAtBack puts b behind the chain. Errors are those of
// ChainBufferAtFront.
func (p *Packet) ChainBufferAtBack(b *Buffer) error {
	if err := p.mayChain(b); err != nil {
		return err
	}
	if p.tail == nil {
		p.head = b
	} else {
		p.tail.next = b
	}
	p.tail = b
	return nil
}

func (p *Packet) mayChain(b *Buffer) error {
	if !p.out || p.sent || b.pool == nil || b.packet != nil {
		return fmt.Errorf("ndis5: chain a buffer that is free or chained, or to a packet that is free or sent: %w", ErrParameter)
	}
	b.packet, p.counted = p, false
	return nil
}

// UnchainBufferAtFront takes the first Buffer off the chain, nil when it is
// empty or the adapter has the packet.
func (p *Packet) UnchainBufferAtFront() *Buffer {
	b := p.head
	if b == nil || p.sent {
		return nil
	}
	if p.head = b.next; p.head == nil {
		p.tail = nil
	}
	p.unchained(b)
	return b
}

// UnchainBufferAtBack takes the last Buffer off the chain, nil when it is empty
// or the adapter has the packet.
func (p *Packet) UnchainBufferAtBack() *Buffer {
	b := p.tail
	if b == nil || p.sent {
		return nil
	}
	if p.head == b {
		p.head, p.tail = nil, nil
	} else {
		p.tail = p.head
		for p.tail.next != b {
			p.tail = p.tail.next
		}
		p.tail.next = nil
	}
	p.unchained(b)
	return b
}

func (p *Packet) unchained(b *Buffer) {
	b.next, b.packet, p.counted = nil, nil, false
}

// Reinitialize empties the chain, so that the packet can be used again, which
// is much cheaper than to free it (NdisReinitializePacket). The reserved area
// stays. The Buffers, which the caller has kept, are chained nowhere then. Not
// while the adapter has the packet.
func (p *Packet) Reinitialize() {
	for b := p.head; b != nil; b = p.head {
		p.head = b.next
		p.unchained(b)
	}
	p.tail = nil
}

// NetBuffer is the packet as package nbl sees it: a NET_BUFFER whose MDLs are
// the Buffers. Its memory is the packet's.
func (p *Packet) NetBuffer() nbl.Buffer {
	_, n, bytes := p.Query()
	nb := nbl.Buffer{MDLs: make([]nbl.MDL, 0, n), Length: bytes}
	for b := p.head; b != nil; b = b.next {
		nb.MDLs = append(nb.MDLs, sharedmem.BytesBlock(b.bytes))
	}
	return nb
}

// maxPackets is the most descriptors that a pool can have, overflow included.
const maxPackets = 0xffff

// PacketPool gives out packet descriptors of one size.
type PacketPool struct {
	fixed    int // made with the pool
	most     int // with overflow
	reserved int
	total    int // that exist
	free     []*Packet
}

// AllocatePacketPool makes exactly n descriptors in one block, each with
// reserved bytes for its owners. The error wraps ErrResources when n is more
// than 0xFFFF, and ErrParameter when it is less than one.
func AllocatePacketPool(n, reserved int) (*PacketPool, error) {
	return AllocatePacketPoolEx(n, 0, reserved)
}

// AllocatePacketPoolEx makes n descriptors and can make overflow more, one by
// one, when all are in use. n and overflow together are cut down to 0xFFFF. A
// descriptor that is freed while there is overflow leaves the pool. Errors are
// those of AllocatePacketPool.
func AllocatePacketPoolEx(n, overflow, reserved int) (*PacketPool, error) {
	switch {
	case n > maxPackets:
		return nil, fmt.Errorf("ndis5: a pool of %d packets, %d are possible: %w", n, maxPackets, ErrResources)
	case n < 1 || overflow < 0 || reserved < 0:
		return nil, fmt.Errorf("ndis5: a pool of %d packets and %d more with %d bytes each: at least 1, 0 and 0 are needed: %w", n, overflow, reserved, ErrParameter)
	}
	p := &PacketPool{fixed: n, most: min(n+overflow, maxPackets), reserved: reserved, total: n}
	block, areas := make([]Packet, n), make([]byte, n*reserved)
	for i := range block {
		block[i].pool = p
		block[i].reserved, areas = areas[:reserved:reserved], areas[reserved:]
		p.free = append(p.free, &block[i])
	}
	return p, nil
}

// AllocatePacket takes a descriptor: its chain is empty, its reserved area
// zero. The error wraps ErrResources.
func (p *PacketPool) AllocatePacket() (*Packet, error) {
	last := len(p.free) - 1
	if last < 0 {
		if p.total >= p.most {
			return nil, fmt.Errorf("ndis5: all %d packets of the pool are in use: %w", p.total, ErrResources)
		}
		p.total++
		return &Packet{pool: p, out: true, reserved: make([]byte, p.reserved)}, nil
	}
	packet := p.free[last]
	p.free = p.free[:last]
	packet.out = true
	clear(packet.reserved)
	return packet, nil
}

// FreePacket takes a descriptor back. The error wraps ErrParameter, and has no
// effect, for one of another pool, freed before, sent and not completed, or
// with Buffers chained to it, which would be lost.
func (p *PacketPool) FreePacket(packet *Packet) error {
	if packet.pool != p || !packet.out || packet.sent || packet.head != nil {
		return fmt.Errorf("ndis5: free a packet that is not out of this pool, is sent, or has buffers: %w", ErrParameter)
	}
	packet.out = false
	if p.total > p.fixed {
		packet.pool = nil
		p.total--
		return nil
	}
	p.free = append(p.free, packet)
	return nil
}

// Usage is how many descriptors are in use (NdisPacketPoolUsage).
func (p *PacketPool) Usage() int { return p.total - len(p.free) }

// Free ends the pool (NdisFreePacketPool). The error wraps ErrParameter while
// descriptors are in use.
func (p *PacketPool) Free() error {
	if n := p.Usage(); n != 0 {
		return fmt.Errorf("ndis5: free a packet pool with %d packets in use: %w", n, ErrParameter)
	}
	*p = PacketPool{}
	return nil
}
