// Package metrics counts: padded counters that every worker may add to, one
// per reason for which a frame can be lost, and their values at one moment.
// It knows nothing of what is counted, and nothing of how it is shown.
package metrics

import "sync/atomic"

// cacheLine is the distance in bytes at which two counters no longer disturb
// each other.
const cacheLine = 64

// Counter is a number that only grows. The zero Counter is 0 and ready to use;
// it must not be copied. Add and Value may be called concurrently.
type Counter struct {
	v atomic.Uint64
	_ [cacheLine - 8]byte
}

// Add adds n. Adding nothing costs nothing: callers add once per batch, and
// most of a batch's counts are 0.
func (c *Counter) Add(n uint64) {
	if n != 0 {
		c.v.Add(n)
	}
}

// Value is the sum of what was added so far.
func (c *Counter) Value() uint64 { return c.v.Load() }
