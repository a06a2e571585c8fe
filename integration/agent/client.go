package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// ErrRestarted ends the commands that were running when the guest said hello
// again.
var ErrRestarted = errors.New("the guest has started again")

// ErrClosed ends the commands that were running when the stream ended.
var ErrClosed = errors.New("the connection to the guest is closed")

// ExitError is a command that ended with a code other than 0.
type ExitError struct {
	Argv   []string
	Code   int
	Output string
	Reason string // empty if the command ended by itself
}

func (e *ExitError) Error() string {
	reason := fmt.Sprintf("exit code %d", e.Code)
	if e.Reason != "" {
		reason = e.Reason
	}
	return fmt.Sprintf("agent: %q: %s; it printed: %s", strings.Join(e.Argv, " "), reason, strings.TrimSpace(e.Output))
}

// Client is the host's side. Its methods may be called from several goroutines.
type Client struct {
	conn io.ReadWriteCloser

	writeMu sync.Mutex

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan<- result
	hello   Hello
	hellos  int
	changed chan struct{} // closed and made anew at every hello and at the end
	err     error         // set once, at the end of the stream
	done    chan struct{}
}

type result struct {
	reply reply
	err   error
}

// NewClient takes over conn and starts reading from it. Close ends it.
func NewClient(conn io.ReadWriteCloser) *Client {
	c := &Client{
		conn: conn, waiting: map[uint64]chan<- result{},
		changed: make(chan struct{}), done: make(chan struct{}),
	}
	go c.read()
	return c
}

// Close closes the stream and waits for the reader to end.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Hello waits until the guest has said hello at least n times and returns the
// last one and the count.
func (c *Client) Hello(ctx context.Context, n int) (Hello, int, error) {
	for {
		c.mu.Lock()
		hello, hellos, changed, err := c.hello, c.hellos, c.changed, c.err
		c.mu.Unlock()
		if hellos >= n {
			return hello, hellos, nil
		}
		if err != nil {
			return Hello{}, hellos, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Hello{}, hellos, fmt.Errorf("agent: waiting for hello %d of the guest, %d seen: %w", n, hellos, ctx.Err())
		}
	}
}

// Run runs a command in the guest and returns what it printed on stdout and
// stderr. ctx must have a deadline: the guest kills the command when it passes.
// A code other than 0 is an *ExitError.
func (c *Client) Run(ctx context.Context, argv ...string) (string, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return "", errors.New("agent: a command in a guest needs a context with a deadline")
	}
	id, answer, err := c.register()
	if err != nil {
		return "", err
	}
	defer c.forget(id)
	if err := c.send(request{ID: id, Argv: argv, Seconds: time.Until(deadline).Seconds()}); err != nil {
		return "", err
	}
	select {
	case r := <-answer:
		return finish(argv, r)
	case <-ctx.Done():
	}
	if err := c.send(request{ID: id, Cancel: true}); err != nil {
		return "", err
	}
	// The guest answers a cancelled command with what it printed so far.
	select {
	case r := <-answer:
		out, err := finish(argv, r)
		return out, errors.Join(ctx.Err(), err)
	case <-time.After(5 * killDelay):
		return "", fmt.Errorf("agent: %q: the guest does not answer: %w", strings.Join(argv, " "), ctx.Err())
	}
}

func finish(argv []string, r result) (string, error) {
	if r.err != nil {
		return "", fmt.Errorf("agent: %q: %w", strings.Join(argv, " "), r.err)
	}
	if r.reply.Code != 0 || r.reply.Error != "" {
		return r.reply.Output, &ExitError{Argv: argv, Code: r.reply.Code, Output: r.reply.Output, Reason: r.reply.Error}
	}
	if r.reply.Truncated {
		return r.reply.Output, fmt.Errorf("agent: %q: printed more than %d bytes", strings.Join(argv, " "), OutputLimit)
	}
	return r.reply.Output, nil
}

func (c *Client) register() (uint64, <-chan result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.next++
	answer := make(chan result, 1)
	c.waiting[c.next] = answer
	return c.next, answer, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

func (c *Client) send(r request) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("agent: sending to the guest: %w", err)
	}
	return nil
}

func (c *Client) read() {
	defer close(c.done)
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(make([]byte, 0, 64<<10), lineLimit)
	for lines.Scan() {
		var r reply
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue
		}
		c.take(r)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = ErrClosed
	if err := lines.Err(); err != nil {
		c.err = fmt.Errorf("%w: %w", ErrClosed, err)
	}
	c.endAll(c.err)
}

func (c *Client) take(r reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Hello != nil {
		c.hello = *r.Hello
		c.hellos++
		c.endAll(ErrRestarted)
		return
	}
	if answer := c.waiting[r.ID]; answer != nil {
		delete(c.waiting, r.ID)
		answer <- result{reply: r}
	}
}

// endAll ends every command that waits and wakes Hello. c.mu is held.
func (c *Client) endAll(err error) {
	for id, answer := range c.waiting {
		delete(c.waiting, id)
		answer <- result{err: err}
	}
	close(c.changed)
	c.changed = make(chan struct{})
}
