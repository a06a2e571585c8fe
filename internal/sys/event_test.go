package sys

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// count reads what is signalled, 0 when nothing is.
func count(t *testing.T, fd *FD) uint64 {
	t.Helper()
	if !ready(fd.Num(), unix.POLLIN) {
		return 0
	}
	var b [8]byte
	if _, err := unix.Read(fd.Num(), b[:]); err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[:])
}

// fill brings an eventfd's counter to its end.
func fill(t *testing.T, fd *FD) {
	t.Helper()
	count(t, fd)
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], 1<<64-2)
	if _, err := unix.Write(fd.Num(), b[:]); err != nil {
		t.Fatal(err)
	}
}

// within fails the test when f is still running after a time in which
// everything that does not wait is done.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: still waiting", what)
	}
}

func TestEventNil(t *testing.T) {
	var e *Event
	if !e.Signal() || e.FD() != -1 {
		t.Errorf("nil event: Signal %v, FD %d", e.Signal(), e.FD())
	}
	e.Drain()
	e.Kill()
	e.Close()
	if _, err := e.Dup(); err == nil {
		t.Error("nil event: Dup succeeded")
	}
}

func TestEventSignalAndDrain(t *testing.T) {
	e := must[*Event](t)(NewEvent())
	defer e.Close()
	p := must[*FD](t)(e.Dup())
	defer p.Close()
	for range 3 {
		if !e.Signal() {
			t.Fatal("Signal failed")
		}
	}
	if n := count(t, p); n != 3 {
		t.Errorf("peer read %d, want 3", n)
	}
	e.Signal()
	e.Drain()
	e.Drain() // empty: must not wait
	if n := count(t, p); n != 0 {
		t.Errorf("%d left after Drain", n)
	}
}

// A full counter means that a call is pending, whatever the mode of the file.
func TestV76_SignalFullBlockingEventfd(t *testing.T) {
	fd := eventfd(t, 0, 0)
	p := peer(t, fd)
	e := must[*Event](t)(EventFrom(fd))
	defer e.Close()
	fill(t, p)
	within(t, "Signal", func() {
		if !e.Signal() {
			t.Error("a pending call was not a success")
		}
	})
}

// The peer empties the counter first and has cleared O_NONBLOCK.
func TestV76_DrainEmptyBlockingEventfd(t *testing.T) {
	fd := eventfd(t, 0, 0)
	e := must[*Event](t)(EventFrom(fd))
	defer e.Close()
	within(t, "Drain", e.Drain)
	within(t, "Kill", e.Kill)
}

// The peer fills the counter between poll and write, so the write waits; the
// watchdog's Kill ends it, and a Close in between changes nothing.
func TestV76_KillFreesBlockedWriter(t *testing.T) {
	for _, closed := range []bool{false, true} {
		fd := eventfd(t, 0, 0)
		p := peer(t, fd)
		e := must[*Event](t)(EventFrom(fd))
		n := e.FD()
		fill(t, p)
		result := make(chan bool, 1)
		if !e.use(eventDead | eventClosed) {
			t.Fatal("a new event cannot be used")
		}
		go func() {
			defer e.done()
			result <- e.write()
		}()
		if closed {
			e.Close()
			if !valid(n) {
				t.Fatal("Close closed the descriptor under a writer")
			}
		}
		within(t, "the blocked writer", func() {
			for {
				e.Kill()
				select {
				case alive := <-result:
					if alive {
						t.Error("the write of a killed event was a success")
					}
					return
				case <-time.After(time.Millisecond):
				}
			}
		})
		if e.Signal() {
			t.Error("a killed event can be signalled")
		}
		e.Close()
	}
}

// A late user never writes to a file that got the number of a closed event.
func TestEventClosedByLastUser(t *testing.T) {
	e := must[*Event](t)(NewEvent())
	n := e.FD()
	if !e.use(eventDead | eventClosed) {
		t.Fatal("a new event cannot be used")
	}
	e.Close()
	e.Close()
	if !valid(n) {
		t.Fatal("the descriptor is closed while it is used")
	}
	if e.Signal() {
		t.Error("a closed event can be signalled")
	}
	e.done()
	if valid(n) {
		t.Error("the last user did not close the descriptor")
	}
	e.Drain()
	e.Kill()
	if _, err := e.Dup(); err == nil {
		t.Error("a closed event can be duplicated")
	}
}

func TestEventConcurrentClose(t *testing.T) {
	for range 200 {
		e := must[*Event](t)(NewEvent())
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for e.Signal() {
					e.Drain()
				}
			})
		}
		wg.Go(e.Kill)
		wg.Go(e.Close)
		wg.Wait()
		if s := e.state.Load(); s&eventUsers != 0 {
			t.Fatalf("%d users left", s&eventUsers)
		}
	}
}

func TestV34_EventRefusesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(path string, flags int) func() (int, error) {
		return func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) }
	}
	for name, f := range map[string]func() (int, error){
		"directory":   open(dir, unix.O_RDONLY),
		"file":        open(file, unix.O_RDWR),
		"O_PATH file": open(file, unix.O_PATH),
		"device":      open("/dev/null", unix.O_RDWR),
		"tty":         open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY),
		"memfd":       func() (int, error) { return unix.MemfdCreate("test", unix.MFD_CLOEXEC) },
		"epoll":       func() (int, error) { return unix.EpollCreate1(unix.EPOLL_CLOEXEC) },
		"socket":      func() (int, error) { return unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0) },
		"timerfd":     func() (int, error) { return unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC) },
		"inotify":     func() (int, error) { return unix.InotifyInit1(unix.IN_CLOEXEC) },
	} {
		fd := OwnFD(must[int](t)(f()))
		e, err := EventFrom(fd)
		if err == nil {
			t.Errorf("%s: accepted", name)
			e.Close()
		}
		if fd.Num() != -1 {
			t.Errorf("%s: not closed when refused", name)
		}
	}
	if _, err := EventFrom(nil); err == nil {
		t.Error("no descriptor: accepted")
	}
}

// A pipe works like an eventfd, and neither its flags nor its end are the
// peer's to choose.
func TestV76_EventPipe(t *testing.T) {
	for _, end := range []string{"read", "write"} {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil { // blocking
			t.Fatal(err)
		}
		mine, theirs := OwnFD(fds[0]), OwnFD(fds[1])
		if end == "write" {
			mine, theirs = theirs, mine
		}
		e := must[*Event](t)(EventFrom(mine))
		within(t, "Drain of an empty pipe", e.Drain)
		within(t, "Signal", func() {
			for range 1 << 16 { // more than a pipe holds
				if !e.Signal() {
					t.Error("a full pipe was not a pending signal")
					return
				}
			}
		})
		if !ready(e.FD(), unix.POLLIN) {
			t.Error("nothing is signalled")
		}
		within(t, "emptying", func() {
			for ready(e.FD(), unix.POLLIN) {
				e.Drain()
			}
		})
		if err := theirs.Close(); err != nil {
			t.Fatal(err)
		}
		if !e.Signal() { // no SIGPIPE, no EPIPE
			t.Error("Signal after the peer has gone failed")
		}
		e.Close()
	}
}

func TestEventAllocatesNothing(t *testing.T) {
	e := must[*Event](t)(NewEvent())
	defer e.Close()
	if n := testing.AllocsPerRun(100, func() { e.Signal(); e.Drain() }); n != 0 {
		t.Errorf("Signal and Drain allocate %v times", n)
	}
}

func BenchmarkSignal(b *testing.B) {
	e := must[*Event](b)(NewEvent())
	defer e.Close()
	for b.Loop() {
		e.Signal()
	}
}

// Full tells a counter that takes no signal from one that does.
func TestV76_Full(t *testing.T) {
	e, err := NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if e.Full() {
		t.Error("a new event is full")
	}
	if _, err := unix.Write(e.FD(), binary.NativeEndian.AppendUint64(nil, 1<<64-2)); err != nil {
		t.Fatal(err)
	}
	if !e.Full() {
		t.Error("an event whose counter is at its end has room")
	}
	e.Drain()
	if e.Full() {
		t.Error("a drained event is full")
	}
	if (*Event)(nil).Full() {
		t.Error("no event is full")
	}
}
