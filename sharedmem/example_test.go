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
