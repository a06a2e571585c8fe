package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// ErrStopped is the answer to a command for a worker that has ended. Such a
// worker touches no Task any more, so Remove's promise holds with it.
var ErrStopped = errors.New("worker: the worker has stopped")

// errUnfinished is the answer when the function given to Do left its goroutine
// (runtime.Goexit) instead of returning.
var errUnfinished = errors.New("worker: the function did not return")

// States of a command. Only its sender leaves waiting for cancelled, only the
// worker leaves waiting for taken, so a command is either run or given up.
const (
	commandWaiting uint32 = iota
	commandTaken
	commandCancelled
)

// command is a function on its way to a worker's safe point.
type command struct {
	next  *command // towards older commands while in the mailbox
	run   func(*Worker) error
	state atomic.Uint32
	err   error         // the worker writes it before done is closed
	done  chan struct{} // closed when err is final
}

// execute runs the command on the worker unless its sender gave it up.
func (c *command) execute(w *Worker) {
	if !c.state.CompareAndSwap(commandWaiting, commandTaken) {
		return
	}
	c.err = errUnfinished
	defer close(c.done)
	c.err = c.run(w)
}

// refuse answers the command without running it.
func (c *command) refuse(err error) {
	if c.state.CompareAndSwap(commandWaiting, commandTaken) {
		c.err = err
		close(c.done)
	}
}

// mailbox is a stack of commands that many push and one takes whole. Taking
// is one exchange: a sender that is stopped halfway cannot hold the worker.
type mailbox struct {
	head atomic.Pointer[command]
}

// closedMailbox is the head of a mailbox that takes nothing any more.
var closedMailbox = new(command)

// push reports whether the mailbox took c.
func (m *mailbox) push(c *command) bool {
	for {
		head := m.head.Load()
		if head == closedMailbox {
			return false
		}
		c.next = head
		if m.head.CompareAndSwap(head, c) {
			return true
		}
	}
}

// pending reports whether there is something to take.
func (m *mailbox) pending() bool { return m.head.Load() != nil }

// take empties the mailbox and returns its commands, oldest first, linked by
// next. Only the worker calls it.
func (m *mailbox) take() *command { return oldestFirst(m.head.Swap(nil)) }

// close makes the mailbox refuse, and returns what it held as take does. It
// may be called again; then there is nothing.
func (m *mailbox) close() *command {
	head := m.head.Swap(closedMailbox)
	if head == closedMailbox {
		return nil
	}
	return oldestFirst(head)
}

// oldestFirst turns a stack of commands round.
func oldestFirst(c *command) *command {
	var first *command
	for c != nil {
		older := c.next
		c.next = first
		first, c = c, older
	}
	return first
}

// do runs f at w's safe point and returns its error. If ctx ends first the
// command is given up; when f has begun by then, do waits for its end. So when
// do has returned, f has run or never will.
func (w *Worker) do(ctx context.Context, what string, f func(*Worker) error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("worker: %s was not begun: %w", what, context.Cause(ctx))
	}
	c := &command{run: f, done: make(chan struct{})}
	if !w.mail.push(c) {
		return ErrStopped
	}
	w.wakeUp()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	}
	if c.state.CompareAndSwap(commandWaiting, commandCancelled) {
		return fmt.Errorf("worker: %s: worker %d did not reach its safe point (is Group.Run running?): %w", what, w.index, context.Cause(ctx))
	}
	<-c.done
	return c.err
}
