package virtqueue_test

import (
	"fmt"
	"log"

	"vhostnet/sharedmem"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// A packet moves from one guest's transmit ring into another's receive ring,
// with one copy.
func Example() {
	sender, err := vqtest.NewPair(vqtest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer sender.Close()
	receiver, err := vqtest.NewPair(vqtest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer receiver.Close()

	// The guests' part: one sends, the other has given an empty buffer.
	if _, err := sender.Driver.Add(vqtest.Request{Out: [][]byte{[]byte("good "), []byte("morning")}}); err != nil {
		log.Fatal(err)
	}
	if _, err := receiver.Driver.Add(vqtest.Request{In: []int{1500}}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("kicks wanted:", sender.Driver.Publish(), receiver.Driver.Publish())

	// The device's part. Guest memory is touched inside Guard only.
	err = sharedmem.Guard(func() error { return move(sender.Queue, receiver.Queue) })
	if err != nil {
		log.Fatal(err)
	}

	done, err := receiver.Driver.Collect()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("received: %q\n", done[0].Data)
	// Output:
	// kicks wanted: false false
	// call the sender: true
	// call the receiver: true
	// received: "good morning"
}

// move copies the next packet of tx into the next buffer of rx.
func move(tx, rx *virtqueue.Queue) error {
	var from, to [1]virtqueue.Chain
	if n, err := tx.Pop(from[:]); n == 0 || err != nil {
		return err
	}
	if n, err := rx.Pop(to[:]); n == 0 || err != nil {
		tx.Unpop(1) // no room for it now: it stays in the ring
		return err
	}
	written, room := uint32(0), to[0].WritableBlocks()[0]
	for _, b := range from[0].ReadableBlocks() {
		rest := room.Sub(uint64(written), room.Len()-uint64(written))
		written += uint32(sharedmem.Copy(rest, b))
	}
	fmt.Println("call the sender:", tx.Push([]virtqueue.Used{{Head: from[0].Head}}))
	fmt.Println("call the receiver:", rx.Push([]virtqueue.Used{{Head: to[0].Head, Len: written}}))
	return nil
}
