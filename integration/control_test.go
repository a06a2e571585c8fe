//go:build integration

package integration

import (
	"context"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// byHand is a lab in which the queue of guest a is driven by commands, while its
// events are written down.
type byHand struct {
	*Lab
	t      *testing.T
	socket string
	events *Events
	told   int // of the events, that were looked at
	base   uint64
}

// TestQueueByHand drives a guest's queue by "vhostnet queues" and "vhostnet
// filters" through all that NDIS has for it, under traffic.
func TestQueueByHand(t *testing.T) {
	dir := t.TempDir()
	h := &byHand{t: t, socket: filepath.Join(dir, "control")}
	h.Lab = startLabWith(t, []string{"--workers", "2", "--control", h.socket},
		GuestConfig{Name: "a", QEMU: machine.QEMU, ManualQueue: true, OwnQueue: true}, GuestConfig{Name: "b", QEMU: machine.QEMU, OwnQueue: true})
	var err error
	h.events, err = h.Backend.StartEvents(within(t, 30*time.Second), h.socket, "a", filepath.Join(dir, "events.log"))
	must(t, err)
	t.Cleanup(h.events.Close)
	h.base = h.memory()
	run(t, "Life", func(t *testing.T) { h.t = t; h.life() })
	run(t, "FreedUnderLoad", func(t *testing.T) { h.t = t; h.freedUnderLoad() })
	run(t, "QEMUKilled", func(t *testing.T) { h.t = t; h.killed() })
	noChecksumErrors(t, h.Lab)
}

// control runs a command that has to succeed.
func (h *byHand) control(v any, line string) {
	h.t.Helper()
	must(h.t, h.Backend.Control(within(h.t, 30*time.Second), h.socket, v, strings.Fields(line)...))
}

// What of the answers is looked at.
type (
	queueAnswer struct {
		ID    int    `json:"id"`
		State string `json:"state"`
	}
	filterAnswer struct {
		ID int `json:"id"`
	}
)

// memory is what is allocated in all.
func (h *byHand) memory() uint64 {
	h.t.Helper()
	var m struct {
		Total uint64 `json:"total_bytes"`
	}
	h.control(&m, "memory")
	return m.Total
}

func (h *byHand) wantBaseline() {
	h.t.Helper()
	if now := h.memory(); now != h.base {
		h.t.Errorf("%d bytes are allocated, the baseline is %d", now, h.base)
	}
}

// wantEvents waits for the next events and compares them.
func (h *byHand) wantEvents(want ...string) {
	h.t.Helper()
	var got []string
	err := poll(within(h.t, 30*time.Second), "events", func() (bool, error) {
		told, err := h.events.Told()
		got = told[min(h.told, len(told)):]
		return len(got) >= len(want), err
	})
	h.told += len(got)
	if err != nil || !slices.Equal(got, want) {
		h.t.Errorf("events %v (%v), want %v", got, err, want)
	}
}

// ping goes both ways.
func (h *byHand) ping() {
	h.t.Helper()
	bothWays(h.Lab, func(from, to *Guest) { must(h.t, Ping(within(h.t, 30*time.Second), from, to.Addr(), 3, 1000)) })
}

func (h *byHand) mac() string { return h.Guests[0].cfg.mac() }

// run brings up a queue for a with its filter and answers both.
func (h *byHand) run() (queue, filter int) {
	h.t.Helper()
	var q queueAnswer
	h.control(&q, "queues allocate a")
	var f filterAnswer
	h.control(&f, "filters set "+h.mac()+" --queue "+strconv.Itoa(q.ID))
	out, code, err := h.Backend.Command(within(h.t, 30*time.Second), h.socket, "queues", "complete", strconv.Itoa(q.ID), "77", "-o", "json")
	must(h.t, err)
	flat := strings.Join(strings.Fields(out), "")
	if code != 1 || !strings.Contains(flat, `"status":"NDIS_STATUS_SUCCESS","state":"Running"`) || !strings.Contains(flat, `"queue":77,"status":"NDIS_STATUS_INVALID_PARAMETER"`) {
		h.t.Fatalf("completing two queues of which one does not exist: exit code %d, %s", code, out)
	}
	if h.memory() <= h.base {
		h.t.Error("a completed queue has allocated nothing")
	}
	return q.ID, f.ID
}

// life is everything up to the last filter but one.
func (h *byHand) life() {
	h.ping() // by queue 0's way
	var q queueAnswer
	h.control(&q, "queues allocate a")
	if q.State != "Allocated" {
		h.t.Errorf("allocated is %+v", q)
	}
	h.wantBaseline()
	h.control(nil, "queues free "+strconv.Itoa(q.ID))
	h.wantEvents("queue-state:allocated", "queue-state:stopdma", "dma-stopped:freeing", "queue-state:undefined")

	queue, filter := h.run()
	h.wantEvents("queue-state:allocated", "queue-state:set", "queue-state:running")
	h.ping()
	must(h.t, StartTransfer(within(h.t, time.Minute), h.Guests[1], h.Guests[0], h.Guests[0].Addr(), 20*megabyte).Wait())
	h.control(nil, "filters clear "+strconv.Itoa(filter))
	h.wantEvents("queue-state:paused")
	h.ping() // its address is learned again
	h.control(nil, "filters set "+h.mac()+" --port a")
	h.wantEvents("queue-state:running")
	h.ping()

	ctx := within(h.t, 2*time.Minute)
	const n = 100 * megabyte
	transfer := StartTransfer(ctx, h.Guests[0], h.Guests[1], h.Guests[1].Addr(), n)
	moves := 0
	for at := int64(megabyte); at < n/2; at += n / 20 {
		must(h.t, transfer.Await(ctx, at))
		h.control(nil, "queues set "+strconv.Itoa(queue)+" --affinity "+strconv.Itoa(moves%2))
		moves++
	}
	must(h.t, transfer.Wait())
	if moves < 4 {
		h.t.Errorf("the queue moved only %d times", moves)
	}
	h.ping()
}

// freedUnderLoad frees a's queue while its guest receives: frames go queue 0's
// way from then on, and no byte is lost.
func (h *byHand) freedUnderLoad() {
	ctx := within(h.t, 2*time.Minute)
	const n = 60 * megabyte
	transfer := StartTransfer(ctx, h.Guests[1], h.Guests[0], h.Guests[0].Addr(), n)
	must(h.t, transfer.Await(ctx, n/10))
	var filters []filterAnswer
	h.control(&filters, "filters --port a")
	var queues []queueAnswer
	h.control(&queues, "queues --port a")
	if len(filters) != 1 || len(queues) != 1 {
		h.t.Fatalf("filters %v of queues %v", filters, queues)
	}
	h.control(nil, "filters clear "+strconv.Itoa(filters[0].ID))
	h.control(nil, "queues free "+strconv.Itoa(queues[0].ID))
	received, err := transfer.Received(ctx)
	must(h.t, err)
	if received >= n {
		h.t.Error("the transfer was over before the queue was freed: it proves nothing")
	}
	h.wantBaseline()
	h.wantEvents("queue-state:paused", "queue-state:stopdma", "dma-stopped:freeing", "queue-state:undefined")
	must(h.t, transfer.Wait())
	h.ping()
}

// killed is the same with QEMU gone: the queue stays, without the guest's
// memory, until it is freed; the next QEMU gets another.
func (h *byHand) killed() {
	queue, filter := h.run()
	h.wantEvents("queue-state:allocated", "queue-state:set", "queue-state:running")
	ctx := within(h.t, 3*time.Minute)
	sending, stop := context.WithCancel(ctx)
	transfer := StartTransfer(sending, h.Guests[1], h.Guests[0], h.Guests[0].Addr(), 1000*megabyte)
	must(h.t, transfer.Await(ctx, 2*megabyte))
	h.Guests[0].Kill()
	stop()
	_ = transfer.Wait() // it cannot end well
	h.wantEvents("disconnected")
	h.wantBaseline()
	h.control(nil, "filters clear "+strconv.Itoa(filter))
	h.control(nil, "queues free "+strconv.Itoa(queue))
	h.wantBaseline()
	h.wantEvents("queue-state:paused", "queue-state:stopdma", "dma-stopped:freeing", "queue-state:undefined")
	must(h.t, h.Boot(ctx, 0, nil))
	h.wantEvents("connected")
	h.run()
	bothWays(h.Lab, func(from, to *Guest) { must(h.t, Reach(ctx, from, to)) })
	transferBothWays(h.t, h.Lab, 10*megabyte)
}
