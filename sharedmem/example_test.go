package sharedmem_test

import (
	"errors"
	"fmt"

	"vhostnet/sharedmem"
)

// A front-end's memory table becomes a Map; guest addresses become Blocks.
func Example() {
	// A real front-end sends the descriptor: see OpenFile.
	file, err := sharedmem.NewMemoryFile(1 << 20)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer file.Unref()
	guest, err := sharedmem.NewMap([]sharedmem.Region{
		{GPA: 0, User: 0x7f0000000000, Size: 512 << 10, File: file},
		{GPA: 512 << 10, User: 0x7f8000000000, Size: 512 << 10, Offset: 512 << 10, File: file},
	}, sharedmem.MapOptions{Owner: "web"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer guest.Unref()

	err = sharedmem.Guard(func() error {
		word, err := guest.Block(0x1000, 4)
		if err != nil {
			return err
		}
		word.Store32(0, 0xcafe)
		fmt.Printf("%#x\n", word.Load32(0))

		// Eight bytes over the border between the regions are two Blocks.
		pieces, ok := guest.Append(make([]sharedmem.Block, 0, 4), 512<<10-3, 8)
		fmt.Println(len(pieces), ok)

		_, err = guest.Block(1<<20-3, 8)
		return err
	})
	fmt.Println(errors.Is(err, sharedmem.ErrUnmapped))
	// Output:
	// 0xcafe
	// 2 true
	// true
}

// Memory is asked for under a tag, and accounted for under it until it is
// freed.
func ExampleAllocator() {
	host, err := sharedmem.NewHostAllocator(1 << 20)
	if err != nil {
		fmt.Println(err)
		return
	}
	buffers, err := host.Allocate(sharedmem.Parameters{Queue: 3, Usage: sharedmem.Receive, Length: 64 << 10})
	if err != nil {
		fmt.Println(err)
		return
	}
	buffers.VA[0].Store64(0, 42) // the memory
	fmt.Println(buffers.SG)      // where it lies: an offset in the arena
	for _, account := range host.Accounts() {
		fmt.Printf("queue %d %s: %d bytes\n", account.Queue, account.Usage, account.Bytes)
	}

	// A packet says where its bytes are by Handle and offset.
	packet := buffers.VA[0].Sub(2048, 1500)
	offset, inside := buffers.Offset(packet)
	fmt.Println(offset, inside)

	// Only the other handle frees, and only once.
	fmt.Println(host.Free(buffers.AllocationHandle))
	fmt.Println(errors.Is(host.Free(buffers.AllocationHandle), sharedmem.ErrHandle))
	fmt.Println(host.Bytes(3, sharedmem.Receive), host.Close())
	// Output:
	// [{0 65536}]
	// queue 3 receive: 65536 bytes
	// 2048 true
	// <nil>
	// true
	// 0 <nil>
}

// heap is a provider of ordinary memory of this process.
type heap struct{}

func (heap) Allocate(p sharedmem.Parameters) (sharedmem.Memory, error) {
	if p.Length > 1<<20 {
		return sharedmem.Memory{}, fmt.Errorf("a megabyte is the most: %w", sharedmem.ErrResources)
	}
	b := sharedmem.BytesBlock(make([]byte, p.Length))
	return sharedmem.Memory{VA: []sharedmem.Block{b}, SG: []sharedmem.Segment{{Length: p.Length}}}, nil
}

func (heap) Free(sharedmem.Parameters, sharedmem.Memory) {}

func (heap) Close() {}

// A Provider of one's own sees each request as it was made; accounts, handles
// and checks are the Allocator's.
func ExampleProvider() {
	a := sharedmem.NewAllocator(heap{}, sharedmem.AllocatorOptions{
		Queue: func(id sharedmem.QueueID) bool { return id <= 1 },
	})
	_, err := a.Allocate(sharedmem.Parameters{Queue: 1, Usage: sharedmem.Xmit, Length: 2 << 20})
	fmt.Println(err)
	_, err = a.Allocate(sharedmem.Parameters{Queue: 7, Usage: sharedmem.Xmit, Length: 10})
	fmt.Println(errors.Is(err, sharedmem.ErrParameter))
	l, err := a.Allocate(sharedmem.Parameters{Queue: 1, Usage: sharedmem.Xmit, Length: 10})
	fmt.Println(l.VA[0].Len(), err)
	fmt.Println(a.Close())
	// Output:
	// sharedmem: allocate 2097152 bytes for queue 1, xmit: a megabyte is the most: not enough shared memory
	// true
	// 10 <nil>
	// sharedmem: close an allocator with memory still allocated: queue 1 xmit: 10 bytes in 1 pieces
}
