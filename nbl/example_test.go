package nbl_test

import (
	"errors"
	"fmt"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/sharedmem"
)

// frame is an Ethernet frame of n bytes from one station to another.
func frame(n int) []byte {
	f := make([]byte, n)
	copy(f, []byte{0x52, 0x54, 0, 0, 0, 2, 0x52, 0x54, 0, 0, 0, 1, 0x88, 0xb5})
	return f
}

// A driver that receives: Lists are made when it initializes, filled, indicated,
// returned, and freed when it halts.
func ExampleSource() {
	memory, err := sharedmem.NewHostAllocator(1 << 20)
	if err != nil {
		fmt.Println(err)
		return
	}
	var held []*nbl.List
	source, err := nbl.NewSource(nbl.SourceParameters{
		Tag: "tap0", Lists: 64, DataSize: 2048, Memory: memory,
		Indicate: func(batch []*nbl.List, flags nbl.IndicateFlags) {
			fmt.Printf("%d packets, ours until we return them: %v\n", len(batch), flags&nbl.Resources == 0)
			held = append(held, batch...)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	batch := make([]*nbl.List, 3)
	source.Get(batch)
	for i, l := range batch {
		if reason := l.Fill(frame(60+i), uint64(i+1)); reason != metrics.ReasonNone {
			fmt.Println(reason)
		}
	}
	fmt.Println(source.Indicate(batch), source.Free(), "free")
	fmt.Println(source.Halt())
	fmt.Println(source.Return(held), source.Free(), "free")
	fmt.Println(errors.Join(source.Halt(), memory.Close()))
	// Output:
	// 3 packets, ours until we return them: true
	// <nil> 61 free
	// nbl: source "tap0" halted with 3 of 64 lists out
	// <nil> 64 free
	// <nil>
}

// A tunnel's header is put in front of a clone: no byte of the packet moves, and
// the packet itself stays as it is.
func ExampleDeriver() {
	memory, err := sharedmem.NewHostAllocator(1 << 20)
	if err != nil {
		fmt.Println(err)
		return
	}
	children, err := nbl.NewPoolWith(nbl.PoolParameters{Tag: "tunnel", Size: 16})
	if err != nil {
		fmt.Println(err)
		return
	}
	headers, err := nbl.NewHeadroom(nbl.HeadroomParameters{Tag: "tunnel", Rooms: 16, Size: 64, Memory: memory})
	if err != nil {
		fmt.Println(err)
		return
	}
	var packet nbl.List
	packet.FromBytes(frame(100), 1)

	tunnel := nbl.Deriver{Lists: children, Headroom: headers}
	child, err := tunnel.Clone(&packet, false)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(child.Retreat(50, 0, headers))
	fmt.Println(child.Length, "bytes in", len(child.MDLs), "MDLs; the packet has", packet.Length, "and", packet.Children(), "child")
	fmt.Println(tunnel.Free(child), packet.Children())
	fmt.Println(errors.Join(children.Close(), headers.Close(), memory.Close()))
	// Output:
	// <nil>
	// 150 bytes in 3 MDLs; the packet has 100 and 1 child
	// <nil> 0
	// <nil>
}

// A packet that is to be kept is copied, counted as out of its queue, and
// returned later.
func ExampleHolder() {
	memory, err := sharedmem.NewHostAllocator(1 << 20)
	if err != nil {
		fmt.Println(err)
		return
	}
	holder, err := nbl.NewHolder(nbl.HolderParameters{Tag: "mirror", Memory: memory, Lists: 8, Bytes: 64 << 10})
	if err != nil {
		fmt.Println(err)
		return
	}
	var packet nbl.List
	packet.FromBytes(frame(1000), 1)
	held, err := holder.Hold(&packet, 3)
	fmt.Println(err, holder.Out(3))
	fmt.Println(holder.Return(held), holder.Out(3))
	fmt.Println(errors.Join(holder.Close(), memory.Close()))
	// Output:
	// <nil> 1
	// <nil> 0
	// <nil>
}
