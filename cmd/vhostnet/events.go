package main

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/queues"
)

// notice is something that a worker or a session found, on its way to the log.
type notice struct {
	port  string
	text  string
	ring  int
	err   error
	event *queues.Event
}

// Notices wait in a bounded queue, and at most noticeRate of them are logged
// in a second: a guest that breaks its rings in a loop fills neither memory
// nor the log.
const (
	noticeQueue = 256
	noticeRate  = 10
)

// eventLog carries notices from threads that must not wait to the logger.
type eventLog struct {
	log     hclog.Logger
	notices chan notice
	lost    atomic.Uint64
}

func newEventLog(log hclog.Logger) *eventLog {
	return &eventLog{log: log, notices: make(chan notice, noticeQueue)}
}

// post never waits: what finds the queue full is counted.
func (e *eventLog) post(n notice) {
	select {
	case e.notices <- n:
	default:
		e.lost.Add(1)
	}
}

// queueEvent posts what the queues indicate.
func (e *eventLog) queueEvent(ev queues.Event) {
	e.post(notice{port: ev.VM, event: &ev})
}

// run logs notices until ctx ends.
func (e *eventLog) run(ctx context.Context) {
	second, n := time.Now(), 0
	for {
		select {
		case <-ctx.Done():
			return
		case note := <-e.notices:
			if now := time.Now(); now.Sub(second) >= time.Second {
				second, n = now, 0
			}
			if n++; n > noticeRate {
				e.lost.Add(1)
				continue
			}
			e.write(note)
			if lost := e.lost.Swap(0); lost > 0 {
				e.log.Warn("notices were left out", "count", lost)
			}
		}
	}
}

func (e *eventLog) write(n notice) {
	log := e.log
	if n.port != "" {
		log = log.Named(n.port)
	}
	switch {
	case n.event == nil && n.err == nil:
		log.Warn(n.text)
	case n.event == nil:
		log.Warn(n.text, "ring", n.ring, "error", n.err)
	case n.event.Kind == queues.EventBroken:
		log.Warn("ring broken", "ring", 2*n.event.Ring, "error", n.event.Err)
	case n.event.Kind == queues.EventDMAStopped:
		log.Debug("DMA stopped", "queue", n.event.Queue)
	default:
		log.Debug("queue state", "queue", n.event.Queue, "state", n.event.State)
	}
}

// newLogger makes the program's only logger.
func newLogger(w io.Writer, format, level string) (hclog.Logger, error) {
	l := hclog.LevelFromString(level)
	if l == hclog.NoLevel {
		return nil, fmt.Errorf("--log-level %s: want trace, debug, info, warn or error", level)
	}
	if format != "text" && format != "json" {
		return nil, fmt.Errorf("--log-format %s: want text or json", format)
	}
	return hclog.New(&hclog.LoggerOptions{Name: "vhostnet", Output: w, Level: l, JSONFormat: format == "json"}), nil
}
