package vhostuser

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
	"vhostnet/sharedmem"
	"vhostnet/virtio"
)

// patience bounds every wait of these tests; none of them depends on it to
// pass.
const patience = 20 * time.Second

// lines is a log that counts.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// bench is a server that serves one connected front-end, and that front-end.
type bench struct {
	*peer
	t      testing.TB
	dev    *stub
	server *Server
	budget *sharedmem.Budget
	log    *lines
	served chan error
	end    context.CancelFunc
}

// socketPair makes two connected unix stream sockets.
func socketPair(t testing.TB) (a, b *sys.FD) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return sys.OwnFD(fds[0]), sys.OwnFD(fds[1])
}

func newBudget(t testing.TB) *sharedmem.Budget {
	t.Helper()
	b, err := sharedmem.NewBudget(sharedmem.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newBench serves d, with the options that change makes, on the server as
// prepare leaves it.
func newBench(t testing.TB, d *stub, change func(*Options), prepare ...func(*Server)) *bench {
	t.Helper()
	b := &bench{t: t, dev: d, budget: newBudget(t), log: &lines{}, served: make(chan error, 1)}
	ours, theirs := socketPair(t)
	o := Options{
		Name:   "test",
		Conn:   ours,
		Budget: b.budget,
		Log:    hclog.New(&hclog.LoggerOptions{Output: b.log, Level: hclog.Debug}),
	}
	if change != nil {
		change(&o)
	}
	var err error
	if b.server, err = NewServer(netStub{d}, o); err != nil {
		t.Fatal(err)
	}
	for _, f := range prepare {
		f(b.server)
	}
	b.peer = newPeer(t, theirs)
	var ctx context.Context
	ctx, b.end = context.WithCancel(context.Background())
	go func() { b.served <- b.server.Serve(ctx) }()
	t.Cleanup(b.close)
	return b
}

// close ends the session and waits for the server.
func (b *bench) close() {
	if b.end == nil {
		return
	}
	b.end()
	b.end = nil
	_ = b.conn.Close()
	b.wait()
}

// wait waits for the server's own end.
func (b *bench) wait() {
	b.t.Helper()
	select {
	case err := <-b.served:
		if err != nil {
			b.t.Errorf("Serve: %v", err)
		}
		b.served <- nil
	case <-time.After(patience):
		b.t.Fatalf("Serve does not return\n%s", stacks())
	}
}

// calls checks what the device was told since the last check.
func (b *bench) calls(want ...string) {
	b.t.Helper()
	got := b.dev.take()
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		b.t.Fatalf("device was told %q, want %q\n%s", got, want, b.log)
	}
}

// spent checks what is mapped.
func (b *bench) regions(want int) {
	b.t.Helper()
	_, got := b.server.budget.Spent()
	if got != want {
		b.t.Fatalf("%d regions are mapped, want %d", got, want)
	}
}

const accepted = virtio.ProtocolFeatures | virtio.Version1 | virtio.EventIdx | virtio.IndirectDesc

// handshake is the part before the rings.
func (b *bench) handshake(g *guest) {
	b.t.Helper()
	b.say(SetOwner, nil)
	b.ok(SetFeatures, U64(accepted).Marshal())
	b.ok(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(b.t))
	b.calls("negotiated indirect_desc,event_idx,version_1", "memory 1")
}

// ring sets ring i up and starts it.
func (b *bench) ring(i int) {
	b.t.Helper()
	b.ok(SetVringNum, state(i, ringSize))
	b.ok(SetVringBase, state(i, 0))
	b.ok(SetVringAddr, addr(i).Marshal())
	b.ok(SetVringCall, fdPayload(i), newFD(b.t))
	b.calls()
	b.ok(SetVringKick, fdPayload(i), newFD(b.t))
	b.calls(fmt.Sprintf("start %d", i))
}

// live sets ring i up, starts it and enables it.
func (b *bench) live(i int) {
	b.t.Helper()
	b.ring(i)
	b.ok(SetVringEnable, state(i, 1))
	b.calls(fmt.Sprintf("enable %d true", i))
}

// base stops ring i and gives its position.
func (b *bench) base(i int) uint32 {
	b.t.Helper()
	var v VringState
	if err := v.Unmarshal(b.ask(GetVringBase, state(i, 0))); err != nil {
		b.t.Fatal(err)
	}
	if v.Index != uint32(i) {
		b.t.Fatalf("GET_VRING_BASE of ring %d answers for ring %d", i, v.Index)
	}
	return v.Num
}

// usage is what a session may not keep.
type usage struct{ fds, mappings, goroutines int }

// measure measures during a session, which is given the time to begin.
func (b *bench) measure() usage {
	b.t.Helper()
	b.number(GetFeatures)
	return measure(b.t)
}

func measure(t testing.TB) usage {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	// The Go heap grows by mappings of its own; a Map's are files and the
	// reservation without access around them.
	mappings := bytes.Count(maps, []byte("memfd:"))
	return usage{fds: len(fds), mappings: mappings, goroutines: runtime.NumGoroutine()}
}

// atRest waits until usage is down to base, and fails when it does not come.
func atRest(t testing.TB, base usage) {
	t.Helper()
	var now usage
	for range 2000 {
		now = measure(t)
		if now.fds <= base.fds && now.mappings <= base.mappings && now.goroutines <= base.goroutines {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("after the session %+v, before it %+v\n%s", now, base, stacks())
}

func stacks() string {
	b := make([]byte, 1<<16)
	return string(b[:runtime.Stack(b, true)])
}
