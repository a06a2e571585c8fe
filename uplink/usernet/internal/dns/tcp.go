package dns

import (
	"context"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// idleTimeout is how long a connection may be without a whole query, and how
// long a guest may take to read an answer.
const idleTimeout = 10 * time.Second

// ServeConn answers the queries on a connection of guest, one after the other,
// until it is closed or idle for 10 s, or ctx ends; then it closes it. It is
// called by a goroutine of the caller.
func (f *Forwarder) ServeConn(ctx context.Context, guest string, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close()
	}()
	if !f.conns.Take(guest) {
		f.Counters.TooManyTCP.Add(1)
		return
	}
	defer f.conns.Give(guest)
	for ok := true; ok; {
		ok = f.serveOne(ctx, guest, conn)
	}
}

// serveOne answers one query. It reports whether there may be another: not
// after an end, an error or what is no query.
func (f *Forwarder) serveOne(ctx context.Context, guest string, conn net.Conn) bool {
	if conn.SetDeadline(time.Now().Add(idleTimeout)) != nil {
		return false
	}
	m, err := readMessage(conn)
	if err != nil {
		return false
	}
	answer := f.askTCP(ctx, guest, m)
	if answer == nil || conn.SetDeadline(time.Now().Add(idleTimeout)) != nil {
		return false
	}
	return writeMessage(conn, answer) == nil
}

// askTCP is the answer to a message by TCP, nil for none. What is forwarded
// goes by TCP too: whoever asks so wants what is too long for UDP.
func (f *Forwarder) askTCP(ctx context.Context, guest string, payload []byte) []byte {
	q, m := f.atHand(guest, payload)
	if m != nil || q.raw == nil {
		return m
	}
	if !f.slots.Take(guest) {
		f.Counters.TooMany.Add(1)
		return refusal(payload, dnsmessage.RCodeServerFailure)
	}
	defer f.slots.Give(guest)
	return f.forward(ctx, job{guest: guest, q: q}, exchangeBoth)
}

// exchangeBoth asks by TCP, and by UDP a resolver that does not serve TCP.
func exchangeBoth(ctx context.Context, at netip.AddrPort, q query) ([]byte, error) {
	first, cancel := ctx, context.CancelFunc(func() {})
	if deadline, ok := ctx.Deadline(); ok {
		first, cancel = context.WithDeadline(ctx, deadline.Add(-time.Until(deadline)/2))
	}
	defer cancel()
	if m, err := exchangeTCP(first, at, q); err == nil {
		return m, nil
	}
	return exchangeUDP(ctx, at, q)
}
