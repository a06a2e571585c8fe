package queues_test

import (
	"context"
	"fmt"
	"log"

	"vhostnet/metrics"
	"vhostnet/nbl"
	"vhostnet/queues"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue/vqtest"
	"vhostnet/worker"
)

// table stands for the switch's forwarding table.
type table map[[6]byte]queues.QueueID

func (t table) Set(_ uint16, mac [6]byte, id queues.QueueID, _ uint32) { t[mac] = id }
func (t table) Clear(_ uint16, mac [6]byte)                            { delete(t, mac) }

// The life of a VM's queue, and one frame that it gets meanwhile.
func Example() {
	adapter, err := queues.NewAdapter(queues.Options{
		Workers: 1,
		Quiesce: func(context.Context) error { return nil }, // worker.Group.Quiesce, where there are workers
		OnEvent: func(e queues.Event) {
			if e.Kind == queues.EventDMAStopped {
				fmt.Println("nobody writes for queue", e.Queue, "any more")
				return
			}
			if e.Kind == queues.EventState {
				fmt.Println("queue", e.Queue, "is", e.State)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := adapter.Restart(); err != nil {
		log.Fatal(err)
	}
	counters := new(metrics.Port)
	nic, err := adapter.NewNIC(queues.NICOptions{Name: "web", Pairs: 1, Counters: counters})
	if err != nil {
		log.Fatal(err)
	}

	// A driver came: it accepted these features, and its receive ring, in which
	// it has put one buffer, is started and enabled.
	guest, err := vqtest.NewPair(vqtest.Options{Features: virtio.Version1})
	if err != nil {
		log.Fatal(err)
	}
	defer guest.Close()
	if _, err := guest.Driver.Add(vqtest.Request{In: []int{1526}}); err != nil {
		log.Fatal(err)
	}
	guest.Driver.Publish()
	nic.SetMemory(guest.Mem)
	nic.NoteRing(0, guest.Queue.Areas())
	nic.StartRx(0, guest.Queue, queues.Attributes{Features: virtio.Version1})
	nic.EnableRx(0, true)

	// The VM's queue: an id, a filter, memory.
	forwarding := table{}
	session := adapter.Bind("session of web")
	id, err := session.AllocateQueue(queues.QueueParameters{VMName: "web", NIC: nic, Steering: forwarding})
	if err != nil {
		log.Fatal(err)
	}
	mac := [6]byte{0x52, 0x54, 0, 0, 0, 1}
	if _, err := session.SetFilter(id, queues.Filter{MAC: mac}); err != nil {
		log.Fatal(err)
	}
	fmt.Println("complete:", session.CompleteAllocation([]queues.QueueID{id}))

	// The switch finds the filter's entry and hands the frame over. Guest
	// memory is touched on a worker, or, as here, inside a Guard.
	frame := append(mac[:], "\x52\x54\x00\x00\x00\x02\x88\xb5good morning"...)
	var packet nbl.List
	packet.FromBytes(frame, 1)
	packet.QueueID = forwarding[mac]
	err = sharedmem.Guard(func() error {
		accepted, _ := nic.Deliver(worker.NewTestContext(), []*nbl.List{&packet})
		fmt.Println("accepted:", accepted)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	done, err := guest.Driver.Collect()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("received: %q\n", done[0].Data[12+14:]) // behind virtio_net_hdr and Ethernet

	// The VM goes.
	nic.StopRx(0)
	nic.NoteRing(0, nil)
	nic.SetMemory(nil)
	if err := session.ClearFilters(id); err != nil {
		log.Fatal(err)
	}
	if err := session.FreeQueue(context.Background(), id); err != nil {
		log.Fatal(err)
	}
	if err := adapter.Close(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// queue 1 is Allocated
	// queue 1 is Set
	// queue 1 is Running
	// complete: [NDIS_STATUS_SUCCESS]
	// accepted: 1
	// received: "good morning"
	// queue 1 is Paused
	// queue 1 is StopDMA
	// nobody writes for queue 1 any more
	// queue 1 is Undefined
}
