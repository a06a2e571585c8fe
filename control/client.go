package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
)

// Client speaks to a control socket. Its methods may be called from any
// goroutine. An error that the daemon answered with is an [*Error].
type Client struct {
	path string // of the socket, for errors
	hint string // what to look at when nobody answers
	http *http.Client
}

// NewClient makes a Client for the socket at path. It connects when it is used.
func NewClient(path string) *Client {
	return NewClientOver(path, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	})
}

// NewClientOver is NewClient for a way to connect of the caller's; where names
// it in errors.
func NewClientOver(where string, dial func(ctx context.Context) (net.Conn, error)) *Client {
	hint := "is vhostnet running with --control " + where + ", and may you use it?"
	return &Client{path: where, hint: hint, http: &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true, // a Client that is forgotten leaves nothing open
	}}}
}

// call sends a request and decodes the answer into out, nil: there is none.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("control: answer of %s to %s %s: %w", c.path, method, path, err)
	}
	return nil
}

// maxAnswer bounds an error that is read.
const maxAnswer = 64 << 10

// send answers a response that is none of an error.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var b io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("control: %s %s: %w", method, path, err)
		}
		b = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://vhostnet"+path, b)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("control: no answer from %s; %s %w", c.path, c.hint, bare(err))
	}
	if resp.StatusCode < 300 && resp.StatusCode != http.StatusAccepted {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	e := &Error{Code: resp.StatusCode}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(e); err != nil || e.Message == "" {
		return nil, fmt.Errorf("control: %s answers %s to %s %s", c.path, resp.Status, method, path)
	}
	return nil, e
}

// bare is what went wrong, without the URL that nobody has asked for.
func bare(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

func get[T any](ctx context.Context, c *Client, path string) (v T, err error) {
	return v, c.call(ctx, http.MethodGet, path, nil, &v)
}

// Ports lists the ports.
func (c *Client) Ports(ctx context.Context) ([]Port, error) { return get[[]Port](ctx, c, "/v1/ports") }

// AddPort adds a port.
func (c *Client) AddPort(ctx context.Context, r PortRequest) (p Port, err error) {
	return p, c.call(ctx, http.MethodPost, "/v1/ports", r, &p)
}

// RemovePort removes a port, with its VM's connection.
func (c *Client) RemovePort(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/ports/"+url.PathEscape(name), nil, nil)
}

// SetLink takes a port's link up or down.
func (c *Client) SetLink(ctx context.Context, name string, up bool) (p Port, err error) {
	return p, c.call(ctx, http.MethodPut, "/v1/ports/"+url.PathEscape(name)+"/link", LinkRequest{up}, &p)
}

// Queues lists the queues; number 0 is first.
func (c *Client) Queues(ctx context.Context) ([]Queue, error) {
	return get[[]Queue](ctx, c, "/v1/queues")
}

// AllocateQueue allocates a queue for a port.
func (c *Client) AllocateQueue(ctx context.Context, r QueueRequest) (q Queue, err error) {
	return q, c.call(ctx, http.MethodPost, "/v1/queues", r, &q)
}

// CompleteQueues ends a batch of allocations; each queue has its own status.
func (c *Client) CompleteQueues(ctx context.Context, ids []uint16) (list []Completion, err error) {
	return list, c.call(ctx, http.MethodPost, "/v1/queues/complete", CompletionRequest{ids}, &list)
}

// SetQueue changes a queue's parameters.
func (c *Client) SetQueue(ctx context.Context, id uint16, change QueueChange) (q Queue, err error) {
	return q, c.call(ctx, http.MethodPatch, queuePath(id), change, &q)
}

// FreeQueue frees a queue. An error with StatusPending says that it goes on.
func (c *Client) FreeQueue(ctx context.Context, id uint16) error {
	return c.call(ctx, http.MethodDelete, queuePath(id), nil, nil)
}

func queuePath(id uint16) string { return "/v1/queues/" + formatID(id) }

func formatID(id uint16) string { return strconv.Itoa(int(id)) }

// Filters lists the filters that are set, and those that ports want.
func (c *Client) Filters(ctx context.Context) ([]Filter, error) {
	return get[[]Filter](ctx, c, "/v1/filters")
}

// SetFilter sets a filter on a queue, or on that of a port.
func (c *Client) SetFilter(ctx context.Context, r FilterRequest) (f Filter, err error) {
	return f, c.call(ctx, http.MethodPost, "/v1/filters", r, &f)
}

// ClearFilter clears a filter.
func (c *Client) ClearFilter(ctx context.Context, id uint32) error {
	return c.call(ctx, http.MethodDelete, filterPath(id), nil, nil)
}

// DropFilter clears a filter that a port wants, whether it is set or not.
func (c *Client) DropFilter(ctx context.Context, port string, a Address) error {
	path := "/v1/ports/" + url.PathEscape(port) + "/filters/" + url.PathEscape(a.MAC)
	switch {
	case a.AnyVLAN:
		path += "?vlan=any"
	case a.VLAN != 0:
		path += "?vlan=" + strconv.Itoa(int(a.VLAN))
	}
	return c.call(ctx, http.MethodDelete, path, nil, nil)
}

// MoveFilter moves a filter to another queue.
func (c *Client) MoveFilter(ctx context.Context, id uint32, queue uint16) (f Filter, err error) {
	return f, c.call(ctx, http.MethodPost, filterPath(id)+"/move", MoveRequest{queue}, &f)
}

func filterPath(id uint32) string { return "/v1/filters/" + strconv.FormatUint(uint64(id), 10) }

// Forwards lists the ways into user-mode networks.
func (c *Client) Forwards(ctx context.Context) ([]Forward, error) {
	return get[[]Forward](ctx, c, "/v1/forwards")
}

// AddForward adds a way in; it listens when the answer has come.
func (c *Client) AddForward(ctx context.Context, r ForwardRequest) (f Forward, err error) {
	return f, c.call(ctx, http.MethodPost, "/v1/forwards", r, &f)
}

// RemoveForward ends a way in, as Forwards tells its network and address.
// Connections of TCP that came by it go on.
func (c *Client) RemoveForward(ctx context.Context, network, listen string) error {
	return c.call(ctx, http.MethodDelete, "/v1/forwards/"+url.PathEscape(network)+"/"+url.PathEscape(listen), nil, nil)
}

// Capabilities are what the switch can filter.
func (c *Client) Capabilities(ctx context.Context) (Capabilities, error) {
	return get[Capabilities](ctx, c, "/v1/capabilities")
}

// Memory is what is allocated.
func (c *Client) Memory(ctx context.Context) (MemoryReport, error) {
	return get[MemoryReport](ctx, c, "/v1/memory")
}

// Table lists the addresses that the switch knows.
func (c *Client) Table(ctx context.Context) ([]Entry, error) {
	return get[[]Entry](ctx, c, "/v1/table")
}

// Counters are those of all ports.
func (c *Client) Counters(ctx context.Context) ([]Counters, error) {
	return get[[]Counters](ctx, c, "/v1/counters")
}

// EventStream is events as they happen.
type EventStream struct {
	body io.ReadCloser
	scan *bufio.Scanner
}

// Events begins a stream of events, of all ports or, unless it is empty, of one.
// What happens after it has returned is in the stream. ctx ends it.
func (c *Client) Events(ctx context.Context, port string) (*EventStream, error) {
	path := "/v1/events"
	if port != "" {
		path += "?port=" + url.QueryEscape(port)
	}
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	return &EventStream{body: resp.Body, scan: bufio.NewScanner(resp.Body)}, nil
}

// Next waits for the next event. io.EOF: the daemon has ended the stream.
func (s *EventStream) Next() (e Event, err error) {
	if !s.scan.Scan() {
		if err := s.scan.Err(); err != nil {
			return e, fmt.Errorf("control: events: %w", err)
		}
		return e, io.EOF
	}
	if err := json.Unmarshal(s.scan.Bytes(), &e); err != nil {
		return e, fmt.Errorf("control: events: %w", err)
	}
	return e, nil
}

// Close ends the stream.
func (s *EventStream) Close() error { return s.body.Close() }
