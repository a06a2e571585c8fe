package virtqueue_test

import (
	"errors"
	"fmt"

	"vhostnet/virtqueue"
	"vhostnet/virtqueue/internal/model"
)

// push returns up to n of the oldest chains; r says how much is written to
// each.
func (d *differ) push(n int, r uint32) error {
	n = min(n, d.behind-d.first)
	d.used, d.lengths = d.used[:0], d.lengths[:0]
	random := diffRandom(r)
	for i := range n {
		c := &d.chains[d.first+i]
		length := c.Writable
		switch x := random.next(); x & 3 {
		case 0:
			length = 0
		case 1:
			length = uint32(uint64(x>>2) % (uint64(length) + 1))
		}
		if d.model.Dead() == 0 {
			d.write(c, &d.model.Taken()[i], length)
		}
		d.used = append(d.used, virtqueue.Used{Head: c.Head, Len: length})
		d.lengths = append(d.lengths, length)
	}
	call, want := d.queue.Push(d.used), d.model.Push(d.lengths)
	if !want.Fits(call) {
		return fmt.Errorf("after %d chains a call is %t, the model has %d", n, call, want)
	}
	if d.model.Dead() == 0 {
		d.count(n, call, want)
		d.first += n
	}
	return d.differs()
}

func (d *differ) count(n int, call bool, want model.Answer) {
	d.counts.used += n
	switch {
	case n == 0:
	case want == model.Either:
		d.counts.either++
	case call:
		d.counts.calls++
	default:
		d.counts.quiet++
	}
}

// write puts a pattern into the first n writable bytes, once through the
// Blocks and once through the model's addresses.
func (d *differ) write(got *virtqueue.Chain, want *model.Chain, n uint32) {
	pattern := d.pattern[:n]
	for _, b := range got.WritableBlocks() {
		here := min(uint64(len(pattern)), b.Len())
		b.CopyFrom(pattern[:here], 0)
		pattern = pattern[here:]
	}
	pattern = d.pattern[:n]
	for _, s := range want.Writable {
		here := min(uint64(len(pattern)), s.Len)
		d.bytes.Write(s.Addr, pattern[:here])
		pattern = pattern[here:]
	}
}

func (d *differ) unpop(n int) {
	d.queue.Unpop(n)
	// An avail_event that Arm left at an entry ahead of what is taken next is
	// not taken back: it costs one kick.
	d.loud = d.loud || n > 0 && d.model.Armed()
	if d.model.Dead() == 0 {
		d.model.Unpop(n)
		d.behind -= n
	}
	if n > 0 {
		d.asleep = false
	}
}

// arm asks both for a kick.
func (d *differ) arm() error {
	more, want := d.queue.Arm(), d.model.Arm()
	if !want.Fits(more) {
		return fmt.Errorf("Arm says %t, the model %d", more, want)
	}
	d.counts.arms++
	d.loud = false
	d.asleep = !more && d.model.Dead() == 0
	return d.differs()
}

// ready counts, of a split ring.
func (d *differ) ready() error {
	if d.shape.packed {
		return nil
	}
	n, err := d.queue.Ready()
	if err != nil {
		return d.broken(n, err, 1)
	}
	if want := d.model.Ready(); n != want || d.model.Dead() != 0 {
		return fmt.Errorf("Ready says %d, the model %d (fault %#x)", n, want, d.model.Dead())
	}
	return nil
}

// resume suspends both and goes on with new ones: from the State, or, fresh,
// from what is in memory, which only split rings have.
func (d *differ) resume(fresh bool) error {
	got, want := d.queue.Suspend(), d.model.Stop()
	if got.Avail != word(want.Avail) || got.Used != word(want.Used) {
		return fmt.Errorf("Suspend says %#x, %#x; the model %#x, %#x", got.Avail, got.Used, word(want.Avail), word(want.Used))
	}
	if n, err := d.queue.Pop(d.chains[:1]); n != 0 || err == nil || d.model.Dead() == 0 && !errors.Is(err, virtqueue.ErrSuspended) {
		return fmt.Errorf("Pop after Suspend says %d, %w", n, err)
	}
	if fresh && !d.shape.packed {
		return d.start(nil)
	}
	return d.start(&want)
}

// wrong returns a chain that is not the next one.
func (d *differ) wrong() error {
	d.used = append(d.used[:0], virtqueue.Used{Head: 77})
	if d.first < d.behind {
		d.used[0].Head = d.chains[d.first].Head + 1
	}
	if d.queue.Push(d.used) {
		return errors.New("a chain that was not taken is returned, and a call is made")
	}
	d.model.Refuse()
	return d.differs()
}

// wish is what the driver says of calls: a the mode, b the place, which is
// mostly near.
func (d *differ) wish(a, b uint32) {
	near := uint64(d.reaped.Index) + uint64(b%uint32(2*d.cfg.Size+2)) - uint64(d.cfg.Size/2)
	if a>>8&15 == 0 {
		near = uint64(b)
	}
	if !d.shape.packed {
		d.store(d.cfg.Driver, 2, uint64(a&1))
		if d.shape.event {
			d.store(d.cfg.Driver+4+2*uint64(d.cfg.Size), 2, near)
		}
		return
	}
	mode := uint64(a & 1)
	if d.shape.event {
		mode = uint64(a % 3)
	}
	p := d.reaped
	for range b % uint32(2*d.cfg.Size) {
		p = d.forward(p)
	}
	d.store(d.cfg.Driver, 2, uint64(word(p)))
	d.store(d.cfg.Driver+2, 2, mode)
}

// spoil writes b to a word of the ring that a names, or to any place.
func (d *differ) spoil(a, b uint32) {
	entry := uint64(a >> 8 & 0xff)
	desc := d.cfg.Desc + 16*(entry%uint64(d.cfg.Size))
	if a>>7&1 != 0 {
		desc = diffTables + 16*(entry%diffSlots)
	}
	r := diffRandom(b)
	switch a % 16 {
	case 0: // an address
		e := d.element(&r)
		d.store(desc, 8, e.addr+uint64(r.next()>>30)*0x900)
	case 1:
		d.store(desc, 8, uint64(r.next())<<32|uint64(b))
	case 2: // a length
		d.store(desc+8, 4, uint64(b>>(b&31)))
	case 3:
		d.store(desc+8, 4, uint64(16*(b%uint32(2*d.cfg.MaxChain))))
	case 4, 5: // flags, or a packed id
		d.store(desc+12, 2, uint64(b%8))
	case 6, 7: // next, or packed flags
		d.store(desc+14, 2, uint64(b>>16)%uint64(d.cfg.Size+1)|uint64(b&0x8086)&packedOnly(d.shape.packed))
	case 8: // a reference to a table
		d.descriptor(desc, element{diffTables + 16*uint64(b%diffSlots), 16 * (b >> 8 % 20), flagIndirect}, flagIndirect|uint16(b>>30), uint16(b>>28))
	case 9, 10: // a head
		d.store(d.cfg.Driver+4+2*(entry%uint64(d.cfg.Size)), 2, uint64(b%uint32(d.cfg.Size+1)))
	case 11: // avail.idx
		d.store(d.cfg.Driver+2, 2, uint64(word(d.avail))+uint64(b>>(b&15)))
	case 12: // the device's words
		d.store(d.cfg.DeviceArea+uint64(b>>16)%(6+8*uint64(d.cfg.Size)), 1, uint64(b))
	case 13: // the driver's words
		d.store(d.cfg.Driver+uint64(b>>16)%(6+2*uint64(d.cfg.Size)), 1, uint64(b))
	case 14:
		d.store(diffDesc+uint64(b>>8)%(diffBuffers-diffDesc), 1, uint64(b))
	default:
		d.store(desc+uint64(b>>8%16), 1, uint64(b))
	}
}

func packedOnly(packed bool) uint64 {
	if packed {
		return 0xffff
	}
	return 0
}
