package vhostuser_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"vhostnet/sharedmem"
	"vhostnet/vhostuser"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
)

// sink is the least of devices: it takes whatever the driver offers in its one
// ring. A real one has a worker do what Poll does here.
type sink struct {
	queue   *virtqueue.Queue
	enabled bool
}

func (d *sink) Features() virtio.Features    { return virtio.Version1 | virtio.IndirectDesc }
func (d *sink) Rings() int                   { return 1 }
func (d *sink) Negotiated(virtio.Features)   {}
func (d *sink) Memory(*sharedmem.Map) error  { return nil }
func (d *sink) EnableRing(_ int, on bool)    { d.enabled = on }
func (d *sink) Reset()                       {}
func (d *sink) Disconnected()                { d.enabled = false }
func (d *sink) StopRing(int) virtqueue.State { return d.queue.Suspend() }
func (d *sink) StartRing(_ int, q *virtqueue.Queue) error {
	d.queue = q
	return nil
}

func (d *sink) ReplaceRing(_ int, remake func(virtqueue.State) (*virtqueue.Queue, error)) (err error) {
	d.queue, err = remake(d.queue.Suspend())
	return err
}

// Poll serves the ring once. The driver's memory may vanish at any moment, so
// it is touched inside a Guard only.
func (d *sink) Poll() error {
	if d.queue == nil || !d.enabled {
		return nil
	}
	return sharedmem.Guard(d.drain)
}

// drain takes what is there and gives it back.
func (d *sink) drain() error {
	var chains [16]virtqueue.Chain
	n, err := d.queue.Pop(chains[:])
	for _, c := range chains[:n] {
		if d.queue.Push([]virtqueue.Used{{Head: c.Head}}) {
			d.queue.Call().Signal()
		}
	}
	return err
}

func Example() {
	dir, err := os.MkdirTemp("", "vhostuser")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	budget, err := sharedmem.NewBudget(sharedmem.DefaultLimits())
	if err != nil {
		fmt.Println(err)
		return
	}
	server, err := vhostuser.NewServer(&sink{}, vhostuser.Options{
		Name:   "web",
		Path:   filepath.Join(dir, "web.sock"),
		Budget: budget,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a program would end it at a signal
	fmt.Println("served:", server.Serve(ctx))
	fmt.Println("front-ends:", server.Stats().Sessions)
	// Output:
	// served: <nil>
	// front-ends: 0
}
