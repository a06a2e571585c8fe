package control

import (
	"context"
	"net/http"
	"strconv"
)

func (h *Handler) listPorts(r *http.Request) (any, error) { return list(r, h.b.Ports()) }

func (h *Handler) addPort(r *http.Request) (any, error) {
	q, err := body[PortRequest](r)
	if err != nil {
		return nil, err
	}
	return result(h.b.AddPort(q))
}

// result is an answer, or the error in its place.
func result[T any](v T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

func (h *Handler) showPort(r *http.Request) (any, error) { return h.port(r.PathValue("port")) }

// port is one port, by its name.
func (h *Handler) port(name string) (any, error) {
	for _, p := range h.b.Ports() {
		if p.Name == name {
			return p, nil
		}
	}
	return nil, noPort(name)
}

func noPort(name string) *Error {
	e := Errorf(StatusInvalidParameter, "there is no port %s", name)
	e.Code = http.StatusNotFound
	return e
}

func (h *Handler) removePort(r *http.Request) (any, error) {
	return nil, h.b.RemovePort(r.PathValue("port"))
}

func (h *Handler) setLink(r *http.Request) (any, error) {
	q, err := body[LinkRequest](r)
	if err != nil {
		return nil, err
	}
	if err := h.b.SetLink(r.Context(), r.PathValue("port"), q.Up); err != nil {
		return nil, err
	}
	return h.port(r.PathValue("port"))
}

func (h *Handler) listQueues(r *http.Request) (any, error) {
	all, port := h.b.Queues(), r.URL.Query().Get("port")
	if port == "" {
		return list(r, all)
	}
	var some []Queue
	for _, q := range all {
		if q.Port == port {
			some = append(some, q)
		}
	}
	return list(r, some)
}

func (h *Handler) allocateQueue(r *http.Request) (any, error) {
	q, err := body[QueueRequest](r)
	if err != nil {
		return nil, err
	}
	id, err := h.b.AllocateQueue(q)
	if err != nil {
		return nil, err
	}
	return h.queue(id)
}

func (h *Handler) showQueue(r *http.Request) (any, error) {
	id, err := number(r, "queue", 16)
	if err != nil {
		return nil, err
	}
	return h.queue(uint16(id))
}

func (h *Handler) queue(id uint16) (any, error) {
	for _, q := range h.b.Queues() {
		if q.ID == id {
			return q, nil
		}
	}
	return nil, noQueue(id)
}

func noQueue(id uint16) *Error {
	e := Errorf(StatusInvalidParameter, "there is no queue %d", id)
	e.Code = http.StatusNotFound
	return e
}

// maxBatch bounds a batch of completions.
const maxBatch = 4096

func (h *Handler) completeQueues(r *http.Request) (any, error) {
	q, err := body[CompletionRequest](r)
	if err != nil {
		return nil, err
	}
	if len(q.Queues) > maxBatch {
		e := Errorf(StatusInvalidLength, "a batch of %d queues; %d are possible", len(q.Queues), maxBatch)
		e.Needed = maxBatch
		return nil, e
	}
	done := h.b.CompleteQueues(q.Queues)
	if done == nil {
		done = []Completion{}
	}
	return done, nil
}

func (h *Handler) setQueue(r *http.Request) (any, error) {
	id, err := number(r, "queue", 16)
	if err != nil {
		return nil, err
	}
	c, err := body[QueueChange](r)
	if err != nil {
		return nil, err
	}
	if err := h.b.SetQueue(uint16(id), c); err != nil {
		return nil, err
	}
	return h.queue(uint16(id))
}

func (h *Handler) freeQueue(r *http.Request) (any, error) {
	id, err := number(r, "queue", 16)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.o.FreeWait)
	defer cancel()
	return nil, h.b.FreeQueue(ctx, uint16(id))
}

func (h *Handler) listFilters(r *http.Request) (any, error) {
	query := r.URL.Query()
	port, queue := query.Get("port"), query.Get("queue")
	var some []Filter
	for _, f := range h.b.Filters() {
		if (port == "" || f.Port == port) && (queue == "" || queue == strconv.Itoa(int(f.Queue))) {
			some = append(some, f)
		}
	}
	return list(r, some)
}

func (h *Handler) setFilter(r *http.Request) (any, error) {
	q, err := body[FilterRequest](r)
	if err != nil {
		return nil, err
	}
	return result(h.b.SetFilter(q))
}

func (h *Handler) showFilter(r *http.Request) (any, error) {
	id, err := number(r, "filter", 32)
	if err != nil {
		return nil, err
	}
	return h.filter(uint32(id))
}

func (h *Handler) filter(id uint32) (any, error) {
	for _, f := range h.b.Filters() {
		if id != 0 && f.ID == id {
			return f, nil
		}
	}
	return nil, noFilter(id)
}

func noFilter(id uint32) *Error {
	e := Errorf(StatusInvalidParameter, "there is no filter %d", id)
	e.Code = http.StatusNotFound
	return e
}

func (h *Handler) clearFilter(r *http.Request) (any, error) {
	id, err := number(r, "filter", 32)
	if err != nil {
		return nil, err
	}
	return nil, h.b.ClearFilter(uint32(id))
}

func (h *Handler) moveFilter(r *http.Request) (any, error) {
	id, err := number(r, "filter", 32)
	if err != nil {
		return nil, err
	}
	m, err := body[MoveRequest](r)
	if err != nil {
		return nil, err
	}
	if err := h.b.MoveFilter(r.Context(), uint32(id), m.Queue); err != nil {
		return nil, err
	}
	return h.filter(uint32(id))
}

// dropFilter takes the VLAN from the query: a number, or any.
func (h *Handler) dropFilter(r *http.Request) (any, error) {
	a := Address{MAC: r.PathValue("mac")}
	switch vlan := r.URL.Query().Get("vlan"); vlan {
	case "":
	case "any":
		a.AnyVLAN = true
	default:
		n, err := strconv.ParseUint(vlan, 10, 16)
		if err != nil {
			return nil, Errorf(StatusInvalidParameter, "vlan=%s: want a VLAN's number, or any", vlan)
		}
		a.VLAN = uint16(n)
	}
	return nil, h.b.DropFilter(r.PathValue("port"), a)
}

func (h *Handler) listForwards(r *http.Request) (any, error) {
	all, port := h.b.Forwards(), r.URL.Query().Get("port")
	if port == "" {
		return list(r, all)
	}
	var some []Forward
	for _, f := range all {
		if f.Port == port {
			some = append(some, f)
		}
	}
	return list(r, some)
}

func (h *Handler) addForward(r *http.Request) (any, error) {
	q, err := body[ForwardRequest](r)
	if err != nil {
		return nil, err
	}
	return result(h.b.AddForward(q))
}

func (h *Handler) removeForward(r *http.Request) (any, error) {
	return nil, h.b.RemoveForward(r.PathValue("network"), r.PathValue("listen"))
}

func (h *Handler) capabilities(*http.Request) (any, error) { return h.b.Capabilities(), nil }
func (h *Handler) memory(*http.Request) (any, error)       { return h.b.Memory(), nil }
func (h *Handler) table(r *http.Request) (any, error)      { return list(r, h.b.Table()) }
func (h *Handler) counters(r *http.Request) (any, error)   { return list(r, h.b.Counters()) }
