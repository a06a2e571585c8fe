//go:build !doubleread

package sharedmem

// watching is whether loads are noted for [Watch], which only builds with the
// tag doubleread do. Here it is a constant, so that the accessors of a Block
// are compiled as if they did not ask.
const watching = false

// note and noteStore are never called here.
func (b Block) note(uint64, uint64) {}
func (b Block) noteStore()          {}
