package sharedmem

// MaxLines is how many addresses Lines holds.
const MaxLines = 192

// Lines are places in Blocks that will be read or written soon. Asking for
// their cache lines ahead, all of a batch at once, lets the misses overlap: on
// the way from guest to guest most lines lie in another processor's cache.
//
// It is a hint and nothing else. No byte is read, and an address whose memory
// is gone does no harm. The zero value is empty; one goroutine at a time may
// use it.
type Lines struct {
	n  uint
	at [MaxLines]uintptr
}

// lineSize is the length of a cache line on the machines that have hints.
const lineSize = 64

// Add notes the lines of the bytes from and to of b, which may be one line and
// need not be inside of b. What does not fit is forgotten.
func (l *Lines) Add(b Block, from, to uint64) {
	n := l.n
	if n > MaxLines-2 {
		return
	}
	first, last := uintptr(b.p)+uintptr(from), uintptr(b.p)+uintptr(to)
	l.at[n], l.at[n+1] = first, last
	if (first^last)/lineSize != 0 {
		n++
	}
	l.n = n + 1
}

// WillRead asks for the lines noted, to be read, and forgets them.
func (l *Lines) WillRead() {
	prefetchRead(&l.at[0], int(l.n))
	l.n = 0
}

// WillWrite asks for the lines noted, to be written, and forgets them.
func (l *Lines) WillWrite() {
	prefetchWrite(&l.at[0], int(l.n))
	l.n = 0
}

// Ahead asks for the lines of n bytes of b, at least one, from off on, which will be
// read when much else was done. It is a hint like those of [Lines]: the bytes need
// not be inside of b.
func (b Block) Ahead(off, n uint64) {
	first := uintptr(b.p) + uintptr(off)
	prefetchRange(first, first+uintptr(n-1))
}
