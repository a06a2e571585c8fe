package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"vhostnet/internal/sys"
)

// Each call of the Client arrives at the Backend as it was made, and its answer
// comes back.
func TestCallsArrive(t *testing.T) {
	l := newLab(t, HandlerOptions{})
	ctx := t.Context()
	name := "queue of web"
	mac := Address{MAC: "52:54:00:00:00:01"}
	for what, c := range map[string]struct {
		do   func() (any, error)
		want any // that the Backend was asked for
		gets any // that the caller got
	}{
		"ports":  {func() (any, error) { return l.client.Ports(ctx) }, nil, l.fake.ports},
		"add":    {func() (any, error) { return l.client.AddPort(ctx, PortRequest{Name: "x", Socket: "/s"}) }, PortRequest{Name: "x", Socket: "/s"}, Port{Name: "x", Socket: "/s"}},
		"remove": {func() (any, error) { return nil, l.client.RemovePort(ctx, "web") }, call{"remove", "web"}, nil},
		"link":   {func() (any, error) { return l.client.SetLink(ctx, "db", false) }, call{"link db", false}, l.fake.ports[1]},
		"queues": {func() (any, error) { return l.client.Queues(ctx) }, nil, l.fake.queues},
		"allocate": {
			func() (any, error) { return l.client.AllocateQueue(ctx, QueueRequest{Port: "web", Affinity: []int{1}}) },
			QueueRequest{Port: "web", Affinity: []int{1}},
			l.fake.queues[1],
		},
		"complete": {
			func() (any, error) { return l.client.CompleteQueues(ctx, []uint16{1, 7}) },
			[]uint16{1, 7},
			[]Completion{{Queue: 1, Status: StatusSuccess, State: "Paused"}, {Queue: 7, Status: StatusInvalidParameter}},
		},
		"set":      {func() (any, error) { return l.client.SetQueue(ctx, 1, QueueChange{Name: &name}) }, QueueChange{Name: &name}, l.fake.queues[1]},
		"free":     {func() (any, error) { return nil, l.client.FreeQueue(ctx, 1) }, call{"free", uint16(1)}, nil},
		"filters":  {func() (any, error) { return l.client.Filters(ctx) }, nil, l.fake.Filters()},
		"filter":   {func() (any, error) { return l.client.SetFilter(ctx, FilterRequest{Queue: 1, Address: mac}) }, FilterRequest{Queue: 1, Address: mac}, Filter{ID: 5}},
		"clear":    {func() (any, error) { return nil, l.client.ClearFilter(ctx, 5) }, call{"clear", uint32(5)}, nil},
		"drop":     {func() (any, error) { return nil, l.client.DropFilter(ctx, "web", mac) }, call{"drop web", mac}, nil},
		"drop any": {func() (any, error) { return nil, l.client.DropFilter(ctx, "web", Address{MAC: "m", AnyVLAN: true}) }, call{"drop web", Address{MAC: "m", AnyVLAN: true}}, nil},
		"drop 10":  {func() (any, error) { return nil, l.client.DropFilter(ctx, "web", Address{MAC: "m", VLAN: 10}) }, call{"drop web", Address{MAC: "m", VLAN: 10}}, nil},
		"move":     {func() (any, error) { return l.client.MoveFilter(ctx, 5, 3) }, call{"move", []uint32{5, 3}}, l.fake.Filters()[0]},
		"forwards": {func() (any, error) { return l.client.Forwards(ctx) }, nil, l.fake.Forwards()},
		"forward": {
			func() (any, error) {
				return l.client.AddForward(ctx, ForwardRequest{Network: "tcp", Listen: "unix:/a b", Guest: "10.0.2.15:80"})
			},
			ForwardRequest{Network: "tcp", Listen: "unix:/a b", Guest: "10.0.2.15:80"},
			Forward{Network: "tcp", Listen: "unix:/a b", Port: "out"},
		},
		"close v6":   {func() (any, error) { return nil, l.client.RemoveForward(ctx, "udp", "[::1]:53") }, call{"close udp", "[::1]:53"}, nil},
		"close path": {func() (any, error) { return nil, l.client.RemoveForward(ctx, "tcp", "unix:/a/../%b?#//c") }, call{"close tcp", "unix:/a/../%b?#//c"}, nil},
		"memory":     {func() (any, error) { return l.client.Memory(ctx) }, nil, MemoryReport{Total: 3, Note: MemoryNote}},
		"table":      {func() (any, error) { return l.client.Table(ctx) }, nil, l.fake.Table()},
		"counters":   {func() (any, error) { return l.client.Counters(ctx) }, nil, l.fake.Counters()},
		"can":        {func() (any, error) { return l.client.Capabilities(ctx) }, nil, Capabilities{}},
	} {
		got, err := c.do()
		if err != nil || !reflect.DeepEqual(got, c.gets) {
			t.Errorf("%s: %+v, %v; want %+v", what, got, err, c.gets)
		}
		asked := l.fake.take()
		if c.want == nil && len(asked) == 0 {
			continue
		}
		if len(asked) != 1 || !reflect.DeepEqual(asked[0], c.want) {
			t.Errorf("%s: the backend was asked for %+v, want %+v", what, asked, c.want)
		}
	}
}

// An error comes to the caller with its status, its sentence and its HTTP code.
func TestErrors(t *testing.T) {
	l := newLab(t, HandlerOptions{})
	l.fake.err = Errorf(StatusResources, "all queues are in use")
	_, err := l.client.AllocateQueue(t.Context(), QueueRequest{Port: "web"})
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != StatusResources || e.Message != "all queues are in use" || e.Code != http.StatusConflict {
		t.Errorf("%+v (%v)", e, err)
	}
	l.fake.err = errors.New("something else")
	if e, ok := errors.AsType[*Error](l.client.RemovePort(t.Context(), "web")); !ok || e.Status != StatusFailure || e.Code != http.StatusInternalServerError {
		t.Errorf("%+v", e)
	}
	_ = l.end()
	if _, err := l.client.Ports(t.Context()); err == nil || !strings.Contains(err.Error(), "no answer from "+l.path) {
		t.Errorf("of a daemon that is gone: %v", err)
	}
}

// say sends a request as it is.
func (l *lab) say(method, path, text string) (code int, answer string, header http.Header) {
	l.t.Helper()
	r, err := http.NewRequestWithContext(l.t.Context(), method, "http://x"+path, strings.NewReader(text))
	l.must(err)
	resp, err := l.client.http.Do(r)
	l.must(err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	l.must(err)
	return resp.StatusCode, string(b), resp.Header
}

// Requests that make no sense are refused with a sentence, and nothing is asked
// of the Backend.
func TestRequestsThatMakeNoSense(t *testing.T) {
	l := newLab(t, HandlerOptions{Body: 100})
	for _, c := range []struct {
		method, path, body string
		code               int
		words              string
	}{
		{"GET", "/v2/ports", "", 404, "GET /openapi.yaml"},
		{"PATCH", "/v1/ports", "{}", 405, "GET, HEAD, POST"},
		{"POST", "/v1/ports", "", 400, "GET /openapi.yaml"},
		{"POST", "/v1/ports", "{", 400, StatusInvalidParameter},
		{"POST", "/v1/ports", `{"name":"a","colour":"red"}`, 400, "colour"},
		{"POST", "/v1/ports", `{"name":7}`, 400, "name"},
		{"POST", "/v1/ports", `{} {}`, 400, "more than one"},
		{"POST", "/v1/ports", `{"name":"` + strings.Repeat("x", 200) + `"}`, 413, `"needed":100`},
		{"POST", "/v1/queues/complete", `{"queues":[70000]}`, 400, "queues"},
		{"GET", "/v1/ports/nobody", "", 404, "nobody"},
		{"GET", "/v1/queues/9", "", 404, "queue 9"},
		{"GET", "/v1/queues/70000", "", 400, "70000"},
		{"DELETE", "/v1/queues/x", "", 400, "want its number"},
		{"GET", "/v1/filters/0", "", 404, "filter 0"},
		{"GET", "/v1/filters/6", "", 404, "filter 6"},
		{"DELETE", "/v1/ports/web/filters/m?vlan=x", "", 400, "vlan=x"},
		{"GET", "/v1/queues?room=1", "", 400, `"needed":2`},
		{"GET", "/v1/queues?room=-1", "", 400, "room=-1"},
	} {
		code, answer, header := l.say(c.method, c.path, c.body)
		if code != c.code || !strings.Contains(answer, c.words) || !strings.Contains(answer, `"status":"NDIS_`) || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %s: %d %s; want %d with %q", c.method, c.path, c.body, code, answer, c.code, c.words)
		}
	}
	if asked := l.fake.take(); len(asked) != 0 {
		t.Errorf("the backend was asked for %+v", asked)
	}
	for path, want := range map[string]string{
		"/v1/queues?room=2":          `[{"id":0`,
		"/v1/queues?port=web":        `[{"id":1`,
		"/v1/queues?port=x":          "[]",
		"/v1/filters?queue=1":        `"id":5`,
		"/v1/filters?port=db":        `[{"queue":0`,
		"/openapi.yaml":              "openapi: 3",
		"/v1/filters?port=db&room=1": `[{"queue":0`,
	} {
		if code, answer, _ := l.say("GET", path, ""); code != 200 || !strings.Contains(answer, want) {
			t.Errorf("GET %s: %d %s; want %q", path, code, answer, want)
		}
	}
}

// A FREE_QUEUE that waits is answered as pending.
func TestFreeIsPending(t *testing.T) {
	l := newLab(t, HandlerOptions{FreeWait: time.Nanosecond})
	l.fake.waits = make(chan struct{})
	e, ok := errors.AsType[*Error](l.client.FreeQueue(t.Context(), 1))
	if !ok || e.Status != StatusPending || e.Code != http.StatusAccepted {
		t.Errorf("%+v", e)
	}
}

// Strangers are told that they may not.
func TestWhoMayAsk(t *testing.T) {
	if err := admits(sys.Credentials{UID: 0}); err != nil {
		t.Error("root: ", err)
	}
	f := &fake{}
	l := serve(t, f, NewHandler(f, HandlerOptions{}), func(s *Server) {
		s.admits = func(who sys.Credentials) error { who.UID += 100000; return admits(who) }
	})
	_, err := l.client.Ports(t.Context())
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != http.StatusForbidden || !strings.Contains(e.Message, "may not use this socket; root ") {
		t.Errorf("a stranger: %v", err)
	}
}

// What embeds Nothing opens what it says and no more.
func TestRestrictedBackend(t *testing.T) {
	f := &fake{}
	l := serve(t, f, NewHandler(own{}, HandlerOptions{}), nil)
	ctx := t.Context()
	if q, err := l.client.Queues(ctx); err != nil || len(q) != 1 {
		t.Errorf("its own queue: %v, %v", q, err)
	}
	refused := map[string]error{
		"remove": l.client.RemovePort(ctx, "web"), "free": l.client.FreeQueue(ctx, 1), "clear": l.client.ClearFilter(ctx, 1),
		"drop": l.client.DropFilter(ctx, "web", Address{MAC: "m"}),
	}
	_, refused["add"] = l.client.AddPort(ctx, PortRequest{})
	_, refused["link"] = l.client.SetLink(ctx, "web", false)
	_, refused["allocate"] = l.client.AllocateQueue(ctx, QueueRequest{})
	_, refused["set"] = l.client.SetQueue(ctx, 1, QueueChange{})
	_, refused["filter"] = l.client.SetFilter(ctx, FilterRequest{})
	_, refused["move"] = l.client.MoveFilter(ctx, 1, 1)
	_, refused["events"] = l.client.Events(ctx, "")
	for what, err := range refused {
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != http.StatusForbidden {
			t.Errorf("%s: %v", what, err)
		}
	}
	done, err := l.client.CompleteQueues(ctx, []uint16{1})
	if err != nil || len(done) != 1 || done[0].Status != StatusNotAccepted {
		t.Errorf("complete: %v, %v", done, err)
	}
	if ports, err := l.client.Ports(ctx); err != nil || len(ports) != 0 {
		t.Errorf("ports: %v, %v", ports, err)
	}
}

type own struct{ Nothing }

func (own) Queues() []Queue { return []Queue{{ID: 1}} }

// A caller that sends half a request, or half a body, loses its connection and
// keeps nobody else from being answered.
func TestStuckCaller(t *testing.T) {
	l := newLab(t, HandlerOptions{Patience: 50 * time.Millisecond})
	for _, half := range []string{"", "GET /v1/po", "POST /v1/ports HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"} {
		c, err := net.Dial("unix", l.path)
		l.must(err)
		defer c.Close()
		_, err = io.WriteString(c, half)
		l.must(err)
		if _, err := l.client.Ports(t.Context()); err != nil {
			t.Errorf("another caller while one stands at %q: %v", half, err)
		}
		if strings.HasPrefix(half, "POST") {
			l.must(c.SetReadDeadline(time.Now().Add(patience)))
			if b, err := io.ReadAll(c); err != nil || !strings.Contains(string(b), "400 Bad Request") {
				t.Errorf("half a body is answered with %q, %v", b, err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- l.end() }()
	select {
	case err := <-done:
		l.must(err)
	case <-ctx.Done():
		t.Fatal("the server does not end while callers stand still")
	}
}

// An answer's time begins with the answer: neither a verb that waits nor a pause
// between two requests of one connection is held against the caller.
func TestPatienceBeginsWithTheAnswer(t *testing.T) {
	const patience = 20 * time.Millisecond
	l := newLab(t, HandlerOptions{Patience: patience, FreeWait: time.Minute})
	l.fake.waits = make(chan struct{})
	h := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", l.path) }}}
	defer h.CloseIdleConnections()
	free := time.AfterFunc(5*patience, func() { close(l.fake.waits) })
	defer free.Stop()
	for _, c := range []struct {
		method, path, body string
		code               int
	}{
		{"POST", "/v1/queues/complete", `{"queues":[1]}`, 200},
		{"DELETE", "/v1/queues/1", "", 204},
		{"DELETE", "/v1/ports/web", "", 204},
		{"PATCH", "/v1/queues/1", "{}", 200},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, "http://x"+c.path, strings.NewReader(c.body))
		l.must(err)
		resp, err := h.Do(r)
		l.must(err)
		_, err = io.Copy(io.Discard, resp.Body)
		l.must(errors.Join(err, resp.Body.Close()))
		if resp.StatusCode != c.code {
			t.Errorf("%s %s: %s, want %d", c.method, c.path, resp.Status, c.code)
		}
		time.Sleep(3 * patience) // on the same connection, longer than the one before had for its answer
	}
}
