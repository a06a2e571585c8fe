//go:build !amd64

package sharedmem

// Other processors fetch their lines when they need them.

func prefetchRead(*uintptr, uint, uint64, uint64) {}

func prefetchWrite(*uintptr, uint, uint64, uint64) {}

func prefetchRange(uintptr, uintptr) {}
