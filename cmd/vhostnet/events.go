package main

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/queues"
)

// notice is something that a worker or a session found, on its way to the log.
type notice struct {
	port  string // "": the program's
	text  string
	ring  int
	err   error
	event *queues.Event
}

// Notices wait in a bounded queue, and of each port at most noticeRate are
// logged in a second: a guest that breaks its rings in a loop fills neither
// memory nor the log, and hides nothing of other ports.
const (
	noticeQueue = 256
	noticeRate  = 10
)

// logQueue is how many lines of the log wait for whoever reads it.
const logQueue = 256

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

// queueEvent posts what the queues indicate. States are for who looks for
// them; they take no broken ring's place in the queue.
func (e *eventLog) queueEvent(ev queues.Event) {
	if ev.Kind == queues.EventBroken || e.log.IsDebug() {
		e.post(notice{port: ev.VM, event: &ev})
	}
}

// run logs notices until ctx ends.
func (e *eventLog) run(ctx context.Context) {
	second, logged := time.Now(), map[string]int{}
	for {
		select {
		case <-ctx.Done():
			return
		case note := <-e.notices:
			if now := time.Now(); now.Sub(second) >= time.Second {
				second = now
				clear(logged)
			}
			if logged[note.port]++; logged[note.port] > noticeRate {
				e.lost.Add(1)
				continue
			}
			e.write(note)
			if lost := e.lost.Swap(0); lost > 0 {
				e.log.Warn("notices were left out, as there were too many", "count", lost)
			}
		}
	}
}

func (e *eventLog) write(n notice) {
	log := e.log
	if n.port != "" {
		log = log.With("port", n.port)
	}
	switch {
	case n.event == nil && n.err == nil:
		log.Warn(n.text)
	case n.event == nil:
		log.Warn(n.text, "ring", n.ring, "error", n.err)
	case n.event.Kind == queues.EventBroken:
		log.Warn("ring broken", "ring", 2*n.event.Ring, "error", n.event.Err)
	case n.event.Kind == queues.EventAdapter:
		log.Debug("adapter state", "state", n.event.Adapter.String())
	case n.event.Kind == queues.EventDMAStopped:
		log.Debug("DMA stopped", "queue", n.event.Queue)
	default:
		log.Debug("queue state", "queue", n.event.Queue, "state", n.event.State.String())
	}
}

// newLogger makes the program's only logger. Whoever logs about a port says so
// with the key "port".
func newLogger(w io.Writer, c config) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "vhostnet", Output: w, Level: c.logLevel, JSONFormat: c.logJSON})
}
