package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// Every subscriber gets the events since its beginning, in order, numbered.
func TestEventsInOrder(t *testing.T) {
	l := newLab(t, HandlerOptions{})
	l.fake.hub.Publish(Event{Kind: EventPortAdded, Port: "before"})
	all, err := l.client.Events(t.Context(), "")
	l.must(err)
	defer all.Close()
	db, err := l.client.Events(t.Context(), "db")
	l.must(err)
	defer db.Close()
	for i := range 100 {
		l.fake.hub.Publish(Event{Kind: EventLink, Port: []string{"web", "db"}[i%2], State: "up"})
	}
	for i := range 100 {
		e, err := all.Next()
		if err != nil || e.Seq != uint64(i+2) || e.Kind != EventLink || e.Time.IsZero() {
			t.Fatalf("event %d is %+v, %v", i, e, err)
		}
	}
	for i := range 50 {
		if e, err := db.Next(); err != nil || e.Seq != uint64(2*i+3) || e.Port != "db" {
			t.Fatalf("event %d of db is %+v, %v", i, e, err)
		}
	}
	l.must(l.end())
	if _, err := all.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// What a subscriber has no room for is lost, where it was, and counted.
func TestEventsAreLost(t *testing.T) {
	var h Hub
	s := h.Subscribe()
	for range eventRoom + 10 {
		h.Publish(Event{})
	}
	for i := range eventRoom {
		if e := <-s.Events(); e.Seq != uint64(i+1) || s.Lost(e) != 0 {
			t.Fatalf("event %d has number %d", i, e.Seq)
		}
	}
	h.Publish(Event{})
	if e := <-s.Events(); s.Lost(e) != 10 {
		t.Errorf("event %d comes after others were lost, and they are not counted", e.Seq)
	}
	s.Close()
	h.Publish(Event{})
	if len(s.Events()) != 0 || h.Subscribers() != 0 {
		t.Error("a subscription that was closed gets events")
	}
}

// A caller who does not read its events loses them and then its connection; who
// publishes does not notice.
func TestStuckSubscriber(t *testing.T) {
	l := newLab(t, HandlerOptions{Patience: 50 * time.Millisecond, Streams: 1})
	c, err := net.Dial("unix", l.path)
	l.must(err)
	defer c.Close()
	_, err = io.WriteString(c, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	l.must(err)
	l.waitFor("the stream", func() bool { return l.fake.hub.Subscribers() == 1 })
	_, err = l.client.Events(t.Context(), "")
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != http.StatusServiceUnavailable || e.Status != StatusResources {
		t.Errorf("one stream too many: %v", err)
	}
	l.waitFor("the stream to be given up", func() bool {
		for range eventRoom {
			l.fake.hub.Publish(Event{Kind: EventLink, Port: "web"})
		}
		return l.fake.hub.Subscribers() == 0
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l.waitFor("another stream to be possible", func() bool {
		s, err := l.client.Events(ctx, "")
		return err == nil && s.Close() == nil
	})
}
