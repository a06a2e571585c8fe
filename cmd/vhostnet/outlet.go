package main

import (
	"bytes"
	"io"
	"sync/atomic"
	"time"
)

// outlet hands on what is written to it to a writer that may be slow, stuck or
// gone. Standard output and standard error belong to whoever reads them; no
// session, and no end of the program, waits for that. What finds the queue full
// is left out and counted.
//
// Write may be called from any goroutine.
type outlet struct {
	to      io.Writer
	trouble func(lost uint64, err error) // see newOutlet
	queue   chan []byte
	lost    atomic.Uint64 // left out since trouble was told of it
	failing bool          // the write before failed; run's
	quit    chan struct{}
	done    chan struct{}
}

// flushTime bounds how long the end of the program waits for a reader.
const flushTime = 200 * time.Millisecond

// newOutlet makes an outlet in which size writes can wait. trouble is told of
// the first of several writes that fail in a row, and, once writes succeed
// again, how many were left out; it runs on the outlet's goroutine and may write
// to the outlet. nil: nobody is told.
func newOutlet(to io.Writer, size int, trouble func(lost uint64, err error)) *outlet {
	if trouble == nil {
		trouble = func(uint64, error) {}
	}
	return &outlet{to: to, trouble: trouble, queue: make(chan []byte, size), quit: make(chan struct{}), done: make(chan struct{})}
}

// Write takes a copy of b and never waits nor fails.
func (o *outlet) Write(b []byte) (int, error) {
	select {
	case o.queue <- bytes.Clone(b):
	default:
		o.lost.Add(1)
	}
	return len(b), nil
}

// run passes on what was written, until end is called.
func (o *outlet) run() {
	defer close(o.done)
	for {
		select {
		case b := <-o.queue:
			o.pass(b)
		case <-o.quit:
			o.drain()
			return
		}
	}
}

func (o *outlet) drain() {
	for {
		select {
		case b := <-o.queue:
			o.pass(b)
		default:
			return
		}
	}
}

func (o *outlet) pass(b []byte) {
	_, err := o.to.Write(b)
	if err != nil && !o.failing {
		o.trouble(0, err)
	}
	o.failing = err != nil
	if err != nil {
		return
	}
	if len(o.queue) == cap(o.queue) {
		return // trouble could not write
	}
	if lost := o.lost.Swap(0); lost > 0 {
		o.trouble(lost, nil)
	}
}

// end passes on what waits, and ends run. A writer that stands still is given
// up after a moment: nothing can take a goroutine out of a blocked write, which
// ends with the process.
func (o *outlet) end() {
	close(o.quit)
	t := time.NewTimer(flushTime)
	defer t.Stop()
	select {
	case <-o.done:
	case <-t.C:
	}
}
