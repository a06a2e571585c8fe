package sharedmem

// prefetchRead asks for the cache lines of the n addresses from at on.
//
//go:noescape
func prefetchRead(at *uintptr, n int)

// prefetchWrite asks for them with the right to write (PREFETCHW, which a
// processor without it takes as nothing).
//
//go:noescape
func prefetchWrite(at *uintptr, n int)
