package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vhostnet/control"
	"vhostnet/netdev"
	"vhostnet/vhostuser/vutest"
)

// api is the control API of a running daemon, over its socket.
type api struct {
	*running
	*control.Client
	events *control.EventStream
}

// runAPI runs a daemon with a control socket and begins to listen to its
// events.
func runAPI(t *testing.T, names ...string) *api {
	t.Helper()
	r := runDaemonWith(t, func(r *running, o *runOptions) { o.control = r.path("control") }, names...)
	a := &api{running: r, Client: control.NewClient(r.path("control"))}
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	a.events, err = a.Events(ctx, "")
	t.Cleanup(func() {
		cancel()
		if err == nil {
			_ = a.events.Close()
		}
	})
	r.must(err)
	return a
}

// want reads events of a port until there are as many as are wanted, and
// compares them: kind, and state behind a colon. The end of a connection comes
// whenever it does: a queue is freed beside it.
func (a *api) want(port string, want ...string) {
	a.t.Helper()
	var got []string
	for len(got) < len(want) {
		e, err := a.events.Next()
		if err != nil {
			a.t.Fatalf("events: %v; so far %v, want %v", err, got, want)
		}
		if e.Port != port || e.Kind == control.EventDisconnected {
			continue
		}
		word := e.Kind
		if e.State != "" {
			word += ":" + e.State
		}
		got = append(got, word)
	}
	if !slices.Equal(got, want) {
		a.t.Errorf("events of %s:\n%v, want\n%v", port, got, want)
	}
}

// status is the status of an error of the API.
func status(err error) string {
	if err == nil {
		return control.StatusSuccess
	}
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e.Status
	}
	return err.Error()
}

// bytes is what is allocated for a port.
func (a *api) bytes(port string) (n uint64) {
	a.t.Helper()
	m, err := a.Memory(a.t.Context())
	a.must(err)
	for _, q := range m.Allocations {
		if q.Port == port {
			n += q.Bytes
		}
	}
	return n
}

// A queue that is driven by hand, through all verbs: events come in order, what
// is allocated goes back to nothing, and each refusal has its status.
func TestManualQueue(t *testing.T) {
	a := runAPI(t, "web,queue=manual,mac=52:54:00:00:00:61", "db,mac=52:54:00:00:00:62")
	ctx := t.Context()
	web := connect(t, a.path("web"), vutest.Options{})
	db := connect(t, a.path("db"), vutest.Options{})
	exchange(t, web, db, 1)
	exchangeAs(t, db, web, 'a', 'b', 1) // learned: by queue 0's way
	if n := a.bytes("web"); n != 0 {
		t.Errorf("%d bytes are allocated for a port without a queue", n)
	}
	q, err := a.AllocateQueue(ctx, control.QueueRequest{Port: "web", Name: "first", SuggestedBuffers: 64})
	a.must(err)
	if q.Port != "web" || q.State != "Allocated" || q.OperationalState != "paused" || q.Name != "first" || q.SuggestedBuffers != 64 || q.Owner != "control API" {
		t.Errorf("allocated is %+v", q)
	}
	f, err := a.SetFilter(ctx, control.FilterRequest{Queue: q.ID, Address: control.Address{MAC: "52:54:00:00:00:61"}})
	a.must(err)
	done, err := a.CompleteQueues(ctx, []uint16{q.ID, 99, q.ID})
	a.must(err)
	if want := []control.Completion{
		{Queue: q.ID, Status: control.StatusSuccess, State: "Running"},
		{Queue: 99, Status: control.StatusInvalidParameter, Error: "complete: no queue 99"},
		{Queue: q.ID, Status: control.StatusInvalidParameter, State: "Running", Error: "complete: queue " + strconv.Itoa(int(q.ID)) + " (web) is Running"},
	}; !slices.Equal(done, want) {
		t.Errorf("completions %+v, want %+v", done, want)
	}
	if n := a.bytes("web"); n == 0 {
		t.Error("nothing is allocated for a queue that runs")
	}
	exchangeAs(t, db, web, 'a', 'b', 3)
	a.must(a.ClearFilter(ctx, f.ID))
	_, err = a.SetFilter(ctx, control.FilterRequest{Port: "web", Address: control.Address{MAC: "52:54:00:00:00:61", AnyVLAN: true}})
	a.must(err)
	name := "second"
	q, err = a.SetQueue(ctx, q.ID, control.QueueChange{Name: &name, Affinity: &[]int{0}})
	a.must(err)
	if q.Name != name || !slices.Equal(q.Affinity, []int{0}) || q.SuggestedBuffers != 64 {
		t.Errorf("changed is %+v", q)
	}
	for what, got := range map[string]error{
		"free with a filter":    a.FreeQueue(ctx, q.ID),
		"free of the session's": a.FreeQueue(ctx, a.queueOf("db")),
		"allocate for auto":     second(a.AllocateQueue(ctx, control.QueueRequest{Port: "db"})),
		"allocate for nobody":   second(a.AllocateQueue(ctx, control.QueueRequest{Port: "x"})),
		"worker 99":             second(a.SetQueue(ctx, q.ID, control.QueueChange{Affinity: &[]int{99}})),
		"worker 5":              second(a.SetQueue(ctx, q.ID, control.QueueChange{Affinity: &[]int{5}})),
		"a group":               second(a.SetFilter(ctx, control.FilterRequest{Queue: q.ID, Address: control.Address{MAC: "ff:ff:ff:ff:ff:ff"}})),
		"no address":            second(a.SetFilter(ctx, control.FilterRequest{Queue: q.ID, Address: control.Address{MAC: "x"}})),
		"port and queue":        second(a.SetFilter(ctx, control.FilterRequest{Port: "web", Queue: q.ID, Address: control.Address{MAC: "52:54:00:00:00:61"}})),
		"no such queue":         second(a.SetFilter(ctx, control.FilterRequest{Queue: 77, Address: control.Address{MAC: "52:54:00:00:00:61"}})),
	} {
		if status(got) != control.StatusInvalidParameter || strings.Contains(got.Error(), "queues: ") {
			t.Errorf("%s: %v, want %s", what, got, control.StatusInvalidParameter)
		}
	}
	if err := a.ClearFilter(ctx, 4711); status(err) != control.StatusFileNotFound {
		t.Errorf("a filter that is not there is cleared: %v", err)
	}
	web.Disconnect()
	a.must(a.DropFilter(ctx, "web", control.Address{MAC: "52:54:00:00:00:61", AnyVLAN: true}))
	a.must(a.FreeQueue(ctx, q.ID))
	a.want("web", "connected", "queue-state:Allocated", "queue-state:Set", "queue-state:Running", "queue-state:Paused", "queue-state:Running",
		"queue-state:Paused", "queue-state:StopDMA", "dma-stopped:Freeing", "queue-state:Undefined")
	if n := a.bytes("web"); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
}

func (a *api) queueOf(port string) uint16 {
	a.t.Helper()
	list, err := a.Ports(a.t.Context())
	a.must(err)
	for _, p := range list {
		if p.Name == port {
			return p.Queue
		}
	}
	a.t.Fatalf("no port %s", port)
	return 0
}

func second[T any](_ T, err error) error { return err }

// A port in the mode auto keeps filters that were set by the API; they move, and
// each is shown with who wants it.
func TestFiltersOfAutoPorts(t *testing.T) {
	a := runAPI(t, "web,mac=52:54:00:00:00:61", "db,mac=52:54:00:00:00:62")
	ctx := t.Context()
	macvlan := control.Address{MAC: "52:54:00:00:00:63"}
	waiting, err := a.SetFilter(ctx, control.FilterRequest{Port: "web", Address: macvlan})
	a.must(err)
	if waiting.ID != 0 || waiting.Queue != 0 || waiting.Origin != "control" {
		t.Errorf("without a VM: %+v", waiting)
	}
	web, db := connect(t, a.path("web"), vutest.Options{}), connect(t, a.path("db"), vutest.Options{})
	exchangeAs(t, db, web, 'c', 'b', 2)
	filters, err := a.Filters(ctx)
	a.must(err)
	at := slices.IndexFunc(filters, func(f control.Filter) bool { return f.Address == macvlan })
	if len(filters) != 3 || at < 0 || filters[at].ID == 0 || filters[at].Port != "web" {
		t.Fatalf("filters %+v", filters)
	}
	own := filters[slices.IndexFunc(filters, func(f control.Filter) bool { return f.Port == "web" && f.Origin == "configuration" })]
	if err := a.ClearFilter(ctx, own.ID); status(err) != control.StatusInvalidParameter {
		t.Errorf("the configuration's filter is cleared: %v", err)
	}
	moved, err := a.MoveFilter(ctx, filters[at].ID, a.queueOf("db"))
	a.must(err)
	if moved.ID != filters[at].ID || moved.Port != "db" || moved.Origin != "control" {
		t.Errorf("moved is %+v", moved)
	}
	exchangeAs(t, web, db, 'c', 'a', 2)
	db.Disconnect()
	waitFor(t, "the queue to be freed", func() bool { return len(a.adapter.EnumQueues()) == 2 })
	db = connect(t, a.path("db"), vutest.Options{})
	exchangeAs(t, web, db, 'c', 'a', 2) // set again
	a.must(a.DropFilter(ctx, "db", macvlan))
	if filters, err = a.Filters(ctx); err != nil || len(filters) != 2 {
		t.Errorf("filters %+v, %v", filters, err)
	}
}

// The API shows ports, the table and counters, and changes ports.
func TestPortsByAPI(t *testing.T) {
	a := runAPI(t, "web,mac=52:54:00:00:00:61", "fw,trunk=10+20-22,native=30,queue=manual,static=52:54:00:00:00:99/20", "watch,sink=on")
	ctx := t.Context()
	list, err := a.Ports(ctx)
	a.must(err)
	for _, want := range []control.Port{
		{Name: "web", Kind: "vm", Socket: a.path("web"), MAC: "52:54:00:00:00:61", Link: "up", QueueMode: "auto"},
		{Name: "watch", Kind: "vm", Socket: a.path("watch"), Link: "up", QueueMode: "auto", Options: map[string]string{"sink": "on"}},
		{
			Name: "fw", Kind: "vm", Socket: a.path("fw"), Link: "up", QueueMode: "manual",
			Options: map[string]string{"trunk": "10+20-22", "native": "30", "queue": "manual", "static": "52:54:00:00:00:99/20"},
		},
	} {
		at := slices.IndexFunc(list, func(p control.Port) bool { return p.Name == want.Name })
		if want.MAC == "" {
			want.MAC = list[at].MAC
		}
		if got := list[at]; !equalPorts(got, want) {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	table, err := a.Table(ctx)
	a.must(err)
	if want := (control.Entry{Address: control.Address{MAC: "52:54:00:00:00:99", VLAN: 20}, Kind: "static", Port: "fw"}); !slices.Contains(table, want) {
		t.Errorf("table %+v, want %+v in it", table, want)
	}
	db, err := a.AddPort(ctx, control.PortRequest{Name: "db", Socket: a.path("db"), Options: map[string]string{"mac": "52:54:00:00:00:62", "mirror": "watch"}})
	a.must(err)
	if db.Options["mirror"] != "watch" || db.MAC != "52:54:00:00:00:62" {
		t.Errorf("added is %+v", db)
	}
	web, fe := connect(t, a.path("web"), vutest.Options{}), connect(t, a.path("db"), vutest.Options{})
	exchangeAs(t, web, fe, 'b', 'a', 5)
	list, err = a.Ports(ctx)
	a.must(err)
	for _, p := range list {
		if p.Name != "web" {
			continue
		}
		if rings := p.Rings; len(rings) != 2 || rings[0].Polling != nil || rings[1].Polling == nil || gaps(rings[1].Polling) == 0 {
			t.Errorf("rings of a port that has sent: %+v", rings)
		}
	}
	if db, err = a.SetLink(ctx, "db", false); err != nil || db.Link != "down" {
		t.Errorf("%+v, %v", db, err)
	}
	a.must(web.Send(0, frame('b', 'a')))
	lost := func() uint64 {
		counters, err := a.Counters(ctx)
		a.must(err)
		return counters[slices.IndexFunc(counters, func(c control.Counters) bool { return c.Port == "db" })].Drops["link-down"]
	}
	waitFor(t, "the loss", func() bool { return lost() == 1 })
	_, err = a.SetLink(ctx, "db", true)
	a.must(err)
	exchangeAs(t, web, fe, 'b', 'a', 5)
	for what, err := range map[string]error{
		"again":        second(a.AddPort(ctx, control.PortRequest{Name: "db", Socket: a.path("x")})),
		"no name":      second(a.AddPort(ctx, control.PortRequest{Socket: a.path("x")})),
		"no path":      second(a.AddPort(ctx, control.PortRequest{Name: "x"})),
		"a descriptor": second(a.AddPort(ctx, control.PortRequest{Name: "x", Socket: "fd:0"})),
		"an option":    second(a.AddPort(ctx, control.PortRequest{Name: "x", Socket: a.path("x"), Options: map[string]string{"colour": "red"}})),
		"no port":      a.RemovePort(ctx, "x"),
		"link":         second(a.SetLink(ctx, "x", true)),
		"watched":      a.RemovePort(ctx, "watch"),
	} {
		if status(err) != control.StatusInvalidParameter || strings.Contains(err.Error(), "--port") {
			t.Errorf("%s: %v", what, err)
		}
	}
	a.must(a.RemovePort(ctx, "db"))
	a.want("db", "port-added", "connected", "queue-state:Allocated", "queue-state:Set", "queue-state:Running", "link:down", "link:up",
		"queue-state:Paused", "queue-state:StopDMA", "dma-stopped:Freeing", "queue-state:Undefined", "port-removed")
}

func equalPorts(a, b control.Port) bool {
	same := len(a.Options) == len(b.Options)
	for k, v := range a.Options {
		same = same && b.Options[k] == v
	}
	return same && a.Name == b.Name && a.Kind == b.Kind && a.Socket == b.Socket && a.MAC == b.MAC && a.Link == b.Link && a.QueueMode == b.QueueMode &&
		a.Connected == b.Connected && a.Queue == b.Queue
}

// What the API holds of a port goes with the port, and at the end of the
// program: also a queue that waits for a packet that somebody has.
func TestWhatTheAPIHoldsGoes(t *testing.T) {
	a := runAPI(t, "web,queue=manual", "db,queue=manual")
	ctx := t.Context()
	for _, name := range []string{"web", "db"} {
		connect(t, a.path(name), vutest.Options{})
		q, err := a.AllocateQueue(ctx, control.QueueRequest{Port: name})
		a.must(err)
		_, err = a.CompleteQueues(ctx, []uint16{q.ID})
		a.must(err)
		_, err = a.SetFilter(ctx, control.FilterRequest{Port: name, Address: control.Address{MAC: "52:54:00:00:00:61"}})
		a.must(err)
	}
	a.must(a.RemovePort(ctx, "web"))
	if n := len(a.adapter.EnumQueues()); n != 2 {
		t.Errorf("%d queues after the removal of a port, want queue 0 and that of the other", n)
	}
	a.must(a.end())
	if n := len(a.adapter.EnumQueues()); n != 1 {
		t.Errorf("%d queues after the end", n)
	}
}

// With a control socket a program may begin without ports, and go on when the
// last one has left.
func TestNoPortsYet(t *testing.T) {
	a := runAPI(t)
	for range 2 {
		a.must(second(a.AddPort(t.Context(), control.PortRequest{Name: "web", Socket: a.path("web")})))
		connect(t, a.path("web"), vutest.Options{})
		a.must(a.RemovePort(t.Context(), "web"))
	}
}

// Two programs do not share a control socket, and the file goes with its
// program.
func TestControlSocketIsOne(t *testing.T) {
	a := runAPI(t, "web")
	c, err := (&runOptions{
		workers: 1, socketMode: "0660", placement: "spread", output: "table", logFormat: "text", logLevel: "info",
		control: a.path("control"), ports: []string{"db=" + a.path("db")},
	}).parse()
	a.must(err)
	if _, err := build(c, newLogger(&text{}, c)); err == nil || !strings.Contains(err.Error(), "--control") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second program on the socket: %v", err)
	}
	if conn, err := net.Dial("unix", a.path("db")); err == nil {
		_ = conn.Close()
		t.Error("the second program's port is left")
	}
	a.must(a.end())
	if _, err := net.Dial("unix", a.path("control")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("after the end: %v", err)
	}
}

// A guest's part of the API is made by the same backend with another origin: it
// drops what is its own, and the operator's drops that, too.
func TestOriginsAreApart(t *testing.T) {
	a := runAPI(t, "web,mac=52:54:00:00:00:61")
	connect(t, a.path("web"), vutest.Options{})
	guest := &backend{d: a.daemon, origin: netdev.OriginGuest}
	address := control.Address{MAC: "52:54:00:00:00:63"}
	for _, drop := range []func() error{
		func() error { return guest.DropFilter("web", address) },
		func() error { return a.DropFilter(t.Context(), "web", address) },
	} {
		if f, err := guest.SetFilter(control.FilterRequest{Port: "web", Address: address}); err != nil || f.Origin != "guest" {
			t.Errorf("%+v, %v", f, err)
		}
		a.must(drop())
	}
	a.must(second(a.SetFilter(t.Context(), control.FilterRequest{Port: "web", Address: address})))
	if err := guest.DropFilter("web", address); status(err) != control.StatusInvalidParameter {
		t.Errorf("a guest drops the operator's filter: %v", err)
	}
}

// gaps is how many of a ring's gaps are known.
func gaps(p *control.Polling) uint64 { return p.Found + p.Vain + p.Unpolled }
