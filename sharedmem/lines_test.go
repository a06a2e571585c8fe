package sharedmem

import (
	"testing"

	"vhostnet/internal/sys"
)

// TestLinesAreHints: asking for lines reads no byte: neither of memory that is
// gone, nor behind a Block, nor of more places than there is room for.
func TestLinesAreHints(t *testing.T) {
	baseline(t)
	f, owner := soft(t, 64*page, sys.MemfdOptions{})
	b := block(t, mapped(t, "vm", Region{Size: 64 * page, File: f}), 0, 64*page)
	if err := sys.Truncate(owner, 0); err != nil {
		t.Fatal(err)
	}
	var l Lines
	for i := range uint64(MaxLines + 10) {
		l.Add(b, i*64, i*64)
		l.Add(b, b.Len()+i, b.Len()+i)
	}
	if l.n < MaxLines-1 {
		t.Errorf("%d lines noted, of %d", l.n, MaxLines)
	}
	l.WillRead()
	for n := range uint64(10) { // in fours, and what is left
		for i := range n {
			l.Add(b, i*64, i*64)
		}
		l.WillWrite()
		for i := range n {
			l.Add(b, i*64, i*64)
		}
		l.WillRead()
		if l.n != 0 {
			t.Errorf("%d lines are left of %d", l.n, n)
		}
	}
	for n := uint64(1); n < 4*lineSize; n++ {
		b.Ahead(lineSize-1, n)
	}
	b.Ahead(b.Len()-1, 64*page)
	if n := testing.AllocsPerRun(100, func() { l.Add(b, 0, 0); l.WillRead(); b.Ahead(0, 512) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
