package worker_test

import (
	"context"
	"fmt"
	"log"
	"sync/atomic"

	"vhostnet/internal/sys"
	"vhostnet/worker"
)

// counter is a Task that takes what others add, and sleeps in between.
type counter struct {
	kick  *sys.Event
	added atomic.Int64
	taken int64
	done  chan int64
}

func (t *counter) Poll(_ *worker.Context, _ int) (busy bool) {
	n := t.added.Swap(0)
	t.taken += n
	if n != 0 && t.taken >= 3 {
		t.done <- t.taken // buffered: a worker waits for nobody
	}
	return n != 0
}

func (t *counter) Arm() (more bool) {
	t.kick.Drain()
	return t.added.Load() != 0
}

func (t *counter) FD() int { return t.kick.FD() }

func Example() {
	group, err := worker.NewGroup(worker.Options{Workers: 1})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- group.Run(ctx) }()

	kick, err := sys.NewEvent()
	if err != nil {
		log.Fatal(err)
	}
	task := &counter{kick: kick, done: make(chan int64, 1)}
	w := group.Pick()
	if err := w.Add(ctx, task, worker.Adaptive); err != nil {
		log.Fatal(err)
	}
	for range 3 {
		task.added.Add(1)
		kick.Signal()
	}
	fmt.Println("taken:", <-task.done)

	if err := w.Remove(ctx, task); err != nil {
		log.Fatal(err)
	}
	kick.Close() // only now: the worker does not touch it any more
	stop()
	fmt.Println("ended:", <-ended)
	// Output:
	// taken: 3
	// ended: <nil>
}
