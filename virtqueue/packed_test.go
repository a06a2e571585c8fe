package virtqueue_test

import (
	"errors"
	"fmt"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// Flags of a packed descriptor, as virtio 1.3, section 2.8, names them.
const (
	next     = 1
	write    = 2
	indirect = 4
	avail    = 0x80
	used     = 0x8000
)

// packedRing is a packed ring whose bytes a test writes itself.
type packedRing struct {
	t              *testing.T
	q              *virtqueue.Queue
	mem            *sharedmem.Map
	desc, drv, dev sharedmem.Block
	size           uint32
	pos            uint32 // of the driver: slot and wrap counter, counted 0 to 2*size-1
}

const (
	packedRings = 0x0000 // guest address of the descriptors
	packedTable = 0x8000 // of an indirect table
	packedData  = 0x10000
)

func newPackedRing(t *testing.T, size int, f virtio.Features, resume *virtqueue.State) *packedRing {
	t.Helper()
	file, err := sharedmem.NewMemoryFile(64 * page)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Unref()
	return newPackedRingIn(t, file, packedRings, size, f, resume)
}

// newPackedRingIn has its descriptors at guest address at, in file's 64 pages.
func newPackedRingIn(t *testing.T, file *sharedmem.File, at uint64, size int, f virtio.Features, resume *virtqueue.State) *packedRing {
	t.Helper()
	mem, err := sharedmem.NewMap([]sharedmem.Region{{Size: 64 * page, File: file}}, sharedmem.MapOptions{Owner: "vm"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(mem.Unref)
	block := func(gpa, n uint64) sharedmem.Block {
		b, err := mem.Block(gpa, n)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	r := &packedRing{t: t, mem: mem, size: uint32(size), desc: block(at, virtqueue.DescLen(size)), drv: block(0x7000, 4), dev: block(0x7004, 4)}
	if resume != nil {
		r.pos = uint32(resume.Avail & 0x7fff)
		if resume.Avail&0x8000 == 0 {
			r.pos += r.size
		}
	}
	r.q, err = virtqueue.New(virtqueue.Config{
		Size: size, Features: f | virtio.RingPacked | virtio.Version1, Desc: r.desc, Avail: r.drv, Used: r.dev, Resume: resume,
	}, mem)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.q.Close)
	return r
}

// slot writes one descriptor at the driver's position and moves on; flags are
// those beside AVAIL and USED.
func (r *packedRing) slot(addr uint64, length uint32, id, flags uint16) {
	i := r.pos % r.size
	if r.pos < r.size {
		flags |= avail
	} else {
		flags |= used
	}
	r.desc.Store64(16*i, addr)
	r.desc.Store64(16*i+8, uint64(length)|uint64(id)<<32|uint64(flags)<<48)
	r.pos = (r.pos + 1) % (2 * r.size)
}

// at is slot i as the driver sees it.
func (r *packedRing) at(i uint32) (length uint32, id, flags uint16) {
	word := r.desc.Load64(16*i + 8)
	return uint32(word), uint16(word >> 32), uint16(word >> 48)
}

func (r *packedRing) pop(want int) []virtqueue.Chain {
	r.t.Helper()
	chains := make([]virtqueue.Chain, want+1)
	n, err := r.q.Pop(chains)
	if n != want || err != nil {
		r.t.Fatalf("Pop = %d, %v; want %d", n, err, want)
	}
	return chains[:n]
}

func (r *packedRing) wantSlot(i, wantLen uint32, wantID, wantFlags uint16) {
	r.t.Helper()
	if l, id, flags := r.at(i); l != wantLen || id != wantID || flags != wantFlags {
		r.t.Errorf("slot %d: len %d, id %d, flags %#x; want %d, %d, %#x", i, l, id, flags, wantLen, wantID, wantFlags)
	}
}

// TestPackedSlots: a chain of three slots and a single one, what the device
// makes of them, and the very words that it writes.
func TestPackedSlots(t *testing.T) {
	r := newPackedRing(t, 5, 0, nil)
	r.slot(packedData, 100, 0xdead, next)      // only the last slot's id counts
	r.slot(packedData+200, 20, 0xbeef, next)   //
	r.slot(packedData+400, 30, 7, write)       //
	r.slot(packedData+1000, 64, 0xffff, write) // any id is one
	chains := r.pop(2)
	if c := &chains[0]; c.Head != 7 || c.Readable != 120 || c.Writable != 30 || len(c.ReadableBlocks()) != 2 || len(c.WritableBlocks()) != 1 {
		t.Errorf("first chain: %+v", c)
	}
	if c := &chains[1]; c.Head != 0xffff || c.Readable != 0 || c.Writable != 64 {
		t.Errorf("second chain: %+v", c)
	}
	if !r.q.Push([]virtqueue.Used{{Head: 7, Len: 12}, {Head: 0xffff}}) {
		t.Error("the first Push makes no call")
	}
	r.wantSlot(0, 12, 7, avail|used|write)
	r.wantSlot(1, 20, 0xbeef, next|avail) // within the chain: not the device's to write
	r.wantSlot(3, 0, 0xffff, avail|used)  // nothing written, so no WRITE

	// The next lap: both bits clear.
	r.slot(packedData, 1, 1, 0)
	r.slot(packedData, 2, 2, write)
	r.pop(2)
	r.q.Push([]virtqueue.Used{{Head: 1}, {Head: 2, Len: 2}})
	r.wantSlot(4, 0, 1, avail|used)
	r.wantSlot(0, 2, 2, write)
	if s := r.q.Suspend(); s != (virtqueue.State{Avail: 1, Used: 1, Packed: true}) || s.Base() != 0x0001_0001 {
		t.Errorf("state %+v, base %#x", s, s.Base())
	}
}

// TestPackedWraps goes round rings of every kind of size many times with
// chains of 1 to 3 slots, popping and pushing in uneven steps, and sees each
// chain once, in order.
func TestPackedWraps(t *testing.T) {
	for _, size := range []int{1, 2, 3, 5, 7, 8, 100} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			r := newPackedRing(t, size, 0, nil)
			var sent, popped, pushed uint16
			var slots []int // of the chains with the device
			free := size
			for step := range 5000 {
				for n := 1 + step%3; n <= free && n <= size; n = 1 + int(sent)%3 {
					for i := range n {
						flags := uint16(next)
						if i == n-1 {
							flags = 0
						}
						r.slot(packedData, uint32(n), sent, flags)
					}
					slots = append(slots, n)
					free -= n
					sent++
				}
				chains := make([]virtqueue.Chain, 1+step%4)
				n, err := r.q.Pop(chains)
				if err != nil {
					t.Fatal(err)
				}
				if n > 1 && step%5 == 0 {
					r.q.Unpop(1)
					n--
				}
				for i := range n {
					if chains[i].Head != popped {
						t.Fatalf("step %d: chain %d, want %d", step, chains[i].Head, popped)
					}
					popped++
				}
				back := int(popped - pushed)
				if step%7 != 0 {
					back = (back + 1) / 2
				}
				for range back {
					r.q.Push([]virtqueue.Used{{Head: pushed}})
					free += slots[0]
					slots = slots[1:]
					pushed++
				}
			}
			if err := r.q.Broken(); err != nil || sent < 1000 {
				t.Errorf("%d chains, %v", sent, err)
			}
		})
	}
}

// TestPackedResume: a ring goes on at any slot, in either lap, from its own
// State and from a front-end's base.
func TestPackedResume(t *testing.T) {
	for _, at := range []uint16{0x8000, 0, 3, 0x8003, 6, 0x8006} {
		state := virtqueue.StateOf(virtio.RingPacked, uint32(at)|0x1234_0000)
		r := newPackedRing(t, 7, 0, &state)
		for i := range uint16(5) {
			r.slot(packedData, 8, 40+i, 0)
		}
		r.pop(5)
		r.q.Push([]virtqueue.Used{{Head: 40}, {Head: 41}})
		state = r.q.Suspend() // three chains go back
		c, err := virtqueue.New(virtqueue.Config{
			Size: 7, Features: virtio.RingPacked, Desc: r.desc, Avail: r.drv, Used: r.dev, Resume: &state,
		}, r.mem)
		if err != nil {
			t.Fatal(err)
		}
		chains := make([]virtqueue.Chain, 7)
		if n, err := c.Pop(chains); n != 3 || err != nil || chains[0].Head != 42 {
			t.Errorf("from %#x on: %d chains, the first %d, %v", at, n, chains[0].Head, err)
		}
		c.Close()
	}
}

// TestPackedIndirect: the entries of a table in order, whatever NEXT and next
// say; only WRITE counts there.
func TestPackedIndirect(t *testing.T) {
	r := newPackedRing(t, 4, virtio.IndirectDesc, nil)
	table, err := r.mem.Block(packedTable, 16*6)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(6) {
		flags := uint64(0xfff0 | next | indirect) // reserved there, as all but WRITE
		if i >= 2 {
			flags = write
		}
		table.Store64(16*i, packedData+4096*uint64(i))
		table.Store64(16*i+8, 100|0xffff<<32|flags<<48)
	}
	r.slot(packedTable, 16*6, 9, indirect|write)
	r.slot(packedData, 5, 10, 0)
	chains := r.pop(2)
	if c := &chains[0]; c.Head != 9 || c.Readable != 200 || c.Writable != 400 || len(c.WritableBlocks()) != 4 {
		t.Errorf("%+v", c)
	}
	if chains[1].Head != 10 {
		t.Errorf("behind the indirect chain: %d", chains[1].Head)
	}
}

// TestPackedBroken: what makes no sense breaks the ring, and nothing of the
// chain is used.
func TestPackedBroken(t *testing.T) {
	for _, tc := range []struct {
		name  string
		f     virtio.Features
		write func(r *packedRing)
		want  virtqueue.Reason
	}{
		{"a chain longer than the ring", 0, func(r *packedRing) {
			for range 4 {
				r.slot(packedData, 0, 1, next)
			}
		}, virtqueue.ReasonLoop},
		{"unmapped", 0, func(r *packedRing) { r.slot(64*page-1, 2, 1, 0) }, virtqueue.ReasonUnmapped},
		{"address wraps", 0, func(r *packedRing) { r.slot(^uint64(7), 16, 1, 0) }, virtqueue.ReasonUnmapped},
		{"readable behind writable", 0, func(r *packedRing) {
			r.slot(packedData, 1, 1, next|write)
			r.slot(packedData, 1, 1, 0)
		}, virtqueue.ReasonDirection},
		{"INDIRECT not accepted", 0, func(r *packedRing) { r.slot(packedTable, 16, 1, indirect) }, virtqueue.ReasonUnnegotiated},
		{"INDIRECT with NEXT", virtio.IndirectDesc, func(r *packedRing) {
			r.slot(packedTable, 16, 1, indirect|next)
			r.slot(packedData, 1, 1, 0)
		}, virtqueue.ReasonIndirectNext},
		{"INDIRECT behind another", virtio.IndirectDesc, func(r *packedRing) {
			r.slot(packedData, 1, 1, next)
			r.slot(packedTable, 16, 1, indirect)
		}, virtqueue.ReasonIndirectChain},
		{"a table of no length", virtio.IndirectDesc, func(r *packedRing) { r.slot(packedTable, 0, 1, indirect) }, virtqueue.ReasonTable},
		{"a table of 17 bytes", virtio.IndirectDesc, func(r *packedRing) { r.slot(packedTable, 17, 1, indirect) }, virtqueue.ReasonTable},
		{"a table too long", virtio.IndirectDesc, func(r *packedRing) { r.slot(packedTable, 16*1025, 1, indirect) }, virtqueue.ReasonTable},
		{"a table nowhere", virtio.IndirectDesc, func(r *packedRing) { r.slot(1<<40, 16, 1, indirect) }, virtqueue.ReasonTableAddress},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newPackedRing(t, 4, tc.f, nil)
			tc.write(r)
			n, err := r.q.Pop(make([]virtqueue.Chain, 4))
			var broken *virtqueue.BrokenError
			if n != 0 || !errors.As(err, &broken) || broken.Reason != tc.want || broken.Position != 0x8000 {
				t.Fatalf("%d chains, %v; want reason %d", n, err, tc.want)
			}
			t.Log(err)
			if r.q.Push([]virtqueue.Used{{}}) || r.q.Arm() {
				t.Error("a broken ring goes on")
			}
		})
	}
}

// TestPackedOverrun: a driver that makes slots available which the device has
// not given back breaks its ring, at the latest when the ring is full.
func TestPackedOverrun(t *testing.T) {
	for name, look := range map[string]func(*virtqueue.Queue) (int, error){
		"Ready": (*virtqueue.Queue).Ready,
		"Pop":   func(q *virtqueue.Queue) (int, error) { return q.Pop(make([]virtqueue.Chain, 1)) },
	} {
		r := newPackedRing(t, 3, 0, nil)
		for i := range uint16(3) {
			r.slot(packedData, 1, i, 0)
		}
		r.pop(3)
		r.slot(packedData, 1, 9, 0)
		var broken *virtqueue.BrokenError
		if n, err := look(r.q); n != 0 || !errors.As(err, &broken) || broken.Reason != virtqueue.ReasonOverrun {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

// TestPackedUsedIsNotAvailable: a slot whose two bits are equal is nobody's to
// take, whichever lap they are of.
func TestPackedUsedIsNotAvailable(t *testing.T) {
	r := newPackedRing(t, 2, 0, nil)
	for _, flags := range []uint64{0, avail | used, used} {
		r.desc.Store64(0, packedData)
		r.desc.Store64(8, 1|flags<<48)
		if n, err := r.q.Pop(make([]virtqueue.Chain, 2)); n != 0 || err != nil {
			t.Errorf("flags %#x: %d chains, %v", flags, n, err)
		}
	}
}

// TestPackedKicks: what the device's event area says from start to sleep.
func TestPackedKicks(t *testing.T) {
	for _, tc := range []struct {
		f     virtio.Features
		armed uint32
	}{{0, 0}, {virtio.EventIdx, 2<<16 | 1 | 0x8000}} {
		r := newPackedRing(t, 3, tc.f, nil)
		wish := func(want uint32) {
			t.Helper()
			if got := r.dev.Load32(0); got != want {
				t.Errorf("%v: event area %#x, want %#x", tc.f, got, want)
			}
		}
		const off = 1 << 16
		wish(off)
		r.slot(packedData, 1, 1, 0)
		r.pop(1)
		r.q.Push([]virtqueue.Used{{Head: 1}})
		wish(off)
		if r.q.Arm() {
			t.Error("an empty ring has more")
		}
		wish(tc.armed)
		r.slot(packedData, 1, 2, 0)
		if !r.q.Arm() {
			t.Error("the chain that came is not seen")
		}
		r.pop(1)
		wish(off)
		r.q.Unpop(1)
		if !r.q.Arm() {
			t.Error("the chain that went back is not seen")
		}
	}
}

// TestPackedCalls: the driver's three wishes, the reserved one, and one that
// it may not have.
func TestPackedCalls(t *testing.T) {
	for _, tc := range []struct {
		f    virtio.Features
		wish uint32
		want bool
	}{
		{0, 0, true},
		{0, 1 << 16, false},
		{0, 2<<16 | 0x8001, true}, // not accepted
		{0, 3 << 16, true},
		{virtio.EventIdx, 0, true},
		{virtio.EventIdx, 1 << 16, false},
		{virtio.EventIdx, 3 << 16, true},
		{virtio.EventIdx, 2<<16 | 0x8001, false}, // just before those pushed
		{virtio.EventIdx, 2<<16 | 0x8002, true},
		{virtio.EventIdx, 2<<16 | 0x8004, true},
		{virtio.EventIdx, 2 << 16, true}, // slot 0 of the next lap
		{virtio.EventIdx, 2<<16 | 1, false},
		{virtio.EventIdx, 2<<16 | 2, false},
	} {
		r := newPackedRing(t, 5, tc.f, nil)
		r.slot(packedData, 1, 0, 0)
		r.slot(packedData, 1, 0, 0)
		r.pop(2)
		r.q.Push([]virtqueue.Used{{}, {}})
		r.drv.Store32(0, tc.wish)
		for range 4 { // slots 2, 3, 4 and 0 of the next lap
			r.slot(packedData, 1, 0, 0)
		}
		r.pop(4)
		if got := r.q.Push([]virtqueue.Used{{}, {}, {}, {}}); got != tc.want {
			t.Errorf("%v, wish %#x: call %v", tc.f, tc.wish, got)
		}
	}
}
