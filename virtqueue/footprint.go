package virtqueue

import (
	"reflect"

	"vhostnet/sharedmem"
)

// Sizes of what a Queue is made of, bytes.
var (
	queueSize = uint64(reflect.TypeFor[Queue]().Size())
	takenSize = uint64(reflect.TypeFor[taken]().Size())
	blockSize = uint64(reflect.TypeFor[sharedmem.Block]().Size())
)

// Footprint is how many bytes of this process's memory the Queue takes: room for
// the chains that can be taken at a time. The ring itself is in the guest's
// memory. It never changes.
func (q *Queue) Footprint() uint64 {
	return queueSize + takenSize*uint64(len(q.take.fifo)) + blockSize*uint64(len(q.take.arena))
}
