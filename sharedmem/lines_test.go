package sharedmem

import (
	"testing"

	"vhostnet/internal/sys"
)

// TestLinesAreHints: asking for lines reads no byte: neither of memory that is
// gone, nor behind a Block, nor of more Blocks than there is room for.
func TestLinesAreHints(t *testing.T) {
	baseline(t)
	f, owner := soft(t, 64*page, sys.MemfdOptions{})
	b := block(t, mapped(t, "vm", Region{Size: 64 * page, File: f}), 0, 64*page)
	if err := sys.Truncate(owner, 0); err != nil {
		t.Fatal(err)
	}
	var l Lines
	for i := range uint64(MaxLines + 10) {
		l.Add(b.Sub(i*64, 64))
		if l.n != uint(min(i+1, MaxLines)) {
			t.Fatalf("%d Blocks are noted of %d, there is room for %d", l.n, i+1, MaxLines)
		}
	}
	l.WillRead(0, 80)
	for n := range uint64(10) {
		for i := range n {
			l.Add(b.Sub(i*64, 64))
		}
		l.WillWrite(0, 64*page) // behind all of them
		for i := range n {
			l.Add(b.Sub(i*64, 64))
		}
		l.WillRead(64*page, 12)
		if l.n != 0 {
			t.Errorf("%d Blocks are left of %d", l.n, n)
		}
	}
	for n := uint64(1); n < 4*64; n++ {
		b.Ahead(63, n)
	}
	b.Ahead(b.Len()-1, 64*page)
	if n := testing.AllocsPerRun(100, func() { l.Add(b); l.WillRead(0, 0); b.Ahead(0, 512) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
