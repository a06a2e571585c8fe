package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	webCID = 7
	dbCID  = 8
)

var webPolicy = GuestPolicy{Filters: 2, Buffers: 1024, GuestVLANs: GuestVLANs{Untagged: true, Tags: []uint16{20}}}

func refusal(t *testing.T, what string, err error, status, words string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != status || !strings.Contains(e.Message, words) {
		t.Errorf("%s: %v; want %s with %q", what, err, status, words)
	}
}

// A guest sees its own port, and of the host nothing.
func TestGuestSeesItself(t *testing.T) {
	h := newFakeHost()
	g, w, _ := newChannel(t, h)
	addGuest(t, g, GuestOptions{Port: "web", CID: webCID})
	c, ctx := w.client(webCID), t.Context()
	for what, get := range map[string]struct {
		do   func() (any, error)
		want any
	}{
		"ports":    {func() (any, error) { return c.Ports(ctx) }, []Port{{Name: "web", Kind: "vm", MAC: "02:00:00:00:00:aa", Link: "up", Connected: true, Queue: 1, Rings: []Ring{{Index: 1, Enabled: true}}}}},
		"queues":   {func() (any, error) { return c.Queues(ctx) }, []Queue{{ID: 1, Port: "web", State: "Running"}}},
		"filters":  {func() (any, error) { return c.Filters(ctx) }, h.filters[:1]},
		"counters": {func() (any, error) { return c.Counters(ctx) }, []Counters{{Port: "web", TxFrames: 1}}},
		"table":    {func() (any, error) { return c.Table(ctx) }, []Entry{}},
		"memory":   {func() (any, error) { return c.Memory(ctx) }, MemoryReport{}},
	} {
		if got, err := get.do(); err != nil || !reflect.DeepEqual(got, get.want) {
			t.Errorf("%s: %+v, %v; want %+v", what, got, err, get.want)
		}
	}
	_, err := c.SetFilter(ctx, FilterRequest{Address: Address{MAC: "02:00:00:00:00:01"}})
	refusal(t, "a filter", err, StatusNotAccepted, "guest=filters")
	n := uint32(64)
	_, err = c.SetQueue(ctx, 1, QueueChange{SuggestedBuffers: &n})
	refusal(t, "buffers", err, StatusNotAccepted, "guest=filters")
}

// A guest sets filters in its port's VLANs, up to its limit, and takes back
// what it has set and nothing else.
func TestGuestFilters(t *testing.T) {
	h := newFakeHost()
	g, w, _ := newChannel(t, h)
	addGuest(t, g, GuestOptions{Port: "web", CID: webCID, Policy: webPolicy})
	c, ctx := w.client(webCID), t.Context()
	set := func(a Address) error { _, err := c.SetFilter(ctx, FilterRequest{Address: a}); return err }
	for _, r := range []struct {
		a             Address
		status, words string
	}{
		{Address{MAC: "x"}, StatusInvalidParameter, "want an address"},
		{Address{MAC: "02:00:00:00:00:00:00:01"}, StatusInvalidParameter, "want an address"},
		{Address{MAC: "00:00:00:00:00:00"}, StatusInvalidParameter, "one station"},
		{Address{MAC: "01:00:5e:00:00:01"}, StatusInvalidParameter, "frames to groups"},
		{Address{MAC: "ff:ff:ff:ff:ff:ff"}, StatusInvalidParameter, "frames to groups"},
		{Address{MAC: "02:00:00:00:00:db"}, StatusNotAccepted, "another port"},
		{Address{MAC: "02:00:00:00:00:dc"}, StatusNotAccepted, "another port"},
		{Address{MAC: "02:00:00:00:00:01", VLAN: 30}, StatusNotAccepted, "VLAN 30"},
		{Address{MAC: "02:00:00:00:00:01", AnyVLAN: true}, StatusNotAccepted, "one by one"},
		{Address{MAC: "02:00:00:00:00:01", VLAN: 20, AnyVLAN: true}, StatusInvalidParameter, "exclude"},
	} {
		refusal(t, fmt.Sprint(r.a), set(r.a), r.status, r.words)
	}
	for what, r := range map[string]FilterRequest{
		"of another port":  {Port: "db", Address: Address{MAC: "02:00:00:00:00:01"}},
		"of another queue": {Queue: 2, Address: Address{MAC: "02:00:00:00:00:01"}},
		"of queue 0":       {Port: "web", Queue: 9, Address: Address{MAC: "02:00:00:00:00:01"}},
	} {
		_, err := c.SetFilter(ctx, r)
		refusal(t, what, err, StatusInvalidParameter, "there is no")
	}
	if len(h.Filters()) != 2 {
		t.Fatalf("refused filters were set: %+v", h.Filters())
	}
	f, err := c.SetFilter(ctx, FilterRequest{Port: "web", Queue: 1, Address: Address{MAC: "02:00:00:00:00:01"}})
	if err != nil || f.Origin != OriginGuest || f.Port != "web" {
		t.Fatalf("%+v, %v", f, err)
	}
	if err := set(Address{MAC: "02:00:00:00:00:01", VLAN: 20}); err != nil {
		t.Fatal(err)
	}
	refusal(t, "one too many", set(Address{MAC: "02:00:00:00:00:03"}), StatusResources, "set 2 filters")

	refusal(t, "the configuration's", c.ClearFilter(ctx, 5), StatusNotAccepted, "origin: configuration")
	refusal(t, "the configuration's", c.DropFilter(ctx, "web", Address{MAC: "02:00:00:00:00:aa"}), StatusNotAccepted, "origin: configuration")
	refusal(t, "another guest's", c.ClearFilter(ctx, 6), StatusInvalidParameter, "no filter 6")
	refusal(t, "another guest's", c.DropFilter(ctx, "db", Address{MAC: "02:00:00:00:00:db"}), StatusInvalidParameter, "no port db")
	refusal(t, "nobody's", c.DropFilter(ctx, "web", Address{MAC: "02:00:00:00:00:77"}), StatusFileNotFound, "no filter")
	if err := errors.Join(c.ClearFilter(ctx, f.ID), c.DropFilter(ctx, "web", Address{MAC: "02-00-00-00-00-01", VLAN: 20})); err != nil {
		t.Error(err)
	}
	if len(h.Filters()) != 2 {
		t.Errorf("%+v", h.Filters())
	}
}

// Of two guests that want one address at once one gets it.
func TestGuestsDoNotShareAnAddress(t *testing.T) {
	h := newFakeHost()
	g, w, _ := newChannel(t, h)
	addGuest(t, g, GuestOptions{Port: "web", CID: webCID, Policy: GuestPolicy{Filters: 99, GuestVLANs: webPolicy.GuestVLANs}})
	addGuest(t, g, GuestOptions{Port: "db", CID: dbCID, Policy: GuestPolicy{Filters: 99, GuestVLANs: webPolicy.GuestVLANs}})
	for n := range 8 {
		results := make(chan error, 2)
		for _, cid := range []uint32{webCID, dbCID} {
			go func() {
				_, err := w.client(cid).SetFilter(t.Context(), FilterRequest{Address: Address{MAC: fmt.Sprintf("02:00:00:00:01:%02x", n)}})
				results <- err
			}()
		}
		a, b := <-results, <-results
		if (a == nil) == (b == nil) {
			t.Fatalf("two guests that want one address: %v, %v", a, b)
		}
		refusal(t, "the second", errors.Join(a, b), StatusNotAccepted, "another port")
	}
}

// In which VLANs a guest may have a filter is what its port is in.
func TestGuestVLANs(t *testing.T) {
	none, access := GuestVLANs{Untagged: true, Every: true}, GuestVLANs{Untagged: true}
	trunk, native := GuestVLANs{Tags: []uint16{20}}, GuestVLANs{Untagged: true, Tags: []uint16{20}}
	for _, c := range []struct {
		what    string
		vlans   GuestVLANs
		a       Address
		allowed bool
	}{
		{"none", none, Address{}, true},
		{"none", none, Address{VLAN: 4094}, true},
		{"none", none, Address{VLAN: 4095}, false},
		{"none", none, Address{AnyVLAN: true}, true},
		{"access", access, Address{}, true},
		{"access", access, Address{VLAN: 10}, false},
		{"access", access, Address{AnyVLAN: true}, false},
		{"trunk", trunk, Address{}, false},
		{"trunk", trunk, Address{VLAN: 20}, true},
		{"trunk", trunk, Address{VLAN: 21}, false},
		{"trunk", trunk, Address{AnyVLAN: true}, false},
		{"native", native, Address{}, true},
		{"native", native, Address{VLAN: 20}, true},
	} {
		c.a.MAC = "02:00:00:00:00:01"
		_, err := GuestPolicy{Filters: 1, GuestVLANs: c.vlans}.admits(c.a)
		if (err == nil) != c.allowed {
			t.Errorf("port with %s, filter %+v: %v", c.what, c.a, err)
		}
	}
}

// A guest may say how many buffers are good for its queue, and no more.
func TestGuestBuffers(t *testing.T) {
	h := newFakeHost()
	g, w, _ := newChannel(t, h)
	addGuest(t, g, GuestOptions{Port: "web", CID: webCID, Policy: webPolicy})
	c, ctx := w.client(webCID), t.Context()
	few, many, name := uint32(512), uint32(1025), "x"
	_, err := c.SetQueue(ctx, 1, QueueChange{SuggestedBuffers: &many})
	refusal(t, "too many", err, StatusInvalidParameter, "at most 1024")
	_, err = c.SetQueue(ctx, 1, QueueChange{SuggestedBuffers: &few, Name: &name})
	refusal(t, "a name", err, StatusNotAccepted, "nothing else")
	_, err = c.SetQueue(ctx, 1, QueueChange{SuggestedBuffers: &few, Affinity: &[]int{0}})
	refusal(t, "an affinity", err, StatusNotAccepted, "nothing else")
	_, err = c.SetQueue(ctx, 2, QueueChange{SuggestedBuffers: &few})
	refusal(t, "another queue", err, StatusInvalidParameter, "no queue 2")
	if asked := h.take(); len(asked) != 0 {
		t.Errorf("the host was asked for %v", asked)
	}
	if _, err = c.SetQueue(ctx, 1, QueueChange{SuggestedBuffers: &few}); err != nil {
		t.Error(err)
	}
	if asked := h.take(); !reflect.DeepEqual(asked, []any{call{"buffers web", few}}) {
		t.Errorf("the host was asked for %v", asked)
	}
}

// Whatever is not a guest's is refused.
func TestGuestMayNot(t *testing.T) {
	h := newFakeHost()
	g, w, _ := newChannel(t, h)
	addGuest(t, g, GuestOptions{Port: "web", CID: webCID, Policy: webPolicy})
	c, ctx := w.client(webCID), t.Context()
	refused := map[string]error{
		"remove": c.RemovePort(ctx, "web"), "free": c.FreeQueue(ctx, 1),
	}
	_, refused["add"] = c.AddPort(ctx, PortRequest{Name: "x", Socket: "/tmp/x"})
	_, refused["link"] = c.SetLink(ctx, "web", false)
	_, refused["allocate"] = c.AllocateQueue(ctx, QueueRequest{Port: "web"})
	_, refused["move"] = c.MoveFilter(ctx, 5, 2)
	for what, err := range refused {
		refusal(t, what, err, StatusNotAccepted, "not open to the caller")
	}
	if asked := h.take(); len(asked) != 0 {
		t.Errorf("the host was asked for %v", asked)
	}
}

// A guest hears of its own port, and misses nothing for what happens elsewhere.
func TestGuestEvents(t *testing.T) {
	h := newFakeHost()
	g, w, _ := newChannel(t, h)
	addGuest(t, g, GuestOptions{Port: "web", CID: webCID})
	s, err := w.client(webCID).Events(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 20 * eventRoom {
		h.hub.Publish(Event{Kind: EventLink, Port: "db", State: "down"})
	}
	h.hub.Publish(Event{Kind: EventAdapterState, State: "Running"})
	h.hub.Publish(Event{Kind: EventLink, Port: "web", State: "down"})
	if e, err := s.Next(); err != nil || e.Port != "web" || e.Seq != 1 {
		t.Errorf("%+v, %v; want that of web, the first that it hears of", e, err)
	}
	g.mu.Lock()
	u := g.guests[webCID]
	g.mu.Unlock()
	u.events.lose("web", 3) // as it is told when its own were too many
	if e, err := s.Next(); err != nil || e.Kind != EventLost || e.Count != 3 {
		t.Errorf("%+v, %v; want that 3 were lost", e, err)
	}
}

// Each caller is the guest of its CID; others are told who would have to let
// them in.
func TestCallersByCID(t *testing.T) {
	h := newFakeHost()
	g, w, _ := newChannel(t, h)
	addGuest(t, g, GuestOptions{Port: "web", CID: webCID})
	endDB := addGuest(t, g, GuestOptions{Port: "db", CID: dbCID})
	ctx := t.Context()
	for cid, port := range map[uint32]string{webCID: "web", dbCID: "db"} {
		if list, err := w.client(cid).Ports(ctx); err != nil || len(list) != 1 || list[0].Name != port {
			t.Errorf("CID %d sees %v, %v", cid, list, err)
		}
	}
	_, err := w.client(9).Ports(ctx)
	refusal(t, "an unknown CID", err, StatusNotAccepted, "guest-cid=9")
	_, err = w.client(0).Ports(ctx)
	refusal(t, "no CID", err, StatusNotAccepted, "who calls is not known")
	other, err := g.NewGuest(GuestOptions{Port: "x", CID: webCID})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Serve(ctx); err == nil || !strings.Contains(err.Error(), "port web already") {
		t.Errorf("two guests of a CID: %v", err)
	}
	endDB()
	_, err = w.client(dbCID).Ports(ctx)
	refusal(t, "a CID whose port has gone", err, StatusNotAccepted, "guest-cid=8")
	if _, err := w.client(webCID).Ports(ctx); err != nil {
		t.Error(err)
	}
	for _, o := range []GuestOptions{{CID: 5}, {Port: "web"}} {
		if _, err := g.NewGuest(o); err == nil {
			t.Errorf("a guest of %+v", o)
		}
	}
}

// hybrid is a guest that is known by its socket.
func hybrid(t *testing.T, g *Guests, o GuestOptions) (path string, end func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), fmt.Sprintf("v.sock_%d", GuestPort))
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	o.Listener = l
	return path, addGuest(t, g, o)
}

// With hybrid vsock it is the socket that says who calls.
func TestCallersBySocket(t *testing.T) {
	h := newFakeHost()
	g := NewGuests(h, nil)
	web, endWeb := hybrid(t, g, GuestOptions{Port: "web"})
	db, _ := hybrid(t, g, GuestOptions{Port: "db"})
	for path, port := range map[string]string{web: "web", db: "db"} {
		if list, err := NewClient(path).Ports(t.Context()); err != nil || len(list) != 1 || list[0].Name != port {
			t.Errorf("at the socket of %s: %v, %v", port, list, err)
		}
	}
	endWeb()
	if _, err := NewClient(web).Ports(t.Context()); err == nil {
		t.Error("a guest that has ended is answered")
	}
}

// A guest that floods or stands still has its own places only, and another one
// is answered meanwhile.
func TestStuckGuest(t *testing.T) {
	h := newFakeHost()
	g, w, _ := newChannel(t, h)
	before := runtime.NumGoroutine()
	addGuest(t, g, GuestOptions{Port: "web", CID: webCID})
	addGuest(t, g, GuestOptions{Port: "db", CID: dbCID})
	var open []net.Conn
	for n := range 200 {
		c, err := w.dial(t.Context(), webCID)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
		if n == 0 { // it says something and reads nothing
			go func() {
				_, _ = io.WriteString(c, strings.Repeat("GET /openapi.yaml HTTP/1.1\r\nHost: x\r\n\r\n", 1000))
			}()
		}
	}
	// Sooner than those that say nothing lose their connection for that.
	for deadline := time.Now().Add(3 * time.Second); len(open) > guestConns && time.Now().Before(deadline); {
		open = slices.DeleteFunc(open, func(c net.Conn) bool {
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := c.Read(make([]byte, 1))
			return errors.Is(err, io.EOF)
		})
	}
	if len(open) > guestConns {
		t.Errorf("%d connections of one guest are open, want at most %d", len(open), guestConns)
	}
	if n := runtime.NumGoroutine() - before; n > 60 {
		t.Errorf("%d goroutines for a guest that floods", n)
	}
	if list, err := w.client(dbCID).Ports(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("another guest meanwhile: %v, %v", list, err)
	}
}

// What a guest sends is bounded.
func TestGuestBounds(t *testing.T) {
	g := NewGuests(newFakeHost(), nil)
	path, _ := hybrid(t, g, GuestOptions{Port: "web", Policy: webPolicy})
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	defer client.CloseIdleConnections()
	post := func(body, header string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/v1/filters", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X", header)
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	if code := post(`{"mac":"`+strings.Repeat("0", guestBody)+`"}`, ""); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a long body: %d", code)
	}
	if code := post(`{}`, strings.Repeat("x", 2*guestHeader+4096)); code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a long header: %d", code)
	}
}

// At the end nothing of a guest is left, also of one that stands still.
func TestGuestsEnd(t *testing.T) {
	before, files := runtime.NumGoroutine(), descriptors(t)
	h := newFakeHost()
	g, w, endAll := newChannel(t, h)
	end := addGuest(t, g, GuestOptions{Port: "web", CID: webCID})
	path, endHybrid := hybrid(t, g, GuestOptions{Port: "db"})
	stuck, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	half, err := w.dial(t.Context(), webCID)
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.client(webCID).Events(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	end()
	endHybrid()
	endAll()
	_ = errors.Join(stuck.Close(), half.Close(), s.Close())
	l := &lab{t: t}
	l.waitFor("the goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
	l.waitFor("the sockets to be closed", func() bool { return descriptors(t) <= files })
	h.hub.mu.Lock()
	defer h.hub.mu.Unlock()
	if len(h.hub.subs) != 0 {
		t.Errorf("%d subscriptions are left", len(h.hub.subs))
	}
}
