package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"vhostnet/internal/sys"
)

// peer is a front-end that says what it is told to.
type peer struct {
	t    testing.TB
	conn *sys.Conn
}

func newPeer(t testing.TB, fd *sys.FD) *peer {
	t.Helper()
	c, err := sys.ConnFrom(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &peer{t: t, conn: c}
}

// send sends one message and closes our copies of the descriptors.
func (p *peer) send(r Request, flags uint32, payload []byte, fds ...*sys.FD) error {
	defer sys.CloseAll(fds)
	return p.conn.Send(Message(r, flags, payload), fds)
}

// say sends a request that wants no acknowledgement.
func (p *peer) say(r Request, payload []byte, fds ...*sys.FD) {
	p.t.Helper()
	if err := p.send(r, FlagVersion, payload, fds...); err != nil {
		p.t.Fatalf("send %s: %v", r, err)
	}
}

// read reads exactly n bytes.
func (p *peer) read(n int) ([]byte, error) {
	b := make([]byte, n)
	for got := 0; got < n; {
		m, fds, err := p.conn.Recv(b[got:], 0)
		sys.CloseAll(fds)
		if err != nil {
			return b[:got], err
		}
		got += m
	}
	return b, nil
}

// reply reads the reply to r.
func (p *peer) reply(r Request) ([]byte, error) {
	head, err := p.read(HeaderLen)
	if err != nil {
		return nil, err
	}
	h, err := ParseHeader(head)
	if err != nil {
		return nil, err
	}
	if h.Request != r || h.Flags != 5 || h.Size > MaxPayload {
		return nil, fmt.Errorf("reply to %s has header %+v", r, h)
	}
	return p.read(int(h.Size))
}

// ask sends a request that has a reply of its own.
func (p *peer) ask(r Request, payload []byte) []byte {
	p.t.Helper()
	p.say(r, payload)
	b, err := p.reply(r)
	if err != nil {
		p.t.Fatalf("%s: %v", r, err)
	}
	return b
}

// number asks for a number.
func (p *peer) number(r Request) uint64 {
	p.t.Helper()
	var u U64
	if err := u.Unmarshal(p.ask(r, nil)); err != nil {
		p.t.Fatalf("%s: %v", r, err)
	}
	return uint64(u)
}

// want sends a request with NEED_REPLY and gives the acknowledgement.
func (p *peer) want(r Request, payload []byte, fds ...*sys.FD) uint64 {
	p.t.Helper()
	if err := p.send(r, FlagVersion|FlagNeedReply, payload, fds...); err != nil {
		p.t.Fatalf("send %s: %v", r, err)
	}
	b, err := p.reply(r)
	if err != nil {
		p.t.Fatalf("%s: %v", r, err)
	}
	var u U64
	if err := u.Unmarshal(b); err != nil {
		p.t.Fatalf("%s: acknowledgement: %v", r, err)
	}
	return uint64(u)
}

// ok sends a request with NEED_REPLY that must succeed.
func (p *peer) ok(r Request, payload []byte, fds ...*sys.FD) {
	p.t.Helper()
	if got := p.want(r, payload, fds...); got != 0 {
		p.t.Fatalf("%s: acknowledgement %d, want 0", r, got)
	}
}

// refused sends a request with NEED_REPLY that must not succeed.
func (p *peer) refused(r Request, payload []byte, fds ...*sys.FD) {
	p.t.Helper()
	if got := p.want(r, payload, fds...); got == 0 {
		p.t.Fatalf("%s: acknowledgement 0, want a refusal", r)
	}
}

// closed checks that the back-end ends the connection without saying more.
func (p *peer) closed() {
	p.t.Helper()
	b, err := p.read(1)
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("read % x, %v; want the end of the connection", b, err)
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		p.t.Fatalf("connection ended with %v", err)
	}
}
