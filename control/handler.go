package control

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// openAPI describes the interface to people and to programs that generate
// clients.
//
//go:embed openapi.yaml
var openAPI []byte

// Handler serves a Backend's requests. It has no goroutine of its own.
type Handler struct {
	b       Backend
	o       HandlerOptions
	streams chan struct{} // a token for each stream of events
	mux     *http.ServeMux
}

// HandlerOptions bound what callers may ask for. The zero value is good.
type HandlerOptions struct {
	Streams  int           // of events at a time; 0: 16
	Body     int64         // bytes of a request; 0: 64 KiB
	Patience time.Duration // for a caller that does not send or read; 0: 5 s
	// FreeWait is how long a FREE_QUEUE may wait before the answer is PENDING;
	// 0: 5 s.
	FreeWait time.Duration
	// Extra are further routes, by pattern (http.ServeMux), that the OpenAPI
	// document does not describe: metrics, say.
	Extra map[string]http.Handler
}

const (
	defaultStreams  = 16
	defaultBody     = 64 << 10
	defaultPatience = 5 * time.Second
)

// route is a method and path, and what answers. What it returns is the answer
// in JSON; nil is 204 No Content.
type route struct {
	pattern string
	do      func(h *Handler, r *http.Request) (any, error)
}

// routes are all that is answered in one piece. openapi.yaml describes each.
var routes = []route{
	{"GET /v1/ports", (*Handler).listPorts},
	{"POST /v1/ports", (*Handler).addPort},
	{"GET /v1/ports/{port}", (*Handler).showPort},
	{"DELETE /v1/ports/{port}", (*Handler).removePort},
	{"PUT /v1/ports/{port}/link", (*Handler).setLink},
	{"GET /v1/queues", (*Handler).listQueues},
	{"POST /v1/queues", (*Handler).allocateQueue},
	{"POST /v1/queues/complete", (*Handler).completeQueues},
	{"GET /v1/queues/{queue}", (*Handler).showQueue},
	{"PATCH /v1/queues/{queue}", (*Handler).setQueue},
	{"DELETE /v1/queues/{queue}", (*Handler).freeQueue},
	{"GET /v1/filters", (*Handler).listFilters},
	{"POST /v1/filters", (*Handler).setFilter},
	{"GET /v1/filters/{filter}", (*Handler).showFilter},
	{"DELETE /v1/filters/{filter}", (*Handler).clearFilter},
	{"POST /v1/filters/{filter}/move", (*Handler).moveFilter},
	{"DELETE /v1/ports/{port}/filters/{mac}", (*Handler).dropFilter},
	{"GET /v1/forwards", (*Handler).listForwards},
	{"POST /v1/forwards", (*Handler).addForward},
	{"DELETE /v1/forwards/{network}/{listen}", (*Handler).removeForward},
	{"GET /v1/capabilities", (*Handler).capabilities},
	{"GET /v1/memory", (*Handler).memory},
	{"GET /v1/table", (*Handler).table},
	{"GET /v1/counters", (*Handler).counters},
}

// NewHandler makes a Handler for a Backend.
func NewHandler(b Backend, o HandlerOptions) *Handler {
	if o.Streams == 0 {
		o.Streams = defaultStreams
	}
	if o.Body == 0 {
		o.Body = defaultBody
	}
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	if o.FreeWait == 0 {
		o.FreeWait = defaultPatience
	}
	h := &Handler{b: b, o: o, streams: make(chan struct{}, o.Streams), mux: http.NewServeMux()}
	for _, r := range routes {
		h.mux.HandleFunc(r.pattern, func(w http.ResponseWriter, q *http.Request) { h.answer(w, q, r.do) })
	}
	h.mux.HandleFunc("GET /v1/events", h.stream)
	h.mux.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		write(w, h.o.Patience, http.StatusOK, "application/yaml", openAPI)
	})
	for pattern, extra := range o.Extra {
		h.mux.HandleFunc(pattern, func(w http.ResponseWriter, q *http.Request) {
			h.bound(w)
			extra.ServeHTTP(w, q)
		})
	}
	return h
}

// ServeHTTP answers a request. Its body is read first, whatever is asked for: one
// that does not come must not hold anything.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.take(w, r); err != nil {
		h.fail(w, asError(err))
		return
	}
	if _, pattern := h.mux.Handler(r); pattern == "" {
		h.unknown(w, r)
		return
	}
	h.mux.ServeHTTP(w, r)
}

// unknown answers a path or a method that is not there, in JSON as the others.
func (h *Handler) unknown(w http.ResponseWriter, r *http.Request) {
	seen := &headerOnly{header: http.Header{}}
	h.mux.ServeHTTP(seen, r)
	e := Errorf(StatusNotSupported, "there is no %s %s; GET /openapi.yaml describes what there is", r.Method, r.URL.Path)
	e.Code = seen.code
	if allow := seen.header.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
		e.Message = fmt.Sprintf("%s takes %s, not %s", r.URL.Path, allow, r.Method)
	}
	h.fail(w, e)
}

// headerOnly is where the mux writes the answer to a request that it does not
// know.
type headerOnly struct {
	header http.Header
	code   int
}

func (o *headerOnly) Header() http.Header         { return o.header }
func (o *headerOnly) Write(b []byte) (int, error) { return len(b), nil }
func (o *headerOnly) WriteHeader(code int)        { o.code = code }

// answer does a request in one piece.
func (h *Handler) answer(w http.ResponseWriter, r *http.Request, do func(*Handler, *http.Request) (any, error)) {
	result, err := do(h, r)
	if err != nil {
		h.fail(w, asError(err))
		return
	}
	if result == nil {
		h.bound(w)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	writeJSON(w, h.o.Patience, http.StatusOK, result)
}

// take reads a request's body, bounded in length and time. From then on nothing
// more is expected of the caller, and waiting for its end has no bound.
func (h *Handler) take(w http.ResponseWriter, r *http.Request) error {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(h.o.Patience)); err != nil {
		return fmt.Errorf("bound the request: %w", err)
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.o.Body))
	if err != nil {
		return badBody(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	if err := control.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("wait for the end of the caller: %w", err)
	}
	return nil
}

// bound gives a caller until now and a while to read its answer.
func (h *Handler) bound(w http.ResponseWriter) { bound(w, h.o.Patience) }

func bound(w http.ResponseWriter, patience time.Duration) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(patience)) // not every writer has one
}

// body decodes a request's body, which is one JSON value.
func body[T any](r *http.Request) (v T, err error) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, badBody(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return v, Errorf(StatusInvalidParameter, "the request has more than one JSON value")
	}
	return v, nil
}

func badBody(err error) error {
	if long, ok := errors.AsType[*http.MaxBytesError](err); ok {
		e := Errorf(StatusInvalidLength, "the request is too long; it may have %d bytes", long.Limit)
		e.Needed, e.Code = int(long.Limit), http.StatusRequestEntityTooLarge
		return e
	}
	return Errorf(StatusInvalidParameter, "the request is not what GET /openapi.yaml describes: %v", err)
}

// list is a list as an answer. A caller may say how many elements it has room
// for; with less than there are it gets none, and how many there are.
func list[T any](r *http.Request, all []T) (any, error) {
	if all == nil {
		all = []T{}
	}
	s := r.URL.Query().Get("room")
	if s == "" {
		return all, nil
	}
	room, err := strconv.Atoi(s)
	switch {
	case err != nil || room < 0:
		return nil, Errorf(StatusInvalidParameter, "room=%s: want a number of elements", s)
	case room < len(all):
		e := Errorf(StatusInvalidLength, "there is room for %d elements, %d are needed", room, len(all))
		e.Needed = len(all)
		return nil, e
	}
	return all, nil
}

// number is a number in the path.
func number(r *http.Request, name string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(r.PathValue(name), 10, bits)
	if err != nil {
		return 0, Errorf(StatusInvalidParameter, "%s %q: want its number", name, r.PathValue(name))
	}
	return n, nil
}

func (h *Handler) fail(w http.ResponseWriter, e *Error) { writeJSON(w, h.o.Patience, e.code(), e) }

func writeJSON(w http.ResponseWriter, patience time.Duration, code int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // no type here makes it fail
		code, b = http.StatusInternalServerError, []byte(`{"status":"`+StatusFailure+`","error":"the answer cannot be written as JSON"}`)
	}
	write(w, patience, code, "application/json", append(b, '\n'))
}

// write writes an answer. A caller that does not read it loses its connection.
func write(w http.ResponseWriter, patience time.Duration, code int, kind string, b []byte) {
	bound(w, patience)
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(code)
	_, _ = w.Write(b) // whoever does not take it has gone
}
