//go:build !amd64

package sharedmem

// Other processors fetch their lines when they need them.

func prefetchRead(*uintptr, int) {}

func prefetchWrite(*uintptr, int) {}

func prefetchRange(uintptr, uintptr) {}
