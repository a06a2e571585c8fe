package sharedmem

// MaxLines is how many Blocks Lines holds.
const MaxLines = 128

// Lines are Blocks that will be read or written soon at the same place in each.
// Asking for their cache lines ahead, all of a batch at once, lets the misses
// overlap: on the way from guest to guest most lines lie in another processor's
// cache.
//
// It is a hint and nothing else. No byte is read, and an address whose memory
// is gone does no harm. The zero value is empty; one goroutine at a time may
// use it.
type Lines struct {
	n  uint
	at [MaxLines]uintptr // where the Blocks begin
}

// Add notes b. What does not fit is forgotten.
func (l *Lines) Add(b Block) {
	if n := l.n; n < MaxLines {
		l.at[n] = uintptr(b.p)
		l.n = n + 1
	}
}

// WillRead asks for the lines of the bytes from and to of each Block noted, to be
// read, and forgets the Blocks. Both may be in one line, and neither need be
// inside of a Block.
func (l *Lines) WillRead(from, to uint64) {
	prefetchRead(&l.at[0], l.n, from, to)
	l.n = 0
}

// WillWrite is WillRead for lines that will be written.
func (l *Lines) WillWrite(from, to uint64) {
	prefetchWrite(&l.at[0], l.n, from, to)
	l.n = 0
}

// Ahead asks for the lines of n bytes of b, at least one, from off on, which will be
// read when much else was done. It is a hint like those of [Lines]: the bytes need
// not be inside of b.
func (b Block) Ahead(off, n uint64) {
	first := uintptr(b.p) + uintptr(off)
	prefetchRange(first, first+uintptr(n-1))
}
