package vhostuser

import (
	"errors"
	"fmt"
	"slices"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// Theory of operation.
//
// An inflight region is memory that the front-end keeps while its back-end is
// away, and in which a back-end notes the chains that it has taken and not given
// back, so that the next one does them again. Here chains are given back in the
// order in which they are made available, and a split ring starts at its used
// index, so those that were taken are the next ones anyway. The region of such a
// ring therefore says that nothing is in flight, always, and that is true for
// whoever reads it: the next chain to be done is the one at the used index.
// Nothing is written to it while a ring runs.
//
// What another back-end left in it is looked at when a ring starts. If the chains
// that it had taken are those at the used index, they are done again; if they
// are others, the back-end gave chains back out of order, and the ring cannot go
// on here.
//
// The memory of a packed ring does not say where it stands, so its region does,
// and virtqueue.Inflight keeps it at each push. At the first start of a ring in a
// session the region is believed, if anybody has used it, and the driver has not
// set its ring up anew since. Once the front-end was told where the ring stands,
// the region forgets it.

// Inflight is the payload of GET_INFLIGHT_FD, of its reply, and of
// SET_INFLIGHT_FD.
type Inflight struct {
	Size      uint64 // bytes of the region
	Offset    uint64 // of it in the descriptor that comes with it
	Queues    uint16
	QueueSize uint16 // entries of each
}

const inflightLen = 24

// Marshal gives the 24 bytes of i, of which the last four are not used.
func (i Inflight) Marshal() []byte {
	b := order.AppendUint64(order.AppendUint64(nil, i.Size), i.Offset)
	return order.AppendUint32(order.AppendUint16(order.AppendUint16(b, i.Queues), i.QueueSize), 0)
}

// Unmarshal reads i from 24 bytes.
func (i *Inflight) Unmarshal(b []byte) error {
	if err := exactly(b, inflightLen, "inflight region"); err != nil {
		return err
	}
	*i = Inflight{Size: order.Uint64(b), Offset: order.Uint64(b[8:]), Queues: order.Uint16(b[16:]), QueueSize: order.Uint16(b[18:])}
	return nil
}

// Offsets and lengths in the region of a split ring, bytes (vhost-user,
// "Inflight I/O tracking").
const (
	inflightVersion = 8 // 16 bits; 0 is a region that nobody has used
	inflightSize    = 10
	inflightBatch   = 12 // the head that was given back last
	inflightUsed    = 14
	inflightEntries = 16
	inflightEntry   = 16 // its first byte is 1 when the chain is in flight
	inflightNext    = 6  // in an entry: the head that was given back before
	inflightAlign   = 64
)

// stride is how far the regions of two rings of a driver that accepted f are
// apart.
func (i Inflight) stride(f virtio.Features) uint64 {
	n := uint64(inflightEntries) + inflightEntry*uint64(i.QueueSize)
	if f.Has(virtio.RingPacked) {
		n = virtqueue.InflightLen(int(i.QueueSize))
	}
	return (n + inflightAlign - 1) &^ (inflightAlign - 1)
}

// need is how long the whole region has to be, then.
func (i Inflight) need(f virtio.Features) uint64 { return uint64(i.Queues) * i.stride(f) }

// check refuses a region that cannot be one of this device's, with packed rings
// of any size.
func (i Inflight) check(rings int, f virtio.Features) error {
	switch n := i.QueueSize; {
	case i.Queues == 0 || int(i.Queues) > rings:
		return fmt.Errorf("vhostuser: inflight region for %d rings, 1 to %d are possible", i.Queues, rings)
	case n == 0 || n > maxRingSize || n&(n-1) != 0 && !f.Has(virtio.RingPacked):
		return fmt.Errorf("vhostuser: inflight region for rings of %d entries, 1 to %d are possible, in split rings powers of two", n, maxRingSize)
	}
	return nil
}

// inflight is the region of a session. The zero inflight is none.
type inflight struct {
	Inflight
	mem *sharedmem.Map
}

func (f *inflight) drop() {
	if f.mem != nil {
		f.mem.Unref()
	}
	*f = inflight{}
}

// getInflightFD: a region for so many rings of so many entries, in which nothing
// is in flight, of the format that was negotiated. The front-end keeps it, and
// sends it with SET_INFLIGHT_FD to this back-end and to those that come after it.
func (s *session) getInflightFD(m *message) ([]byte, error) {
	var v Inflight
	if err := v.Unmarshal(m.payload); err != nil {
		return nil, err
	}
	if err := v.check(len(s.rings), s.features); err != nil {
		return nil, err
	}
	v.Size, v.Offset = v.need(s.features), 0
	fd, err := sys.NewMemfd("vhostnet inflight", v.Size, sys.MemfdOptions{Sealable: true})
	if err != nil {
		return nil, err
	}
	s.conn.attach(fd)
	return v.Marshal(), nil
}

// setInflightFD: the region to be used by rings that start from now on, and by
// packed ones that run: when it is answered nobody writes to the one before.
func (s *session) setInflightFD(m *message) ([]byte, error) {
	var v Inflight
	if err := v.Unmarshal(m.payload); err != nil {
		return nil, err
	}
	if err := v.check(len(s.rings), s.features); err != nil {
		return nil, err
	}
	if want := v.need(s.features); v.Size < want {
		return nil, fmt.Errorf("vhostuser: inflight region of %d bytes, %d rings of %d entries need %d", v.Size, v.Queues, v.QueueSize, want)
	}
	if len(m.fds) != 1 {
		return nil, errors.New("vhostuser: inflight region without its descriptor")
	}
	file, err := sharedmem.OpenFile(m.take(0))
	if err != nil {
		return nil, err
	}
	defer file.Unref() // the Map has its own reference
	mem, err := sharedmem.NewMap([]sharedmem.Region{{Size: v.Size, Offset: v.Offset, File: file}}, sharedmem.MapOptions{Owner: s.srv.o.Name + " inflight", Budget: s.srv.budget})
	if err != nil {
		return nil, fmt.Errorf("vhostuser: inflight region: %w", err)
	}
	before := s.inflight
	defer before.drop()
	s.inflight = inflight{Inflight: v, mem: mem}
	if s.features.Has(virtio.RingPacked) {
		s.remake(func(*session, *ring) bool { return true })
	}
	return nil, nil
}

// of is the memory of r's region, empty when there is none.
func (f *inflight) of(r *ring, c *virtqueue.Config) (b sharedmem.Block, err error) {
	if f.mem == nil || r.index >= int(f.Queues) {
		return b, nil
	}
	if c.Size > int(f.QueueSize) {
		return b, fmt.Errorf("vhostuser: ring %d has %d entries, its inflight region has room for %d", r.index, c.Size, f.QueueSize)
	}
	if want := f.need(c.Features); f.Size < want {
		return b, fmt.Errorf("vhostuser: inflight region of %d bytes, %d rings of this format need %d", f.Size, f.Queues, want)
	}
	return f.mem.Block(uint64(r.index)*f.stride(c.Features), f.stride(c.Features))
}

// track has the packed ring of c keep r's region, and take what is in it at its
// first start in the session.
func (s *session) track(r *ring, c *virtqueue.Config, fresh bool) (err error) {
	c.Inflight, err = s.tracked(r, c)
	if c.Inflight != nil {
		c.Inflight.Recover = fresh && !r.ran
	}
	return err
}

// tracked is the region of r when it is packed, nil when there is none.
func (s *session) tracked(r *ring, c *virtqueue.Config) (*virtqueue.Inflight, error) {
	if !c.Features.Has(virtio.RingPacked) {
		return nil, nil
	}
	b, err := s.inflight.of(r, c)
	if err != nil || b.Len() == 0 {
		return nil, err
	}
	return &virtqueue.Inflight{Memory: b.Sub(0, virtqueue.InflightLen(int(s.inflight.QueueSize))), Map: s.inflight.mem}, nil
}

// untrack has r's region forget a position that the front-end was told. Of a ring
// that has not run in this session it was told nothing.
func (s *session) untrack(r *ring) {
	if !r.ran {
		return
	}
	f, err := s.tracked(r, &virtqueue.Config{Features: s.features})
	if f == nil || err != nil {
		return // no region that this ring can have had
	}
	// A front-end that has taken the region away has nothing to be misled by.
	_ = sharedmem.Guard(func() error {
		f.Forget(virtqueue.StateOf(s.features, r.base))
		return nil
	})
}

var errOutOfOrder = errors.New("vhostuser: the back-end before this one left chains in flight that are not the next ones, which cannot be taken up here")

// land makes the region of a split ring that is about to start say that nothing
// is in flight. It touches guest memory.
func (s *session) land(r *ring, c *virtqueue.Config) error {
	if c.Features.Has(virtio.RingPacked) {
		return nil
	}
	b, err := s.inflight.of(r, c)
	if err != nil || b.Len() == 0 {
		return err
	}
	used := c.Used.Load16(2)
	// A back-end that is killed in here leaves a region that says no less.
	if b.Load16(inflightVersion) != 0 {
		if err := landed(b, c, used); err != nil {
			return err
		}
		b.Store16(inflightUsed, used)
		b.Store16(inflightSize, uint16(c.Size))
		return nil
	}
	for head := range c.Size {
		flown(b, uint16(head))
	}
	b.Store16(inflightSize, uint16(c.Size))
	b.Store16(inflightUsed, used)
	b.Store16(inflightVersion, 1)
	return nil
}

// inFlight reports whether region b says that the chain of head is in flight.
func inFlight(b sharedmem.Block, head uint16) bool {
	return b.Load8(inflightEntries+inflightEntry*uint32(head)) != 0
}

// flown makes region b say that the chain of head is not in flight.
func flown(b sharedmem.Block, head uint16) { b.Store8(inflightEntries+inflightEntry*uint32(head), 0) }

// landed makes region b say that nothing is in flight. It reports errOutOfOrder
// unless what was are the chains that the driver made available from index used
// on.
func landed(b sharedmem.Block, c *virtqueue.Config, used uint16) error {
	var flying []uint16
	for head := range c.Size {
		if inFlight(b, uint16(head)) {
			flying = append(flying, uint16(head))
		}
	}
	if len(flying) == 0 {
		return nil // and the region's used index may be of the ring's start
	}
	given, err := lastBatch(b, c.Size, used-b.Load16(inflightUsed))
	if err != nil {
		return err
	}
	flying = slices.DeleteFunc(flying, func(head uint16) bool { return given[head] })
	if int(c.Avail.Load16(2)-used) < len(flying) {
		return errOutOfOrder
	}
	next := make([]uint16, len(flying))
	for i := range next {
		slot := uint32(used+uint16(i)) & uint32(c.Size-1)
		next[i] = c.Avail.Load16(4 + 2*slot)
	}
	if !slices.Equal(flying, slices.Sorted(slices.Values(next))) {
		return errOutOfOrder
	}
	for _, head := range slices.Backward(next) { // so that those that are left are the next ones
		flown(b, head)
	}
	for head := range given {
		flown(b, head)
	}
	return nil
}

// lastBatch is the n chains that were given back last. A back-end moves the
// ring's used index, then says of each that it is not in flight, then moves the
// region's used index: one that was killed in between has given them back,
// whatever else the region says of them.
func lastBatch(b sharedmem.Block, size int, n uint16) (given map[uint16]bool, err error) {
	if int(n) > size {
		return nil, fmt.Errorf("vhostuser: the inflight region makes no sense: its used index is %d behind that of a ring of %d entries", n, size)
	}
	given = make(map[uint16]bool, n)
	head := b.Load16(inflightBatch)
	for range n {
		if int(head) >= size {
			return nil, fmt.Errorf("vhostuser: the inflight region makes no sense: head %d is among the last that were given back of a ring of %d entries", head, size)
		}
		given[head] = true
		head = b.Load16(inflightEntries + inflightEntry*uint32(head) + inflightNext)
	}
	return given, nil
}
