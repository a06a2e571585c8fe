package usernet

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"gvisor.dev/gvisor/pkg/tcpip"

	"vhostnet/vswitch"
	"vhostnet/worker"
)

// lab is a switch with a worker, and a Network on it.
type lab struct {
	t     testing.TB
	s     *vswitch.Switch
	group *worker.Group
	n     *Network
	end   func()
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) mustStack(err tcpip.Error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// newSwitch is a lab without a Network.
func newSwitch(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t}
	var err error
	l.s, err = vswitch.New(vswitch.Options{})
	l.must(err)
	l.group, err = worker.NewGroup(worker.Options{Workers: 1})
	l.must(err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.group.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		l.must(<-done)
	})
	return l
}

// newLab is a lab whose Network runs.
func newLab(t testing.TB, o Options) *lab {
	t.Helper()
	l := newSwitch(t)
	o.Name, o.Switch, o.Group = "user", l.s, l.group
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	var err error
	l.n, err = New(o)
	l.must(err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.n.Run(ctx) }()
	ended := false
	l.end = func() {
		if ended {
			return
		}
		ended = true
		stop()
		select {
		case err := <-done:
			l.must(err)
		case <-time.After(30 * time.Second):
			b := make([]byte, 1<<20)
			t.Fatalf("the network does not end\n%s", b[:runtime.Stack(b, true)])
		}
	}
	t.Cleanup(l.end)
	l.wait("the network to run", func() bool { return l.n.link.IsAttached() })
	return l
}

// wait waits for what happens soon.
func (l *lab) wait(what string, f func() bool) {
	l.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatalf("waited in vain for %s; %+v", what, l.n.Snapshot())
		}
	}
}

// open is how many descriptors and goroutines the process has.
func open(t testing.TB) (fds, goroutines int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list), runtime.NumGoroutine()
}

// noLeak fails the test if what it opens is not closed when it has ended.
func noLeak(t testing.TB) {
	t.Helper()
	fds, goroutines := open(t)
	t.Cleanup(func() {
		var f, g int
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if f, g = open(t); f <= fds && g <= goroutines {
				return
			}
			if time.Now().After(deadline) {
				break
			}
		}
		b := make([]byte, 1<<20)
		t.Errorf("%d descriptors and %d goroutines are left of %d and %d before\n%s", f, g, fds, goroutines, b[:runtime.Stack(b, true)])
	})
}

var errTimeout = errors.New("timeout")

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// count is how many lines have word in them.
func (l *lines) count(word string) int { return strings.Count(l.String(), word) }
