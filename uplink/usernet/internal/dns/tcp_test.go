package dns

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// What is too long for UDP is asked for again by TCP.
func TestLongAnswers(t *testing.T) {
	u := newUpstream(t, "127.0.0.1:0", func(m []byte, tcp bool) [][]byte {
		long := refusal(m, dnsmessage.RCodeSuccess)
		n := 200
		if !tcp {
			n = 100
		}
		long[7] = byte(n)
		for range n {
			long = append(long, 0xc0, headerSize, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1)
		}
		return [][]byte{long}
	})
	l := newLab(t, nil, u)
	q := question(t, "example.org.", dnsmessage.TypeA)
	answer := l.ask("web", q)
	if len(answer) != len(q) || flags(answer)&bitTruncated == 0 || count(answer, 1) != 0 || l.Counters.Cut.Value() != 1 {
		t.Errorf("by UDP %x", answer)
	}
	l.Forget("web")
	guest, conn := net.Pipe()
	var served sync.WaitGroup
	served.Go(func() { l.ServeConn(t.Context(), "web", conn) })
	for range 2 { // the second from the cache
		if err := writeMessage(guest, q); err != nil {
			t.Fatal(err)
		}
		m, err := readMessage(guest)
		if err != nil || count(m, 1) != 200 {
			t.Fatalf("by TCP %v %x", err, m)
		}
	}
	_ = guest.Close()
	served.Wait()
	if n := u.asked.Load(); n != 2 {
		t.Errorf("the resolver was asked %d times, want 2", n)
	}
	if n := l.conns.InUse(); n != 0 {
		t.Errorf("%d connections are counted after the end", n)
	}
}

// A resolver without TCP is asked by UDP, whichever way the guest asks.
func TestNoTCP(t *testing.T) {
	u := newUpstream(t, "127.0.0.1:0", yes)
	_ = u.tcp.Close()
	l := newLab(t, nil, u)
	q := question(t, "example.org.", dnsmessage.TypeA)
	if m := l.askTCP(t.Context(), "web", q); !bytes.Equal(m, withA(q, 60)) {
		t.Errorf("%x", m)
	}
}

func TestConnections(t *testing.T) {
	l := newLab(t, func(c *Config) { c.PerGuestConns = 1 })
	ctx, cancel := context.WithCancel(t.Context())
	guest, conn := net.Pipe()
	var served sync.WaitGroup
	served.Go(func() { l.ServeConn(ctx, "evil", conn) })
	if err := writeMessage(guest, question(t, "host.internal.", dnsmessage.TypeA)); err != nil {
		t.Fatal(err)
	}
	if m, err := readMessage(guest); err != nil || count(m, 1) != 1 {
		t.Errorf("%v %x", err, m)
	}
	// A second one is closed, another's is served.
	_, second := net.Pipe()
	if l.ServeConn(ctx, "evil", second); l.Counters.TooManyTCP.Value() != 1 {
		t.Errorf("%d connections too many were counted", l.Counters.TooManyTCP.Value())
	}
	// What is no message ends a connection.
	for _, text := range []string{"\x00\x00", "\x00\x0b12345678901", "\x00\x0c\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00"} {
		g, c := net.Pipe()
		served.Go(func() { l.ServeConn(ctx, "web", c) })
		_, _ = g.Write([]byte(text))
		if _, err := g.Read(make([]byte, 1)); err == nil {
			t.Errorf("%q is answered", text)
		}
	}
	cancel() // ends what is idle
	served.Wait()
}
