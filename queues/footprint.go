package queues

import "reflect"

// Sizes of what a NIC is made of, bytes.
var (
	nicSize    = uint64(reflect.TypeFor[NIC]().Size())
	rxRingSize = uint64(reflect.TypeFor[rxRing]().Size())
	flowsSize  = uint64(reflect.TypeFor[flowTable]().Size())
)

// Footprint is how many bytes of this process's memory the NIC takes, whether it
// has rings or not; what a ring takes is [virtqueue.Queue.Footprint]. It never
// changes.
func (n *NIC) Footprint() uint64 {
	size := nicSize
	for i := range n.rings {
		size += rxRingSize + n.rings[i].pool.Footprint()
	}
	if n.steering != nil {
		size += flowsSize
	}
	return size
}
