package netdev

import (
	"reflect"

	"vhostnet/nbl"
	"vhostnet/virtqueue"
)

// Sizes of what a Device is made of, bytes.
var (
	deviceSize = uint64(reflect.TypeFor[Device]().Size())
	ringSize   = uint64(reflect.TypeFor[ring]().Size())
	txRingSize = uint64(reflect.TypeFor[txRing]().Size())
)

// footprint is how many bytes of this process's memory the device takes: what it
// and its NIC have made at their start, and what rings have that run.
func (d *Device) footprint() uint64 {
	size := deviceSize + d.nic.Footprint()
	for i := range d.rings {
		size += ringSize + d.rings[i].bytes.Load()
	}
	return size
}

// noteBytes notes what ring i takes while it is started.
func (d *Device) noteBytes(i int, q *virtqueue.Queue) {
	size := q.Footprint()
	if i%2 == 1 && d.paired(i) {
		size += txRingSize + txPoolSize
	}
	d.rings[i].bytes.Store(size)
}

// txPoolSize is that of a transmit ring's pool.
var txPoolSize = newTxPool("").Footprint()

// newTxPool is a transmit ring's pool.
func newTxPool(name string) *nbl.Pool {
	pool, err := nbl.NewPool(name+" tx", visitChains)
	if err != nil {
		panic(err) // visitChains is a constant that NewPool takes
	}
	return pool
}
