package queues_test

import (
	"context"
	"fmt"
	"log"

	"vhostnet/metrics"
	"vhostnet/queues"
	"vhostnet/virtqueue/vqtest"
)

// newAdapter is a running adapter without workers, which nobody has to wait for.
func newAdapter(o queues.Options) *queues.Adapter {
	o.Quiesce = func(context.Context) error { return nil }
	o.Workers = max(o.Workers, 1)
	a, err := queues.NewAdapter(o)
	if err != nil {
		log.Fatal(err)
	}
	if err := a.Restart(); err != nil {
		log.Fatal(err)
	}
	return a
}

// newNIC is a NIC whose guest has memory.
func newNIC(a *queues.Adapter, name string) (nic *queues.NIC, end func()) {
	nic, err := a.NewNIC(queues.NICOptions{Name: name, Pairs: 1, Counters: new(metrics.Port)})
	if err != nil {
		log.Fatal(err)
	}
	guest, err := vqtest.NewPair(vqtest.Options{})
	if err != nil {
		log.Fatal(err)
	}
	nic.SetMemory(guest.Mem)
	return nic, func() {
		nic.SetMemory(nil)
		guest.Close()
	}
}

// A filter by the tests of NDIS: this address, and this VLAN.
func ExampleFilterParameters() {
	p := queues.FilterParameters{Type: queues.FilterVMQueue, Fields: []queues.FieldParameters{
		{Header: queues.FrameHeaderMAC, Test: queues.TestEqual, Field: queues.MACDestination, MAC: [6]byte{2, 0, 0, 0, 0, 1}},
		{Header: queues.FrameHeaderMAC, Test: queues.TestEqual, Field: queues.MACVLAN, VLAN: 10},
	}}
	f, err := p.Filter(false)
	fmt.Printf("%x in VLAN %d, %v\n", f.MAC, f.VLAN, err)

	p.Fields[1].Test = queues.TestNotEqual
	_, err = p.Filter(false)
	fmt.Println(queues.StatusOf(err))
	// Output:
	// 020000000001 in VLAN 10, <nil>
	// NDIS_STATUS_NOT_SUPPORTED
}

// A batch of queues is completed: each has a status of its own, and what failed
// can be tried again.
func ExampleBinding_CompleteAllocation() {
	a := newAdapter(queues.Options{})
	control := a.Bind("control")
	ready, end := newNIC(a, "ready")
	defer end()
	absent, err := a.NewNIC(queues.NICOptions{Name: "absent", Pairs: 1, Counters: new(metrics.Port)})
	if err != nil {
		log.Fatal(err)
	}
	var ids []queues.QueueID
	for _, nic := range []*queues.NIC{ready, absent} {
		id, err := control.AllocateQueue(queues.QueueParameters{VMName: nic.Name(), NIC: nic, Steering: table{}})
		if err != nil {
			log.Fatal(err)
		}
		ids = append(ids, id)
	}
	fmt.Println(control.CompleteAllocation(append(ids, 99)))
	for _, q := range a.EnumQueues() {
		fmt.Println(q.ID, q.VMName, q.State, q.State.Operational())
	}
	if err := control.Close(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(a.EnumQueues()), "queue is left;", a.Close(context.Background()))
	// Output:
	// [NDIS_STATUS_SUCCESS NDIS_STATUS_RESOURCES NDIS_STATUS_INVALID_PARAMETER]
	// 0  Running running
	// 1 ready Paused paused
	// 2 absent Allocated paused
	// 1 queue is left; <nil>
}

// Frames to an address change from one VM to another, as at the end of a
// migration, and no frame finds neither.
func ExampleBinding_MoveFilter() {
	a := newAdapter(queues.Options{})
	control := a.Bind("control")
	forwarding := table{}
	var ids []queues.QueueID
	for _, name := range []string{"source", "target"} {
		nic, end := newNIC(a, name)
		defer end()
		id, err := control.AllocateQueue(queues.QueueParameters{VMName: name, NIC: nic, Steering: forwarding})
		if err != nil {
			log.Fatal(err)
		}
		ids = append(ids, id)
	}
	mac := [6]byte{2, 0, 0, 0, 0, 1}
	filter, err := control.SetFilter(ids[0], queues.Filter{MAC: mac})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(control.CompleteAllocation(ids), "frames go to queue", forwarding[mac])
	err = control.MoveFilter(context.Background(), filter, ids[0], ids[1])
	_, at, _ := a.FilterParametersOf(filter)
	fmt.Println(err, "the filter is at queue", at)
	fmt.Println(control.Close(context.Background()), a.Close(context.Background()))
	// Output:
	// [NDIS_STATUS_SUCCESS NDIS_STATUS_SUCCESS] frames go to queue 1
	// <nil> the filter is at queue 2
	// <nil> <nil>
}

// A queue belongs to who allocated it.
func ExampleAdapter_Bind() {
	a := newAdapter(queues.Options{})
	session, guest := a.Bind("session of web"), a.Bind("guest")
	nic, end := newNIC(a, "web")
	defer end()
	id, err := session.AllocateQueue(queues.QueueParameters{VMName: "web", NIC: nic, Steering: table{}, Shared: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(guest.FreeQueue(context.Background(), id))
	_, err = guest.SetFilter(id, queues.Filter{MAC: [6]byte{2, 0, 0, 0, 0, 9}}) // the queue is Shared
	fmt.Println(err)
	fmt.Println(guest.Close(context.Background()), session.Close(context.Background()), a.Close(context.Background()))
	// Output:
	// queues: free: queue 1 belongs to session of web, not to guest: NDIS_STATUS_INVALID_PARAMETER
	// <nil>
	// <nil> <nil> <nil>
}
