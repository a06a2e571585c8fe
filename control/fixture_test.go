package control

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

const patience = 20 * time.Second

// fake is a Backend that remembers what it was asked for.
type fake struct {
	Nothing
	hub    Hub
	ports  []Port
	queues []Queue
	err    error // of whatever is asked for, unless nil
	mu     sync.Mutex
	asked  []any
	waits  chan struct{} // FreeQueue's answer waits for it
}

func (f *fake) ask(what any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, what)
	return f.err
}

func (f *fake) take() []any {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = nil
	return asked
}

type call struct {
	verb string
	what any
}

func (f *fake) Ports() []Port { return f.ports }
func (f *fake) AddPort(r PortRequest) (Port, error) {
	return Port{Name: r.Name, Socket: r.Socket}, f.ask(r)
}
func (f *fake) RemovePort(name string) error { return f.ask(call{"remove", name}) }
func (f *fake) SetLink(_ context.Context, name string, up bool) error {
	return f.ask(call{"link " + name, up})
}
func (f *fake) Queues() []Queue                              { return f.queues }
func (f *fake) AllocateQueue(r QueueRequest) (uint16, error) { return 1, f.ask(r) }
func (f *fake) CompleteQueues(ids []uint16) []Completion {
	_ = f.ask(ids)
	return []Completion{{Queue: 1, Status: StatusSuccess, State: "Paused"}, {Queue: 7, Status: StatusInvalidParameter}}
}
func (f *fake) SetQueue(_ uint16, c QueueChange) error { return f.ask(c) }
func (f *fake) FreeQueue(ctx context.Context, id uint16) error {
	select {
	case <-f.waits:
		return f.ask(call{"free", id})
	case <-ctx.Done():
		return Errorf(StatusPending, "queue %d is being freed", id)
	}
}

func (f *fake) Filters() []Filter {
	return []Filter{{ID: 5, Queue: 1, Port: "web", Origin: "control", Address: Address{MAC: "52:54:00:00:00:01"}}, {Port: "db", Origin: "control"}}
}
func (f *fake) SetFilter(r FilterRequest) (Filter, error) { return Filter{ID: 5}, f.ask(r) }
func (f *fake) ClearFilter(id uint32) error               { return f.ask(call{"clear", id}) }
func (f *fake) DropFilter(port string, a Address) error   { return f.ask(call{"drop " + port, a}) }
func (f *fake) MoveFilter(_ context.Context, id uint32, queue uint16) error {
	return f.ask(call{"move", []uint32{id, uint32(queue)}})
}

func (f *fake) Forwards() []Forward {
	return []Forward{{Network: "tcp", Listen: "127.0.0.1:80", Port: "out"}, {Network: "udp", Listen: "[::1]:53", Port: "other"}}
}

func (f *fake) AddForward(r ForwardRequest) (Forward, error) {
	return Forward{Network: r.Network, Listen: r.Listen, Port: "out"}, f.ask(r)
}

func (f *fake) RemoveForward(network, listen string) error {
	return f.ask(call{"close " + network, listen})
}
func (f *fake) Memory() MemoryReport { return MemoryReport{Total: 3, Note: MemoryNote} }
func (f *fake) Table() []Entry       { return []Entry{{Kind: "learned", Port: "web"}} }
func (f *fake) Counters() []Counters {
	return []Counters{{Port: "web", TxFrames: 1, Drops: map[string]uint64{"no-buffer": 7}}}
}
func (f *fake) Subscribe(port string) *Subscription { return f.hub.Subscribe(port) }

// lab is a server over a fake.
type lab struct {
	t      *testing.T
	fake   *fake
	client *Client
	path   string
	end    func() error
}

func newLab(t *testing.T, o HandlerOptions) *lab {
	t.Helper()
	f := &fake{
		ports:  []Port{{Name: "web", Link: "up"}, {Name: "db", Link: "up"}},
		queues: []Queue{{State: "Running"}, {ID: 1, Port: "web", State: "Paused"}},
		waits:  make(chan struct{}),
	}
	close(f.waits)
	return serve(t, f, NewHandler(f, o), nil)
}

// serve serves a handler; change may change the server before.
func serve(t *testing.T, f *fake, h *Handler, change func(*Server)) *lab {
	t.Helper()
	l := &lab{fake: f, t: t, path: filepath.Join(t.TempDir(), "control")}
	l.client = NewClient(l.path)
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: l.path, Net: "unix"})
	l.must(err)
	s, err := NewServer(ServerOptions{Listener: socket, Handler: h})
	l.must(err)
	if change != nil {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	l.end = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := l.end(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// waitFor asks until ok, for a bounded time.
func (l *lab) waitFor(what string, ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("waited in vain for %s", what)
		}
	}
}
