package nbl

import "sync/atomic"

// Serial is the name of a sender's last packet. Caches keep what was made of a
// packet under its name, and a front-end decides how often a ring starts: so a
// sender counts on over its starts, in a range of its own, and takes another
// range when that one is used up. No name comes twice, whatever the senders of
// one process are. The zero Serial has no range yet.
type Serial uint64

// SerialRange is how many names a range holds; its first is a multiple of it.
const SerialRange = 1 << 32

// serialRanges is how many ranges were given out in this process.
var serialRanges atomic.Uint64

// Reserve makes sure that the range has names for n more packets. It is called
// before every batch, by the one goroutine that counts.
func (s *Serial) Reserve(n int) {
	if used := *s % SerialRange; used == 0 || used >= SerialRange-Serial(n) {
		*s = Serial(serialRanges.Add(1)) * SerialRange
	}
}

// Next is the name of the next packet; Reserve has made sure of it.
func (s *Serial) Next() uint64 {
	*s++
	return uint64(*s)
}
