package sharedmem

import (
	"errors"
	"math"
	"testing"
)

// pc is the layout of an x86 guest of QEMU: one file, its low part below the
// PCI hole, the rest above 4 GiB.
func pc(f *File) []Region {
	return []Region{
		{GPA: 4 << 30, User: 0x7f0000000000 + 64*page, Size: 64 * page, Offset: 64 * page, File: f},
		{GPA: 0, User: 0x7f0000000000, Size: 64 * page, File: f},
	}
}

func TestMapTranslates(t *testing.T) {
	baseline(t)
	f := sealed(t, 128*page)
	m := mapped(t, "web", pc(f)...)
	if m.Size() != 128*page || m.Owner() != "web" {
		t.Errorf("%d bytes of %q", m.Size(), m.Owner())
	}
	if r := m.Regions(); len(r) != 2 || r[0].GPA != 0 || r[1].GPA != 4<<30 || r[1].Offset != 64*page || r[0].File != f {
		t.Errorf("regions %+v", r)
	}
	all := mapped(t, "all", Region{Size: 128 * page, File: f})
	for _, c := range []struct{ gpa, user, at uint64 }{
		{0, 0x7f0000000000, 0},
		{64*page - 8, 0x7f0000000000 + 64*page - 8, 64*page - 8},
		{4 << 30, 0x7f0000000000 + 64*page, 64 * page},
		{4<<30 + 64*page - 8, 0x7f0000000000 + 128*page - 8, 128*page - 8},
	} {
		block(t, all, c.at, 8).Store64(0, c.gpa^0x5555)
		user, err := m.UserBlock(c.user, 8)
		if err != nil {
			t.Fatal(err)
		}
		w, ok := m.Window(c.gpa)
		if !ok {
			t.Fatalf("no window at %#x", c.gpa)
		}
		fast := w.Find(c.gpa, 8)
		if fast.Len() == 0 {
			t.Fatalf("no fast Block at %#x", c.gpa)
		}
		for name, b := range map[string]Block{"Block": block(t, m, c.gpa, 8), "UserBlock": user, "Window": fast} {
			if got := b.Load64(0); got != c.gpa^0x5555 || b.Len() != 8 {
				t.Errorf("%s at %#x: %d bytes, %#x", name, c.gpa, b.Len(), got)
			}
		}
	}
}

// V23, V35, V45, V48: a range that begins in a region and does not end there,
// begins in a hole, is empty or wraps is no Block.
func TestV23_RangesOutsideRegions(t *testing.T) {
	f := sealed(t, 128*page)
	m := mapped(t, "web", pc(f)...)
	// The same regions with front-end addresses equal to the guest's, as
	// virtio-user has them.
	table := pc(f)
	for i := range table {
		table[i].User = table[i].GPA
	}
	same := mapped(t, "same", table...)
	low, _ := m.Window(0)
	high, _ := m.Window(4 << 30)
	for _, c := range []struct{ at, n uint64 }{
		{0, 0},
		{0, 64*page + 1},
		{64*page - 1, 2},
		{64 * page, 1},
		{64 * page, 0},
		{1 << 30, 1},
		{4<<30 - 1, 2},
		{4<<30 - 1, 1},
		{4<<30 + 64*page, 1},
		{4<<30 + 64*page - 1, 2},
		{4<<30 + 1, math.MaxUint64},
		{1, math.MaxUint64},
		{0, math.MaxUint64},
		{math.MaxUint64, 1},
		{math.MaxUint64, 2},
		{math.MaxUint64 - 7, 16},
		{1 << 63, 1 << 63},
	} {
		if _, err := m.Block(c.at, c.n); !errors.Is(err, ErrUnmapped) {
			t.Errorf("Block(%#x, %d): %v", c.at, c.n, err)
		}
		if _, err := same.UserBlock(c.at, c.n); !errors.Is(err, ErrUnmapped) {
			t.Errorf("UserBlock(%#x, %d): %v", c.at, c.n, err)
		}
		for _, w := range []Window{low, high, {}} {
			if b := w.Find(c.at, c.n); b.Len() != 0 {
				t.Errorf("Window.Find(%#x, %d): %d bytes", c.at, c.n, b.Len())
			}
			if w.Holds(c.at, c.n) || !panicsWith(errBounds, func() { w.At(c.at, c.n) }) {
				t.Errorf("a window holds %d bytes at %#x", c.n, c.at)
			}
		}
		dst := make([]Block, 1, 8)
		if out, ok := m.Append(dst, c.at, c.n); ok || len(out) != 1 {
			t.Errorf("Append(%#x, %d): %v, %d Blocks", c.at, c.n, ok, len(out)-1)
		}
	}
	if _, ok := m.Window(1 << 30); ok {
		t.Error("a window in a hole")
	}
}

// V23: the front-end's addresses of two regions may be adjacent while their
// guest addresses are not; a ring must be in one region.
func TestV23_UserRangeOverTwoRegions(t *testing.T) {
	m := mapped(t, "web", pc(sealed(t, 128*page))...)
	const border = 0x7f0000000000 + 64*page
	if _, err := m.UserBlock(border-4, 8); !errors.Is(err, ErrUnmapped) {
		t.Errorf("a ring over two regions: %v", err)
	}
	for _, at := range []uint64{border - 8, border} {
		if _, err := m.UserBlock(at, 8); err != nil {
			t.Error(err)
		}
	}
}

// V23: a buffer over regions that are neighbours in the guest is split at each
// border, and a hole refuses it.
func TestV23_AppendSplits(t *testing.T) {
	f := sealed(t, 8*page)
	m := mapped(t, "web",
		Region{GPA: 0x10000, User: 1 << 40, Size: page, Offset: 4 * page, File: f},
		Region{GPA: 0x10000 + page, User: 1 << 41, Size: page, File: f},
		Region{GPA: 0x10000 + 2*page, User: 1 << 42, Size: page, Offset: 2 * page, File: f},
		Region{GPA: 0x10000 + 4*page, User: 1 << 43, Size: page, Offset: 6 * page, File: f},
	)
	for _, c := range []struct {
		at, n uint64
		want  []uint64 // lengths; nil: refused
	}{
		{0x10000, page, []uint64{page}},
		{0x10000 + page - 1, 2, []uint64{1, 1}},
		{0x10000 + 10, 3*page - 20, []uint64{page - 10, page, page - 10}},
		{0x10000, 3 * page, []uint64{page, page, page}},
		{0x10000, 3*page + 1, nil},
		{0x10000 + 2*page, 3 * page, nil},
		{0x10000 + 2*page, 2 * page, nil}, // as much as there is, without the hole
		{0x10000 + 3*page - 1, 2, nil},
		{0x10000 - 1, 2, nil},
	} {
		out, ok := m.Append(make([]Block, 0, 3), c.at, c.n)
		if ok != (c.want != nil) || len(out) != len(c.want) {
			t.Errorf("%d bytes at %#x: %v, %d Blocks", c.n, c.at, ok, len(out))
			continue
		}
		for i, b := range out {
			if b.Len() != c.want[i] {
				t.Errorf("%d bytes at %#x: Block %d has %d", c.n, c.at, i, b.Len())
			}
		}
	}
	// The bytes are those of the right regions, in order.
	out, _ := m.Append(make([]Block, 0, 3), 0x10000, 3*page)
	for i, b := range out {
		b.Store8(0, byte(i+1))
	}
	all := mapped(t, "all", Region{Size: 8 * page, File: f})
	if a, b, c := block(t, all, 4*page, 1).Load8(0), block(t, all, 0, 1).Load8(0), block(t, all, 2*page, 1).Load8(0); a != 1 || b != 2 || c != 3 {
		t.Errorf("bytes %d %d %d", a, b, c)
	}
	// Room that does not suffice is refused, not grown.
	for room := range 3 {
		dst := make([]Block, 0, room)
		if out, ok := m.Append(dst, 0x10000, 3*page); ok || len(out) != 0 {
			t.Errorf("with room for %d: %v, %d Blocks", room, ok, len(out))
		}
	}
}

// V27: the number of regions is bounded, and many are possible.
func TestV27_ManyRegions(t *testing.T) {
	baseline(t)
	f := sealed(t, page)
	table := make([]Region, 0, MaxRegions+1)
	for i := range uint64(MaxRegions + 1) {
		// Backwards, every second one adjacent to its neighbour; all over one file.
		table = append(table, Region{GPA: (1000 - i) * 3 / 2 * page, User: (i + 1) << 20, Size: page, File: f})
	}
	before := fileMappings()
	m, err := NewMap(table[:MaxRegions], MapOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := fileMappings() - before; n != MaxRegions {
		t.Errorf("%d mappings of %d regions", n, MaxRegions)
	}
	for _, r := range table[:MaxRegions] {
		w, ok := m.Window(r.GPA + page - 1)
		if b := w.Find(r.GPA, page); !ok || b.Len() != page {
			t.Fatalf("region at %#x: found %v, %d bytes of it", r.GPA, ok, b.Len())
		}
		if _, err := m.UserBlock(r.User, page); err != nil {
			t.Fatal(err)
		}
	}
	m.Unref()
	if n := fileMappings() - before; n != 0 {
		t.Errorf("%d mappings left", n)
	}
	if m, err := NewMap(table, MapOptions{}); err == nil {
		m.Unref()
		t.Errorf("%d regions were accepted", len(table))
	}
	empty, err := NewMap(nil, MapOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Unref()
	if _, ok := empty.Window(0); ok || empty.Size() != 0 {
		t.Error("a Map of nothing holds something")
	}
}

// V28: regions come and go ten thousand times.
func TestV28_AddRemove(t *testing.T) {
	baseline(t)
	f := sealed(t, 4*page)
	b, err := NewBudget(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	port := b.Port()
	regions := []Region{{GPA: 0, User: 0, Size: page, File: f}, {GPA: page, User: page, Size: page, Offset: page, File: f}}
	m, err := NewMap(regions, MapOptions{Budget: port})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		next, err := NewMap(append(m.Regions(), Region{GPA: 1 << 30, User: 1 << 30, Size: 2 * page, Offset: 2 * page, File: f}), MapOptions{Budget: port})
		if err != nil {
			t.Fatalf("add %d: %v", i, err)
		}
		m.Unref()
		if m, err = NewMap(next.Regions()[:2], MapOptions{Budget: port}); err != nil {
			t.Fatalf("remove %d: %v", i, err)
		}
		next.Unref()
	}
	m.Unref()
	if bytes, mappings := b.Spent(); bytes != 0 || mappings != 0 {
		t.Errorf("%d bytes and %d mappings still charged", bytes, mappings)
	}
}

// V30: whichever region is bad, and whether it is found before mapping or by
// the kernel, nothing of the table stays.
func TestV30_RollBack(t *testing.T) {
	baseline(t)
	f := sealed(t, 64*page)
	b, err := NewBudget(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	port := b.Port()
	before, refs := fileMappings(), f.refs.Load()
	for bad := range 5 {
		table := make([]Region, 5)
		for i := range table {
			table[i] = Region{GPA: uint64(i) << 20, User: uint64(i) << 20, Size: page, Offset: uint64(i) * page, File: f}
		}
		l, err := layOut(table)
		if err != nil {
			t.Fatal(err)
		}
		l.places[bad].fileOff = 1 // the kernel refuses it
		if m, err := newMap(l, MapOptions{Budget: port}); err == nil {
			m.Unref()
			t.Fatal("an unaligned mapping succeeded")
		}
		table[bad].Offset = 64 * page
		if m, err := NewMap(table, MapOptions{Budget: port}); err == nil {
			m.Unref()
			t.Fatal("a region behind its file was mapped")
		}
		if n := fileMappings() - before; n != 0 {
			t.Errorf("region %d bad: %d mappings left", bad, n)
		}
		if bytes, mappings := b.Spent(); bytes != 0 || mappings != 0 {
			t.Errorf("region %d bad: %d bytes and %d mappings charged", bad, bytes, mappings)
		}
		if n := f.refs.Load(); n != refs {
			t.Errorf("region %d bad: %d references to the file, want %d", bad, n, refs)
		}
	}
}

func TestLookupsAllocateNothing(t *testing.T) {
	m := mapped(t, "web", pc(sealed(t, 128*page))...)
	dst := make([]Block, 0, 4)
	if n := testing.AllocsPerRun(100, func() {
		w, _ := m.Window(4 << 30)
		_ = w.Find(4<<30, 64)
		_, _ = m.Append(dst, 100, 1500)
		_, _ = m.Append(dst, 1<<40, 1500)
		_, _ = m.Block(0, 8)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestReferencesAreChecked(t *testing.T) {
	f := sealed(t, page)
	m, err := NewMap([]Region{{Size: page, File: f}}, MapOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Ref() != m {
		t.Error("Ref returns another Map")
	}
	m.Unref()
	block(t, m, 0, 8).Store64(0, 1) // still mapped
	m.Unref()
	if panics(m.Unref) == nil {
		t.Error("a reference too many was dropped")
	}
	if panics(func() { m.Ref() }) == nil {
		t.Error("a dead Map was referenced")
	}
}

func BenchmarkWindowFind(b *testing.B) {
	m := mapped(b, "web", pc(sealed(b, 128*page))...)
	w, _ := m.Window(0)
	var n uint64
	for i := uint64(0); b.Loop(); i++ {
		found := w.Find(i&0xfff0, 64)
		n += found.Len()
	}
	_ = n
}

func BenchmarkAppend(b *testing.B) {
	m := mapped(b, "web", pc(sealed(b, 128*page))...)
	dst := make([]Block, 0, 4)
	for i := uint64(0); b.Loop(); i++ {
		_, _ = m.Append(dst, i&0xfff0, 64)
	}
}
