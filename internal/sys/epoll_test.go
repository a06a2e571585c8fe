package sys

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPollerReportsOncePerSignal(t *testing.T) {
	p := must[*Poller](t)(NewPoller())
	defer p.Close()
	e := must[*Event](t)(NewEvent())
	defer e.Close()
	const token = 1<<63 | 5<<32 | 1<<31 | 7
	e.Signal() // before Add: reported all the same
	if err := p.Add(e.FD(), token); err != nil {
		t.Fatal(err)
	}
	var buf [4]uint64
	for round := range 3 {
		if n, err := p.Wait(buf[:], 1000); err != nil || n != 1 || buf[0] != token {
			t.Fatalf("round %d: %d tokens, first %#x, %v", round, n, buf[0], err)
		}
		// Nobody drained it, and still it is not reported again.
		if n, err := p.Wait(buf[:], 0); err != nil || n != 0 {
			t.Fatalf("round %d: reported again: %d, %v", round, n, err)
		}
		e.Signal()
	}
	if err := p.Del(e.FD()); err != nil {
		t.Fatal(err)
	}
	e.Signal()
	if n, err := p.Wait(buf[:], 0); err != nil || n != 0 {
		t.Errorf("after Del: %d tokens, %v", n, err)
	}
}

// A semaphore with a huge count stays readable for ever; it wakes nobody
// without a writer.
func TestV76_SemaphoreKickWakesOnce(t *testing.T) {
	fd := eventfd(t, 0, unix.EFD_SEMAPHORE)
	fill(t, fd)
	e := must[*Event](t)(EventFrom(fd))
	defer e.Close()
	p := must[*Poller](t)(NewPoller())
	defer p.Close()
	if err := p.Add(e.FD(), 1); err != nil {
		t.Fatal(err)
	}
	var buf [1]uint64
	wakes := 0
	for range 1000 {
		n, err := p.Wait(buf[:], 0)
		if err != nil {
			t.Fatal(err)
		}
		wakes += n
		e.Drain()
	}
	if wakes != 1 {
		t.Errorf("%d wake-ups without a writer, want 1", wakes)
	}
}

func TestPollerWakesASleeper(t *testing.T) {
	p := must[*Poller](t)(NewPoller())
	defer p.Close()
	e := must[*Event](t)(NewEvent())
	defer e.Close()
	if err := p.Add(e.FD(), 9); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(5*time.Millisecond, func() { e.Signal() })
	defer timer.Stop()
	within(t, "Wait", func() {
		var buf [1]uint64
		for n := 0; n == 0; {
			var err error
			if n, err = p.Wait(buf[:], -1); err != nil {
				t.Error(err)
				return
			}
		}
	})
}

func TestPollerErrors(t *testing.T) {
	p := must[*Poller](t)(NewPoller())
	if _, err := p.Wait(nil, 0); err == nil {
		t.Error("Wait without room succeeded")
	}
	if err := p.Add(-1, 0); err == nil {
		t.Error("Add of no descriptor succeeded")
	}
	if err := p.Del(-1); err == nil {
		t.Error("Del of no descriptor succeeded")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(make([]uint64, 1), 0); err == nil {
		t.Error("Wait after Close succeeded")
	}
}

func TestPollerAllocatesNothing(t *testing.T) {
	p := must[*Poller](t)(NewPoller())
	defer p.Close()
	buf := make([]uint64, 8)
	if n := testing.AllocsPerRun(100, func() { _, _ = p.Wait(buf, 0) }); n != 0 {
		t.Errorf("Wait allocates %v times", n)
	}
}
