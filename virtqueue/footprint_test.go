package virtqueue_test

import (
	"runtime"
	"testing"

	"vhostnet/sharedmem"
	"vhostnet/virtio"
	"vhostnet/virtqueue"
	"vhostnet/virtqueue/vqtest"
)

// What a Queue says that it takes is what making it takes.
func TestFootprint(t *testing.T) {
	for _, f := range []virtio.Features{virtio.Version1, virtio.Version1 | virtio.RingPacked | virtio.IndirectDesc} {
		for _, size := range []int{16, 256, 1024} {
			p := newPair(t, vqtest.Options{Size: size, Features: f})
			c, err := p.Config()
			if err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			var q *virtqueue.Queue
			err = sharedmem.Guard(func() error {
				runtime.ReadMemStats(&before)
				q, err = virtqueue.New(c, p.Mem)
				runtime.ReadMemStats(&after)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			got, took := q.Footprint(), after.TotalAlloc-before.TotalAlloc
			q.Close()
			// The heap gives memory in sizes of its own.
			if got > took || got < took*3/4 {
				t.Errorf("%v, %d entries: it says %d bytes, and %d were allocated", f, size, got, took)
			}
		}
	}
}
