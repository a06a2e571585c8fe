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

// ready counts; of a packed ring, which tells only of the next chain, it is
// asked whether there is one.
func (d *differ) ready() error {
	n, err := d.queue.Ready()
	if err != nil {
		return d.broken(n, err, 1)
	}
	if d.shape.packed {
		n = min(n, 1)
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
	avail, used := word(want.Avail, d.shape.packed), word(want.Used, d.shape.packed)
	if got.Avail != avail || got.Used != used || got.Packed != d.shape.packed {
		return fmt.Errorf("Suspend says %#x, %#x; the model %#x, %#x", got.Avail, got.Used, avail, used)
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
	d.store(d.cfg.Driver, 2, uint64(word(p, true)))
	d.store(d.cfg.Driver+2, 2, mode)
}
