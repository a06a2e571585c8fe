package control

import (
	"encoding/json"
	"net/http"
	"time"
)

// stream tells events, a line of JSON each, until the caller leaves, or does not
// read for a while, or the server ends. It holds nothing meanwhile but its
// place.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request) {
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		e := Errorf(StatusResources, "there are %d streams of events already, which is as many as there can be", cap(h.streams))
		e.Code = http.StatusServiceUnavailable
		h.fail(w, e)
		return
	}
	s := h.b.Subscribe(r.URL.Query().Get("port"))
	if s == nil {
		h.fail(w, errNotYours)
		return
	}
	defer s.Close()
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	out := lines{w, http.NewResponseController(w), h.o.Patience}
	if out.flush() != nil { // whoever has the header misses nothing from here on
		return
	}
	for {
		e, err := s.Next(r.Context())
		if err != nil || out.tell(e) != nil {
			return
		}
	}
}

// lines writes events to a caller that may be stuck.
type lines struct {
	w        http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
}

func (l *lines) tell(e Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := l.control.SetWriteDeadline(time.Now().Add(l.patience)); err != nil {
		return err
	}
	if _, err := l.w.Write(append(b, '\n')); err != nil {
		return err
	}
	return l.control.Flush()
}

func (l *lines) flush() error {
	if err := l.control.SetWriteDeadline(time.Now().Add(l.patience)); err != nil {
		return err
	}
	return l.control.Flush()
}
