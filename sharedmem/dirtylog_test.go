package sharedmem

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"vhostnet/internal/sys"
)

func newLog(t *testing.T, fileSize, offset, size uint64) (*DirtyLog, *Map) {
	t.Helper()
	f, err := NewMemoryFile(fileSize)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Unref()
	l, err := NewDirtyLog(f, offset, size, MapOptions{Owner: "log"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Unref)
	whole, err := NewMap([]Region{{Size: fileSize, File: f}}, MapOptions{Owner: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(whole.Unref)
	return l, whole
}

// set are the pages whose bits are set in n bytes of m at off.
func set(t *testing.T, m *Map, off, n uint64) (pages []uint64) {
	t.Helper()
	b, err := m.Block(off, n)
	if err != nil {
		t.Fatal(err)
	}
	all := make([]byte, n)
	b.CopyTo(all, 0)
	for i, c := range all {
		for bit := range 8 {
			if c>>bit&1 != 0 {
				pages = append(pages, uint64(8*i+bit))
			}
		}
	}
	return pages
}

func TestDirtyLogMarks(t *testing.T) {
	for _, tt := range []struct {
		gpa, n uint64
		want   []uint64
	}{
		{0, 1, []uint64{0}},
		{0, 0, nil},
		{4095, 1, []uint64{0}},
		{4095, 2, []uint64{0, 1}},
		{4096, 4096, []uint64{1}},
		{31 << 12, 4097, []uint64{31, 32}},
		{30 << 12, 66 << 12, []uint64{30, 95}},          // the first and the last of a row
		{2<<20 - 1, 4096, []uint64{511, 512}},           //
		{799 << 12, 4096, []uint64{799}},                // the last that there is a bit for
		{799 << 12, 4097, []uint64{799}},                // and one behind
		{800 << 12, 1, nil},                             // none
		{798 << 12, math.MaxUint64, []uint64{798, 799}}, // wraps
		{math.MaxUint64, 1, nil},
		{math.MaxUint64, math.MaxUint64, nil},
	} {
		const size = 100 // bytes: 800 pages, and no whole number of words
		l, whole := newLog(t, 3<<12, 1<<12, size)
		l.Mark(tt.gpa, tt.n)
		got := set(t, whole, 1<<12, size)
		if len(got) > 2 && len(tt.want) == 2 && got[len(got)-1]-got[0] == uint64(len(got)-1) {
			got = []uint64{got[0], got[len(got)-1]}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%d bytes at %#x: pages %v are marked, want %v", tt.n, tt.gpa, got, tt.want)
		}
		for _, around := range [][2]uint64{{0, 1 << 12}, {1<<12 + size, 1<<13 - size}} {
			if more := set(t, whole, around[0], around[1]); more != nil {
				t.Errorf("%d bytes at %#x: bits outside the log are set: %v", tt.n, tt.gpa, more)
			}
		}
	}
}

// V25: sizes and offsets that make no sense, or do not fit the file.
func TestV25_DirtyLogsRefused(t *testing.T) {
	const fileSize = 2 << 12
	f, err := NewMemoryFile(fileSize)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Unref()
	budget, err := NewBudget(DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	port := budget.Port()
	values := []uint64{0, 1, 4095, 4096, 4097, fileSize, fileSize + 1, 1 << 32, 1 << 63, math.MaxUint64 - 4095, math.MaxUint64}
	good := 0
	for _, offset := range values {
		for _, size := range values {
			l, err := NewDirtyLog(f, offset, size, MapOptions{Owner: "log", Budget: port})
			fits := size > 0 && offset%4096 == 0 && offset <= fileSize && size <= fileSize-offset
			if (err == nil) != fits {
				t.Errorf("offset %#x, size %#x: %v; it fits: %t", offset, size, err, fits)
			}
			if err == nil {
				good++
				l.Unref()
			}
		}
	}
	if bytes, regions := port.Spent(); good != 8 || bytes != 0 || regions != 0 {
		t.Errorf("%d logs were accepted; %d bytes in %d regions are still charged", good, bytes, regions)
	}
}

func TestDirtyLogCovers(t *testing.T) {
	l, _ := newLog(t, 4096, 0, 2)
	for gpa, want := range map[uint64]bool{0: true, 16<<12 - 1: true, 16 << 12: false, math.MaxUint64: false} {
		if got := l.Covers(gpa); got != want {
			t.Errorf("%#x: %t", gpa, got)
		}
	}
}

// V32: the log's own file is cut short.
func TestV32_DirtyLogFaults(t *testing.T) {
	fd, err := sys.NewMemfd("log", 4096, sys.MemfdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	send, err := fd.Dup()
	if err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(send)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Unref()
	l, err := NewDirtyLog(f, 0, 4096, MapOptions{Owner: "log"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unref()
	if err := sys.Truncate(fd, 0); err != nil {
		t.Fatal(err)
	}
	err = Guard(func() error { l.Mark(0, 1); return nil })
	if err == nil || !l.Faulted(err) {
		t.Errorf("%v", err)
	}
	if l.Faulted(&FaultError{Map: &Map{}}) {
		t.Error("another map's fault is taken for the log's")
	}
}

// Bits that several threads set at once, while another one clears them, are all
// seen.
func TestDirtyLogConcurrent(t *testing.T) {
	const pages = 4096
	l, whole := newLog(t, 4096, 0, pages/8)
	bits, err := whole.Block(0, pages/8)
	if err != nil {
		t.Fatal(err)
	}
	var marking sync.WaitGroup
	for w := range 4 {
		marking.Go(func() {
			for _, page := range rand.New(rand.NewPCG(uint64(w), 1)).Perm(pages / 4) {
				l.Mark(uint64(4*page+w)<<12, 1)
			}
		})
	}
	seen := make([]byte, pages/8)
	done := make(chan struct{})
	go func() { marking.Wait(); close(done) }()
	for more := true; more; {
		select {
		case <-done:
			more = false
		default:
		}
		for off := uint32(0); off < pages/8; off += 4 {
			v := bits.Swap32(off, 0)
			for i := range uint32(4) {
				seen[off+i] |= byte(v >> (8 * i))
			}
		}
	}
	if !bytes.Equal(seen, bytes.Repeat([]byte{0xff}, pages/8)) {
		t.Error("a bit was lost")
	}
}

func TestGuestAddress(t *testing.T) {
	f, err := NewMemoryFile(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Unref()
	m, err := NewMap([]Region{
		{GPA: 1 << 32, User: 1 << 40, Size: 1 << 16, Offset: 4096, File: f},
		{GPA: 0, User: 1 << 20, Size: 8192, File: f},
		{GPA: 1 << 20, User: 0, Size: 4096, Offset: 8192, File: f},
	}, MapOptions{Owner: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Unref()
	for _, gpa := range []uint64{0, 8191, 1 << 20, 1<<20 + 4095, 1 << 32, 1<<32 + 1<<16 - 1} {
		b, err := m.Block(gpa, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := m.GuestAddress(b); !ok || got != gpa {
			t.Errorf("%#x, %t; want %#x", got, ok, gpa)
		}
	}
	if _, ok := m.GuestAddress(BytesBlock(make([]byte, 1))); ok {
		t.Error("memory of our own has a guest address")
	}
}
