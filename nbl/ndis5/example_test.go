package ndis5_test

import (
	"errors"
	"fmt"

	"vhostnet/nbl"
	"vhostnet/nbl/ndis5"
)

// A client's data is copied into buffers of the driver's own, sent, and taken
// apart again.
func Example() {
	heap := ndis5.NewHeap(1 << 20)
	driver, err := ndis5.NewDriver(heap, ndis5.PoolSizes{})
	if err != nil {
		fmt.Println(err)
		return
	}
	adapter := func(_ *ndis5.Packet, frame nbl.Buffer) error {
		fmt.Printf("%d bytes in %d pieces\n", frame.Length, len(frame.MDLs))
		return nil
	}
	binding, err := driver.Bind(adapter, ndis5.PoolSizes{Packets: 16, Buffers: 64})
	if err != nil {
		fmt.Println(err)
		return
	}
	packet, err := binding.Split(make([]byte, 3000), 1024, ndis5.Tag{'e', 'x', 'm', 'p'})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(heap.Accounts())
	fmt.Println(binding.Send(packet))
	fmt.Println(errors.Is(binding.Discard(packet), ndis5.ErrParameter)) // the adapter has it
	fmt.Println(errors.Join(binding.Complete(packet), binding.Discard(packet), binding.Unbind(), driver.Unload()))
	// Output:
	// [{exmp 3000 3}]
	// 3000 bytes in 3 pieces
	// <nil>
	// true
	// <nil>
}
