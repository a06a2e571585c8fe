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
	s := h.b.Subscribe()
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
	port := r.URL.Query().Get("port")
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-s.Events():
			if out.tell(s.Lost(e), e, port) != nil {
				return
			}
		}
	}
}

// lines writes events to a caller that may be stuck.
type lines struct {
	w        http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
}

// tell writes an event, after how many were lost before it. With a port it is
// that port's events only.
func (l *lines) tell(lost uint64, e Event, port string) error {
	if lost > 0 {
		if err := l.line(Event{Time: e.Time, Kind: EventLost, Count: lost}); err != nil {
			return err
		}
	}
	if port != "" && e.Port != port {
		return nil
	}
	return l.line(e)
}

func (l *lines) line(e Event) error {
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
