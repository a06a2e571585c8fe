package vqtest_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"

	"github.com/google/go-cmp/cmp"
)

// literal is a device that does to the bytes of a packed ring what virtio 1.3,
// section 2.8, says, one slot at a time. It may do what ours never does:
// return chains out of order, or one for a batch.
type literal struct {
	mem         []byte // slots at 0
	size        int
	avail, used place
}

// place is a slot and its wrap counter.
type place struct {
	slot int
	wrap bool
}

func (l *literal) next(p place) place {
	if p.slot++; p.slot == l.size {
		return place{0, !p.wrap}
	}
	return p
}

// taken is a chain that the literal device has read.
type taken struct {
	id     uint16
	slots  int
	out    []byte
	in     [][]byte
	bounds int // bytes of in
}

const literalGPA = 0x10000

func (l *literal) bytes(addr uint64, n uint32) []byte {
	return l.mem[addr-literalGPA:][:n]
}

// pop reads one chain; ok says whether there is one.
func (l *literal) pop() (c taken, ok bool) {
	add := func(d []byte, flags uint16) {
		b := l.bytes(binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint32(d[8:]))
		if flags&vqtest.FlagWrite == 0 {
			c.out = append(c.out, b...)
			return
		}
		c.in = append(c.in, b)
		c.bounds += len(b)
	}
	for {
		d := l.mem[16*l.avail.slot:][:16]
		flags := binary.LittleEndian.Uint16(d[14:])
		if c.slots == 0 && (flags&0x80 != 0 != l.avail.wrap || flags&0x8000 != 0 == l.avail.wrap) {
			return c, false
		}
		if flags&vqtest.FlagIndirect != 0 {
			table := l.bytes(binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint32(d[8:]))
			for ; len(table) > 0; table = table[16:] {
				add(table, binary.LittleEndian.Uint16(table[14:]))
			}
		} else {
			add(d, flags)
		}
		c.slots++
		c.id = binary.LittleEndian.Uint16(d[12:])
		l.avail = l.next(l.avail)
		if flags&vqtest.FlagNext == 0 {
			return c, true
		}
	}
}

// push writes a used entry and goes on by so many slots.
func (l *literal) push(id uint16, written, slots int) {
	d, flags := l.mem[16*l.used.slot:][:16], uint16(0)
	binary.LittleEndian.PutUint64(d, 0xbad) // a used entry has no address
	if l.used.wrap {
		flags = 0x8080
	}
	if written > 0 {
		flags |= vqtest.FlagWrite
	}
	binary.LittleEndian.PutUint32(d[8:], uint32(written))
	binary.LittleEndian.PutUint16(d[12:], id)
	binary.LittleEndian.PutUint16(d[14:], flags)
	for range slots {
		l.used = l.next(l.used)
	}
}

// echo writes what c reads, and answers how much fits.
func (c *taken) echo() (written int) {
	for _, b := range c.in {
		written += copy(b, c.out[min(written, len(c.out)):])
	}
	return written
}

// newLiteral is a driver of a packed ring, without a device of ours.
func newLiteral(t *testing.T, c vqtest.Config, n int) (*vqtest.Driver, *literal) {
	t.Helper()
	mem := make([]byte, n+64)
	for at := range 64 {
		if b := sharedmem.BytesBlock(mem[at:]); b.Aligned(0, 64) {
			mem = mem[at:]
			break
		}
	}
	c.Mem, c.GPA = sharedmem.BytesBlock(mem).Sub(0, uint64(n)), literalGPA
	c.Features |= virtio.RingPacked
	d, err := vqtest.NewDriver(c)
	if err != nil {
		t.Fatal(err)
	}
	start := place{int(c.Start) % c.Size, int(c.Start)/c.Size%2 == 0}
	return d, &literal{mem: mem, size: c.Size, avail: start, used: start}
}

// TestPackedBytes: what two chains are in a ring of three slots, over its end.
func TestPackedBytes(t *testing.T) {
	d, l := newLiteral(t, vqtest.Config{Size: 3, Start: 2}, 1<<16)
	first, err := d.Add(vqtest.Request{Out: [][]byte{[]byte("ab")}, In: []int{5}})
	if err != nil {
		t.Fatal(err)
	}
	second, err := d.Add(vqtest.Request{Out: [][]byte{[]byte("xyz")}})
	if err != nil {
		t.Fatal(err)
	}
	if got := l.mem[16*2+14:][:2]; got[1] != 0 || got[0] != 0 {
		t.Errorf("the first slot's flags are % x before Publish", got)
	}
	if !d.Publish() {
		t.Error("no kick, and the device has not asked for none")
	}
	want := []byte{
		// addr                   len         id flags
		0x10, 0x10, 1, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0x02, 0x80, // 0: writable; lap two: USED, not AVAIL
		0x20, 0x10, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0x00, 0x80, // 1: second chain
		0x00, 0x10, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0x81, 0x00, // 2: readable, NEXT; lap one: AVAIL
	}
	if diff := cmp.Diff(want, l.mem[:48]); diff != "" || first != 0 || second != 1 {
		t.Fatalf("chains %d, %d; slots (-want +got):\n%s", first, second, diff)
	}
	if avail, used := d.Positions(); avail != 2 || used != 2|vqtest.WrapBit {
		t.Errorf("positions %#x, %#x", avail, used)
	}
	copy(l.mem[0x1010:], "hello")
	copy(l.mem[32:], []byte{0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0x82, 0x80}) // slot 2: chain 0, 5 bytes written
	copy(l.mem[16:], []byte{0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0})       // slot 1: chain 1, nothing written, so its len means nothing
	if n := d.Ready(); n != 2 || d.UsedIdx() != 2 {
		t.Errorf("%d chains are ready, up to %#x", n, d.UsedIdx())
	}
	done, err := d.Collect()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]vqtest.Completion{{Head: 0, Len: 5, Data: []byte("hello")}, {Head: 1, Data: []byte{}}}, done); diff != "" {
		t.Errorf("completions (-want +got):\n%s", diff)
	}
	if avail, used := d.Positions(); avail != 2 || used != 2 || d.Available() != 3 {
		t.Errorf("positions %#x, %#x, %d slots free", avail, used, d.Available())
	}
}

// TestPackedHalves: driver and literal device talk over many laps, at sizes
// even and odd, from any start, in order or not, chain by chain or in batches.
func TestPackedHalves(t *testing.T) {
	for _, size := range []int{1, 2, 3, 5, 7, 8, 1000} {
		for _, start := range []int{0, 1, size - 1, size, 2*size + 1, 65535} {
			for _, how := range []string{"chain by chain", "backwards", "in batches"} {
				t.Run(fmt.Sprintf("%d slots, %d used, %s", size, start, how), func(t *testing.T) {
					c := vqtest.Config{Size: size, Start: uint16(start), Features: virtio.IndirectDesc}
					if how == "in batches" {
						c.Features |= virtio.InOrder
					}
					d, l := newLiteral(t, c, 1<<18)
					seed := 0
					for lap := 0; lap < max(40, 5*size); lap += size {
						talk(t, d, l, how, &seed)
					}
					if d.Available() != size {
						t.Errorf("%d slots are free at the end", d.Available())
					}
				})
			}
		}
	}
}

// talk fills the ring and lets the device return everything.
func talk(t *testing.T, d *vqtest.Driver, l *literal, how string, seed *int) {
	t.Helper()
	want := map[uint16]string{}
	for {
		*seed++
		text := []byte(fmt.Sprintf("request %d", *seed))
		r := vqtest.Request{Out: [][]byte{text}, In: []int{3, 20}, Indirect: *seed%3 == 0 || d.Size() < 3, Direct: 1}
		if *seed%3 == 1 && d.Size() >= 3 {
			r.Out, r.In = [][]byte{text[:2], text[2:]}, []int{30}
		}
		head, err := d.Add(r)
		if err != nil {
			break
		}
		want[head] = string(text)
	}
	if _, ok := l.pop(); ok {
		t.Fatal("the device sees a chain that was not published")
	}
	d.Publish()
	var all []taken
	for c, ok := l.pop(); ok; c, ok = l.pop() {
		all = append(all, c)
	}
	if len(all) != len(want) {
		t.Fatalf("the device has %d chains of %d", len(all), len(want))
	}
	switch how {
	case "backwards":
		for i := range all {
			c := &all[len(all)-1-i]
			l.push(c.id, c.echo(), c.slots)
		}
	case "chain by chain":
		for i := range all {
			l.push(all[i].id, all[i].echo(), all[i].slots)
		}
	case "in batches":
		slots := 0
		for i := range all {
			written := all[i].echo()
			if slots += all[i].slots; i%3 == 2 || i == len(all)-1 {
				l.push(all[i].id, written, slots)
				slots = 0
			}
		}
	}
	var used [1]virtqueue.Used
	for range all {
		if n, err := d.Reap(used[:]); n != 1 || err != nil {
			t.Fatalf("Reap = %d, %v", n, err)
		}
		text, ok := want[used[0].Head]
		got := d.Written(used[0].Head, used[0].Len)
		if !ok || !bytes.HasPrefix(got, []byte(text)) {
			t.Fatalf("chain %d came back with %q, want %q", used[0].Head, got, text)
		}
		if how != "in batches" && len(got) != len(text) {
			t.Fatalf("chain %d came back with %d bytes, want %d", used[0].Head, len(got), len(text))
		}
		delete(want, used[0].Head)
		d.Free(used[0].Head)
	}
}

// TestPackedKicks: the device's wish in all its modes against what it means: a
// kick when the position that it names is among those just published.
func TestPackedKicks(t *testing.T) {
	const size = 5
	set := func(l *literal, d *vqtest.Driver, pos, flags uint16) {
		at := d.Rings().Used
		binary.LittleEndian.PutUint16(l.mem[at:], pos)
		binary.LittleEndian.PutUint16(l.mem[at+2:], flags)
	}
	position := func(n int) uint16 { // of the slot so many behind the first
		pos := uint16(n % size)
		if n/size%2 == 0 {
			pos |= vqtest.WrapBit
		}
		return pos
	}
	for start := 2 * size; start < 4*size; start++ {
		for moved := 0; moved <= size; moved++ {
			end := start + moved
			for event := end - size; event < end+size; event++ {
				for _, flags := range []uint16{vqtest.EventEnable, vqtest.EventDisable, vqtest.EventDesc} {
					d, l := newLiteral(t, vqtest.Config{Size: size, Start: uint16(start)}, 1<<13)
					for range moved {
						if _, err := d.Add(vqtest.Request{In: []int{1}}); err != nil {
							t.Fatal(err)
						}
					}
					set(l, d, position(event), flags)
					want := moved > 0
					switch flags {
					case vqtest.EventDisable:
						want = false
					case vqtest.EventDesc:
						want = event >= start && event < end
					}
					if got := d.Publish(); got != want {
						t.Fatalf("%d slots from %d, event %d, flags %d: kick %v", moved, start, event, flags, got)
					}
				}
			}
		}
	}
}

// TestPackedWish: what the driver writes when it wants calls, and when not.
func TestPackedWish(t *testing.T) {
	for _, tc := range []struct {
		features    virtio.Features
		start       uint16
		want, never [4]byte
	}{
		{0, 0, [4]byte{0, 0, 0, 0}, [4]byte{0, 0, 1, 0}},
		{virtio.EventIdx, 0, [4]byte{0, 0x80, 2, 0}, [4]byte{0, 0, 1, 0}},
		{virtio.EventIdx, 302, [4]byte{2, 0, 2, 0}, [4]byte{0, 0, 1, 0}},
	} {
		d, l := newLiteral(t, vqtest.Config{Size: 300, Features: tc.features, Start: tc.start}, 1<<16)
		area := func() [4]byte { return [4]byte(l.mem[d.Rings().Avail:]) }
		if d.NoCalls(); area() != tc.never {
			t.Errorf("%v: no calls are % x", tc.features, area())
		}
		if more := d.WantCalls(); more || area() != tc.want {
			t.Errorf("%v: calls are % x, %v", tc.features, area(), more)
		}
		if _, err := d.Add(vqtest.Request{In: []int{1}}); err != nil {
			t.Fatal(err)
		}
		d.Publish()
		c, _ := l.pop()
		l.push(c.id, 1, 1)
		if !d.WantCalls() {
			t.Error("WantCalls does not see the chain that is back")
		}
		d.SetDriverEvent(0x8123, vqtest.EventDesc)
		if area() != [4]byte{0x23, 0x81, 2, 0} {
			t.Errorf("SetDriverEvent wrote % x", area())
		}
		binary.LittleEndian.PutUint32(l.mem[d.Rings().Used:], 0x0002_8004)
		if pos, flags := d.DeviceEvent(); pos != 0x8004 || flags != 2 {
			t.Errorf("the device's wish is read as %#x, %d", pos, flags)
		}
	}
}

// TestPackedBadDevice: what a device must not return is an error of Reap, and
// does not keep Ready from ending.
func TestPackedBadDevice(t *testing.T) {
	for name, ids := range map[string][]uint16{"never added": {3}, "no id of this ring": {99}, "twice": {0, 0}} {
		t.Run(name, func(t *testing.T) {
			d, l := newLiteral(t, vqtest.Config{Size: 5}, 1<<13)
			for range 2 {
				if _, err := d.Add(vqtest.Request{In: []int{8}}); err != nil {
					t.Fatal(err)
				}
			}
			d.Publish()
			for _, id := range ids {
				l.push(id, 0, 1)
			}
			if n := d.Ready(); n != len(ids) {
				t.Errorf("%d chains are ready", n)
			}
			if _, err := d.Collect(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("returned chain %d at", ids[len(ids)-1])) {
				t.Errorf("Collect: %v", err)
			}
		})
	}
}

// TestPackedRaw: a malicious driver writes any slot, with and without making it
// the device's.
func TestPackedRaw(t *testing.T) {
	d, l := newLiteral(t, vqtest.Config{Size: 3, Start: 2}, 1<<14)
	d.PutRaw([]vqtest.RawDesc{
		{Addr: literalGPA + 0x2000, Len: 4, Flags: 0xfff0 | vqtest.FlagNext, Next: 0xffff},
		{Addr: literalGPA + 0x2004, Len: 1, Next: 0xfffe},
	})
	if got, want := d.Slot(2), (vqtest.RawDesc{literalGPA + 0x2000, 4, 0x7ff1, 0xffff}); got != want {
		t.Errorf("slot 2 is %+v, want %+v", got, want)
	}
	if got, want := d.Slot(0), (vqtest.RawDesc{literalGPA + 0x2004, 1, 0x8000, 0xfffe}); got != want {
		t.Errorf("slot 0 is %+v, want %+v", got, want)
	}
	if c, ok := l.pop(); !ok || c.id != 0xfffe || c.slots != 2 || len(c.out) != 5 {
		t.Errorf("the device reads %+v", c)
	}
	d.SetDesc(1, 1, 2, 3, 4)
	if got, want := d.Slot(1), (vqtest.RawDesc{1, 2, 3, 4}); got != want {
		t.Errorf("slot 1 is %+v, want %+v", got, want)
	}
	d.SetPositions(1, 1)
	if avail, used := d.Positions(); avail != 1 || used != 1 || d.Plus(1, 2) != vqtest.WrapBit {
		t.Errorf("positions %#x, %#x", avail, used)
	}
}

// TestPackedInOrderReady: one used descriptor stands for all chains up to the one
// that it names, in the first one's slot (virtio 1.3, section 2.8.9). All of
// them are ready, also when some have been reaped.
func TestPackedInOrderReady(t *testing.T) {
	p := newPair(t, vqtest.Options{Size: 8, Features: virtio.RingPacked | virtio.InOrder})
	c, err := p.Config()
	if err != nil {
		t.Fatal(err)
	}
	var heads []uint16
	for _, slots := range []int{1, 2, 1, 1} {
		head, err := p.Driver.Add(vqtest.Request{In: make([]int, slots)})
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, head)
	}
	p.Driver.Publish()
	want := func(ready int, pos uint16) {
		t.Helper()
		if got := p.Driver.Ready(); got != ready || p.Driver.UsedIdx() != pos|vqtest.WrapBit {
			t.Errorf("%d chains are ready, the device stands at %#x, want %d, %#x", got, p.Driver.UsedIdx(), ready, pos|vqtest.WrapBit)
		}
	}
	want(0, 0)
	used := func(slot, head uint16) {
		c.Desc.Store64(16*uint32(slot)+8, uint64(head)<<32|uint64(vqtest.FlagAvail|vqtest.FlagUsed)<<48)
	}
	used(0, heads[2])
	want(3, 4)
	used(4, heads[3])
	want(4, 5)
	for i, head := range heads {
		var one [1]virtqueue.Used
		if n, err := p.Driver.Reap(one[:]); n != 1 || err != nil || one[0].Head != head {
			t.Fatalf("chain %d: %d reaped, %+v, %v, want head %d", i, n, one, err, head)
		}
		p.Driver.Free(head)
		want(3-i, 5)
	}
}
