package sharedmem

import (
	"errors"
	"math"
	"strings"
	"testing"

	"vhostnet/internal/sys"
)

// V24, V27: sizes, offsets and addresses that wrap, overlap or are empty.
func TestV24_TablesRefused(t *testing.T) {
	baseline(t)
	f := sealed(t, 16*page)
	good := Region{GPA: 1 << 20, User: 1 << 30, Size: 4 * page, File: f}
	edges := []uint64{0, 1, 4095, 1 << 63, math.MaxUint64 - 1, math.MaxUint64}
	for _, size := range edges {
		for _, x := range edges {
			for name, r := range map[string]Region{
				"gpa":    {GPA: x, User: 1 << 40, Size: size, File: f},
				"user":   {GPA: 1 << 40, User: x, Size: size, File: f},
				"offset": {GPA: 1 << 40, User: 1 << 40, Size: size, Offset: x, File: f},
			} {
				valid := size != 0 && size <= 16*page && x <= math.MaxUint64-size && (name != "offset" || x+size <= 16*page)
				m, err := NewMap([]Region{r}, MapOptions{})
				if (err == nil) != valid {
					t.Errorf("%s %#x, size %#x: %v", name, x, size, err)
				}
				if err == nil {
					m.Unref()
				}
			}
		}
	}
	for name, c := range map[string]struct {
		r    Region
		want string
	}{
		"duplicate":      {good, "overlap"},
		"gpa overlap":    {Region{GPA: good.GPA + 4*page - 1, User: 1 << 40, Size: page, File: f}, "guest addresses"},
		"gpa inside":     {Region{GPA: good.GPA + page, User: 1 << 40, Size: 1, File: f}, "guest addresses"},
		"gpa around":     {Region{GPA: good.GPA - page, User: 1 << 40, Size: 8 * page, File: f}, "guest addresses"},
		"user overlap":   {Region{GPA: 1 << 40, User: good.User + 1, Size: page, File: f}, "front-end addresses"},
		"user before":    {Region{GPA: 1 << 40, User: good.User - 1, Size: 2, File: f}, "front-end addresses"},
		"no file":        {Region{GPA: 1 << 40, User: 1 << 40, Size: page}, "no memory file"},
		"past the file":  {Region{GPA: 1 << 40, User: 1 << 40, Size: 16*page + 1, File: f}, "of a file of"},
		"empty":          {Region{GPA: 1 << 40, User: 1 << 40, File: f}, "empty"},
		"gpa wrap":       {Region{GPA: math.MaxUint64 - 1, User: 1 << 40, Size: page, File: f}, "wrap"},
		"behind the end": {Region{GPA: 1 << 40, User: 1 << 40, Size: 1, Offset: 16 * page, File: f}, "of a file of"},
	} {
		for _, table := range [][]Region{{good, c.r}, {c.r, good}} {
			m, err := NewMap(table, MapOptions{})
			if err == nil {
				m.Unref()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want a refusal with %q", name, err, c.want)
			}
		}
	}
}

// V26: a region may end exactly where its file does.
func TestV26_RegionInsideFile(t *testing.T) {
	baseline(t)
	const size = 10*page + 100
	f, owner := soft(t, size, sys.MemfdOptions{})
	for _, c := range []struct {
		offset, size uint64
		ok           bool
	}{
		{0, size, true},
		{0, size + 1, false},
		{100, size - 100, true},
		{page, 9*page + 100, true},
		{page, 9*page + 101, false},
		{size - 1, 1, true},
		{size, 1, false},
		{5000, 5000, true},
		{1, size, false},
	} {
		m, err := NewMap([]Region{{GPA: 0x1000, Size: c.size, Offset: c.offset, File: f}}, MapOptions{})
		if (err == nil) != c.ok {
			t.Errorf("%d bytes at %d of %d: %v", c.size, c.offset, size, err)
		}
		if err == nil {
			block(t, m, 0x1000, c.size).Store8(uint32(c.size-1), 7)
			m.Unref()
		}
	}
	// The size that counts is that of now.
	if err := sys.Truncate(owner, page); err != nil {
		t.Fatal(err)
	}
	if f.Size() != page {
		t.Errorf("the file has %d bytes", f.Size())
	}
	if m, err := NewMap([]Region{{Size: 2 * page, File: f}}, MapOptions{}); err == nil {
		m.Unref()
		t.Error("a region longer than the truncated file")
	}
}

// Places keep their distance, and huge pages of the kernel's own are possible.
func TestLayoutPlaces(t *testing.T) {
	f := sealed(t, 64<<20)
	var table []Region
	for i, off := range []uint64{0, 5000, 3 << 20, 2<<20 - 1, 63<<20 + page} {
		table = append(table, Region{GPA: uint64(i) << 30, User: uint64(i) << 30, Size: 12345, Offset: off, File: f})
	}
	l, err := layOut(table)
	if err != nil {
		t.Fatal(err)
	}
	end := uint64(0)
	for i, p := range l.places {
		if p.at < end+guardGap || p.at+p.length+guardGap > l.length {
			t.Errorf("region %d at %#x: too near to its neighbour", i, p.at)
		}
		if (p.at-p.fileOff)%placeAlign != 0 {
			t.Errorf("region %d: place %#x and offset %#x do not agree", i, p.at, p.fileOff)
		}
		if p.fileOff%page != 0 || p.length%page != 0 || p.fileOff+p.lead != l.regions[i].Offset || p.length < p.lead+l.regions[i].Size {
			t.Errorf("region %d: placement %+v", i, p)
		}
		if waste := p.length - l.regions[i].Size; waste > 2*page {
			t.Errorf("region %d maps %d bytes more than it has", i, waste)
		}
		end = p.at + p.length
	}
}

// Mappings of huge pages begin and end on huge pages, and go away whole.
func TestHugePages(t *testing.T) {
	baseline(t)
	probe, _ := soft(t, 0, sys.MemfdOptions{Huge: true})
	huge := probe.PageSize()
	if huge <= sys.PageSize() {
		t.Fatalf("huge pages of %d bytes", huge)
	}
	f, _ := soft(t, 8*huge, sys.MemfdOptions{Huge: true})
	before := fileMappings()
	m, err := NewMap([]Region{
		{GPA: 0, User: 0, Size: 3*huge - 8192, Offset: huge + 8192, File: f},
		{GPA: 1 << 40, User: 1 << 40, Size: huge, Offset: 6 * huge, File: f},
	}, MapOptions{Owner: "huge"})
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range m.places {
		if at := uint64(m.base) + p.at; at%f.PageSize() != 0 || p.length%f.PageSize() != 0 || p.fileOff%f.PageSize() != 0 {
			t.Errorf("region %d: address %#x, length %d, offset %d", i, at, p.length, p.fileOff)
		}
	}
	if p := m.places[0]; p.length != 3*huge || p.lead != 8192 {
		t.Errorf("region 0: %+v; not a page more than needed", p)
	}
	// There may be no huge page to be had: that is a fault of this Map.
	b := block(t, m, 1<<40, 8)
	err = Guard(func() error { b.Store64(0, 1); return nil })
	var fault *FaultError
	if err != nil && (!errors.As(err, &fault) || fault.Map != m) {
		t.Errorf("touching a huge page: %v", err)
	}
	m.Unref()
	if n := fileMappings() - before; n != 0 {
		t.Errorf("%d mappings left", n)
	}
}
