package control

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// fakeHost is a GuestHost with ports web and db, whose filters are real in its
// own memory.
type fakeHost struct {
	fake
	filters []Filter
	taken   [6]byte // by db
	seen    [6]byte // at db
	nextID  uint32
}

func newFakeHost() *fakeHost {
	h := &fakeHost{nextID: 10, taken: [6]byte{2, 0, 0, 0, 0, 0xdb}, seen: [6]byte{2, 0, 0, 0, 0, 0xdc}}
	h.ports = []Port{
		{Name: "web", Kind: "vm", Socket: "/run/web.sock", Options: map[string]string{"vlan": "10"}, MAC: "02:00:00:00:00:aa", Link: "up", Connected: true, Queue: 1, Rings: []Ring{{Index: 1, Enabled: true, Polling: new(Polling)}}},
		{Name: "db", Kind: "vm", Link: "up", Queue: 2},
	}
	worker := 3
	h.queues = []Queue{{State: "Running"}, {ID: 1, Port: "web", State: "Running", Affinity: []int{3}, Worker: &worker}, {ID: 2, Port: "db", State: "Running"}}
	h.filters = []Filter{
		{ID: 5, Queue: 1, Port: "web", Origin: "configuration", Address: Address{MAC: "02:00:00:00:00:aa"}},
		{ID: 6, Queue: 2, Port: "db", Origin: "guest", Address: Address{MAC: "02:00:00:00:00:db"}},
	}
	return h
}

func (h *fakeHost) Filters() []Filter {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.filters)
}

func (h *fakeHost) Counters() []Counters {
	return []Counters{{Port: "db", TxFrames: 9}, {Port: "web", TxFrames: 1}}
}

func (h *fakeHost) Taken(port string, mac [6]byte) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return port != "db" && mac == h.taken || slices.ContainsFunc(h.filters, func(f Filter) bool {
		return f.Port != port && f.MAC == net.HardwareAddr(mac[:]).String()
	})
}

func (h *fakeHost) Seen(port string, mac [6]byte) bool { return port != "db" && mac == h.seen }

func (h *fakeHost) SetGuestFilter(port string, a Address) (Filter, error) {
	time.Sleep(time.Millisecond) // room for another guest
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nextID++
	f := Filter{ID: h.nextID, Queue: 1, Port: port, Origin: OriginGuest, Address: a}
	h.filters = append(h.filters, f)
	return f, nil
}

func (h *fakeHost) DropGuestFilter(port string, a Address) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.filters = slices.DeleteFunc(h.filters, func(f Filter) bool { return f.Port == port && f.Address == a })
	return nil
}

func (h *fakeHost) SuggestBuffers(port string, n uint32) error {
	return h.ask(call{"buffers " + port, n})
}

// run runs something that ends with the test, which waits for that.
func run(t *testing.T, serve func(context.Context) error) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return end
}

// wire stands for AF_VSOCK: callers come by it, who say what CID they have.
type wire struct {
	calls chan net.Conn
	ended chan struct{}
	once  sync.Once
}

func newWire() *wire { return &wire{calls: make(chan net.Conn), ended: make(chan struct{})} }

func (w *wire) Accept() (net.Conn, error) {
	select {
	case c := <-w.calls:
		return c, nil
	case <-w.ended:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.ended) })
	return nil
}

func (w *wire) Addr() net.Addr { return guestAddr("wire") }

type wireConn struct {
	net.Conn
	cid uint32
}

func wireCaller(c net.Conn) (uint32, error) {
	if w, ok := c.(*wireConn); ok && w.cid != 0 {
		return w.cid, nil
	}
	return 0, errNoCID
}

// dial connects as a VM.
func (w *wire) dial(ctx context.Context, cid uint32) (net.Conn, error) {
	mine, theirs := net.Pipe()
	select {
	case w.calls <- &wireConn{theirs, cid}:
		return mine, nil
	case <-ctx.Done():
	case <-w.ended:
	}
	return nil, errors.New("nobody accepts")
}

func (w *wire) client(cid uint32) *Client {
	return NewClientOver("wire", func(ctx context.Context) (net.Conn, error) { return w.dial(ctx, cid) })
}

// newChannel is a guest channel over a wire.
func newChannel(t *testing.T, h *fakeHost) (*Guests, *wire, func()) {
	t.Helper()
	g, w := NewGuests(h, hclog.NewNullLogger()), newWire()
	g.caller = wireCaller
	return g, w, run(t, func(ctx context.Context) error { return g.Serve(ctx, w) })
}

// addGuest serves a guest.
func addGuest(t *testing.T, g *Guests, o GuestOptions) (end func()) {
	t.Helper()
	u, err := g.NewGuest(o)
	if err != nil {
		t.Fatal(err)
	}
	end = run(t, u.Serve)
	bound := func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return o.CID == 0 || g.guests[o.CID] == u
	}
	(&lab{t: t}).waitFor("the guest to be served", bound)
	return end
}

// descriptors is how many files are open.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
