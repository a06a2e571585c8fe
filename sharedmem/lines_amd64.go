package sharedmem

// prefetchRead asks for the cache lines of the bytes from and to behind each of the
// n addresses from at on.
//
//go:noescape
func prefetchRead(at *uintptr, n uint, from, to uint64)

// prefetchWrite asks for them with the right to write (PREFETCHW, which a
// processor without it takes as nothing).
//
//go:noescape
func prefetchWrite(at *uintptr, n uint, from, to uint64)

// prefetchRange asks for the cache lines from that of the address from to that of
// last, into the second-level cache: they are more than the first has room for.
//
//go:noescape
func prefetchRange(from, last uintptr)
