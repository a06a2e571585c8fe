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

// next is the next event, which there is.
func next(t *testing.T, s *Subscription) Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e, err := s.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// What a subscriber has no room for is lost, where it was, and counted, also if
// nothing happens afterwards.
func TestEventsAreLost(t *testing.T) {
	var h Hub
	s := h.Subscribe("")
	for _, lost := range []uint64{10, 1} {
		for range eventRoom + lost {
			h.Publish(Event{Kind: EventLink})
		}
		for i := range eventRoom {
			if e := next(t, s); e.Kind != EventLink {
				t.Fatalf("event %d is %+v", i, e)
			}
		}
		if e := next(t, s); e.Kind != EventLost || e.Count != lost || e.Seq != 0 || e.Time.IsZero() {
			t.Errorf("%d were lost at the end, and %+v tells it", lost, e)
		}
	}
	for range eventRoom + 3 {
		h.Publish(Event{Kind: EventLink})
	}
	first := next(t, s).Seq
	h.Publish(Event{Kind: EventPortRemoved}) // in the place of the one that was read
	for i := range uint64(eventRoom - 1) {
		if e := next(t, s); e.Seq != first+i+1 {
			t.Fatalf("event %d is %+v", i, e)
		}
	}
	if e := next(t, s); e.Kind != EventLost || e.Count != 3 {
		t.Errorf("3 were lost before the last, and %+v tells it", e)
	}
	if e := next(t, s); e.Kind != EventPortRemoved || e.Seq != first+eventRoom+3 {
		t.Errorf("the last is %+v", e)
	}
	s.Close()
	h.Publish(Event{})
	if _, some := s.take(); some || h.Subscribers() != 0 {
		t.Error("a subscription that was closed gets events")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("who waits for nothing any more is told %v", err)
	}
}

// However many forwards come and go, other events have room, and the other way
// round; what waits is bounded.
func TestForwardsHideNothing(t *testing.T) {
	var h Hub
	s := h.Subscribe("")
	for range 10 { // networks
		for range 1024 {
			h.Publish(Event{Kind: EventForwardRemoved, Port: "out", Forward: &Forward{}})
		}
		h.Publish(Event{Kind: EventPortRemoved, Port: "out"})
	}
	if n := len(s.events); n > 2*(eventRoom+forwardRoom) {
		t.Errorf("%d events wait", n)
	}
	kinds, lost := map[string]int{}, uint64(0)
	for range len(s.events) {
		e := next(t, s)
		kinds[e.Kind]++
		lost += e.Count
	}
	if kinds[EventPortRemoved] != 10 || kinds[EventForwardRemoved] != forwardRoom || lost != 10*1024-forwardRoom || kinds[EventLost] != 8 {
		t.Errorf("%v, and %d lost", kinds, lost)
	}
	for range eventRoom + 1 {
		h.Publish(Event{Kind: EventRingBroken, Port: "web"})
		h.Publish(Event{Kind: EventForwardAdded, Port: "out", Forward: &Forward{}})
	}
	for s.lost > 0 || len(s.events) > 0 {
		kinds[next(t, s).Kind]++
	}
	if kinds[EventForwardAdded] != eventRoom+1 || kinds[EventRingBroken] != eventRoom || kinds[EventLost] != 9 {
		t.Errorf("%v after many other events", kinds)
	}
}

// A port's events are not lost because of those of others, and only they are
// counted.
func TestEventsOfOnePortAreLost(t *testing.T) {
	var h Hub
	s := h.Subscribe("web")
	publish := func(n int) {
		for range n {
			h.Publish(Event{Kind: EventLink, Port: "db"})
			h.Publish(Event{Kind: EventLink, Port: "web"})
		}
	}
	publish(eventRoom)
	for i := range eventRoom {
		if e := next(t, s); e.Port != "web" || e.Seq != uint64(2*i+2) {
			t.Fatalf("event %d is %+v", i, e)
		}
	}
	publish(eventRoom + 2)
	for range eventRoom {
		next(t, s)
	}
	if e := next(t, s); e.Kind != EventLost || e.Count != 2 {
		t.Errorf("2 were lost, and %+v tells it", e)
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
