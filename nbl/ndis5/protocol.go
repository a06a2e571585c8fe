package ndis5

import (
	"errors"
	"fmt"

	"vhostnet/nbl"
)

// Pools are the pools of a driver or of one of its bindings.
type Pools struct {
	Packets *PacketPool
	Buffers *BufferPool
}

// PoolSizes say how large Pools are to be. The zero PoolSizes are no pools.
type PoolSizes struct {
	Packets  int
	Overflow int // packets beyond those, made when needed
	Reserved int // bytes of each packet for its owners
	Buffers  int
}

func (s PoolSizes) allocate() (Pools, error) {
	if s == (PoolSizes{}) {
		return Pools{}, nil
	}
	packets, err := AllocatePacketPoolEx(s.Packets, s.Overflow, s.Reserved)
	if err != nil {
		return Pools{}, err
	}
	return Pools{Packets: packets, Buffers: AllocateBufferPool(s.Buffers)}, nil
}

func (p *Pools) free() error {
	if p.Packets == nil {
		return nil
	}
	if n, m := p.Packets.Usage(), p.Buffers.Live(); n+m > 0 { // both or neither
		return fmt.Errorf("ndis5: pools with %d packets and %d buffers in use: %w", n, m, ErrParameter)
	}
	return errors.Join(p.Buffers.Free(), p.Packets.Free())
}

// Driver is a protocol driver.
type Driver struct {
	heap     *Heap
	pools    Pools // for bindings without their own
	bindings int
}

// NewDriver loads a driver that allocates from heap, with pools for all its
// bindings if sizes are given. The error is that of the pools.
func NewDriver(heap *Heap, sizes PoolSizes) (*Driver, error) {
	pools, err := sizes.allocate()
	if err != nil {
		return nil, err
	}
	return &Driver{heap: heap, pools: pools}, nil
}

// Unload ends the driver and its pools. The error wraps ErrParameter while it
// is bound, or something of its pools is in use.
func (d *Driver) Unload() error {
	if d.bindings > 0 {
		return fmt.Errorf("ndis5: unload a driver with %d bindings: %w", d.bindings, ErrParameter)
	}
	return d.pools.free()
}

// Send is an adapter's: it is given a packet to send, as package nbl sees it.
// When it returns nil the packet is the adapter's until Complete, otherwise it
// is the sender's again at once.
type Send func(p *Packet, frame nbl.Buffer) error

// Binding is a driver bound to an adapter.
type Binding struct {
	Pools // its own, or the driver's

	driver *Driver
	own    bool
	send   Send
}

// Bind binds the driver to an adapter, with pools of the binding's own if sizes
// are given. The error wraps ErrParameter when neither has any.
func (d *Driver) Bind(send Send, sizes PoolSizes) (*Binding, error) {
	pools, err := sizes.allocate()
	if err != nil {
		return nil, err
	}
	b := &Binding{Pools: pools, driver: d, own: pools.Packets != nil, send: send}
	if !b.own {
		b.Pools = d.pools
	}
	if b.Packets == nil {
		return nil, fmt.Errorf("ndis5: a binding without pools: the driver has none either: %w", ErrParameter)
	}
	d.bindings++
	return b, nil
}

// Unbind ends the binding, and its pools with it. The error wraps ErrParameter
// while something of them is in use, and the binding stays.
func (b *Binding) Unbind() error {
	if b.driver == nil {
		return fmt.Errorf("ndis5: unbind twice: %w", ErrParameter)
	}
	if b.own {
		if err := b.free(); err != nil {
			return err
		}
	}
	b.driver.bindings--
	b.driver = nil
	return nil
}

// Send gives a packet to the adapter (NdisSend). The error wraps ErrParameter
// for a packet that is not of this binding's pool, is free, is sent already, or
// has no Buffer chained to it; otherwise it is the adapter's.
func (b *Binding) Send(p *Packet) error {
	if p.pool != b.Packets || !p.out || p.sent {
		return fmt.Errorf("ndis5: send a packet that is free, sent, or of another pool: %w", ErrParameter)
	}
	if p.head == nil {
		return fmt.Errorf("ndis5: send a packet without buffers: %w", ErrParameter)
	}
	p.sent = true
	if err := b.send(p, p.NetBuffer()); err != nil {
		p.sent = false
		return err
	}
	return nil
}

// Complete gives a sent packet back to its sender (ProtocolSendComplete). The
// error wraps ErrParameter for one that is not sent.
func (b *Binding) Complete(p *Packet) error {
	if p.pool != b.Packets || !p.sent {
		return fmt.Errorf("ndis5: complete a packet that was not sent: %w", ErrParameter)
	}
	p.sent = false
	return nil
}

// Split copies a client's buffer into several of at most size bytes each,
// allocated under tag, and chains them to a packet of the driver's own. The
// error wraps ErrResources, ErrFailure or ErrParameter, and then nothing is
// left of it.
func (b *Binding) Split(client []byte, size uint32, tag Tag) (*Packet, error) {
	if size == 0 || len(client) == 0 {
		return nil, fmt.Errorf("ndis5: split %d bytes into pieces of %d: %w", len(client), size, ErrParameter)
	}
	p, err := b.Packets.AllocatePacket()
	if err != nil {
		return nil, err
	}
	for len(client) > 0 {
		n := min(len(client), int(size))
		if err := b.addCopy(p, client[:n], tag); err != nil {
			return nil, errors.Join(err, b.Discard(p))
		}
		client = client[n:]
	}
	return p, nil
}

// addCopy chains a copy of data at the back of p.
func (b *Binding) addCopy(p *Packet, data []byte, tag Tag) error {
	r, err := b.driver.heap.AllocateMemoryWithTag(uint32(len(data)), tag)
	if err != nil {
		return err
	}
	copy(r.Bytes(), data)
	buffer, err := b.Buffers.AllocateBuffer(r, 0, uint32(len(data)))
	if err != nil {
		return errors.Join(err, b.driver.heap.FreeMemory(r))
	}
	return p.ChainBufferAtBack(buffer)
}

// Discard takes apart what Split made: chain, descriptors, memory, packet. The
// error wraps ErrParameter while the packet is sent.
func (b *Binding) Discard(p *Packet) error {
	if p.sent {
		return fmt.Errorf("ndis5: discard a packet that the adapter has: %w", ErrParameter)
	}
	var errs []error
	for buffer := p.UnchainBufferAtFront(); buffer != nil; buffer = p.UnchainBufferAtFront() {
		r := buffer.Region()
		errs = append(errs, b.Buffers.FreeBuffer(buffer), b.driver.heap.FreeMemory(r))
	}
	return errors.Join(append(errs, b.Packets.FreePacket(p))...)
}
