package vhostuser

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// backendReq gives the back-end a channel for its requests and returns the
// front-end's end.
func (b *bench) backendReq() *peer {
	b.t.Helper()
	ours, theirs := socketPair(b.t)
	b.ok(SetBackendReqFD, nil, theirs)
	p := newPeer(b.t, ours)
	b.t.Cleanup(func() { _ = p.conn.Close() })
	return p
}

// change reads the one message that says that the configuration has changed.
func (p *peer) change(flags uint32) {
	p.t.Helper()
	b, err := p.read(HeaderLen)
	if err != nil {
		p.t.Fatal(err)
	}
	h, err := ParseHeader(b)
	if want := (Header{Request: Request(BackendConfigChange), Flags: flags}); err != nil || h != want {
		p.t.Fatalf("header %+v, %v; want %+v", h, err, want)
	}
}

// silent checks that nothing comes.
func (p *peer) silent() {
	p.t.Helper()
	if err := p.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		p.t.Fatal(err)
	}
	if b, err := p.read(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("read % x, %v; want nothing", b, err)
	}
	if err := p.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) acknowledge(code U64) {
	p.t.Helper()
	if err := p.conn.Send(Message(Request(BackendConfigChange), ReplyFlags, code.Marshal()), nil); err != nil {
		p.t.Fatal(err)
	}
}

func TestBackendRequests(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.server.ConfigChanged() // nobody to tell
	b.ok(SetProtocolFeatures, U64(ProtocolConfig|ProtocolBackendReq|ProtocolReplyAck).Marshal())
	p := b.backendReq()
	b.server.ConfigChanged()
	p.silent() // no ring runs
	b.handshake(g)
	b.ring(0)
	p.change(FlagVersion | FlagNeedReply)
	// While we wait for the answer the session answers.
	b.number(GetFeatures)
	b.server.ConfigChanged()
	b.server.ConfigChanged()
	p.silent() // one at a time
	p.acknowledge(1)
	p.change(FlagVersion | FlagNeedReply) // both at once
	p.acknowledge(0)
	b.base(0)
	b.server.ConfigChanged()
	p.silent() // suspended
	b.calls("stop 0")
	b.ring(0)
	p.change(FlagVersion | FlagNeedReply)
	p.acknowledge(0)

	// Without REPLY_ACK no answer is asked for, and none is waited for.
	b.ok(SetProtocolFeatures, U64(ProtocolConfig|ProtocolBackendReq).Marshal())
	for range 3 {
		b.server.ConfigChanged()
		p.change(FlagVersion)
	}
	b.ok(SetProtocolFeatures, U64(ProtocolBackendReq).Marshal())
	b.server.ConfigChanged()
	p.silent() // the configuration is not the front-end's affair
}

// V5, V34: another channel takes the place of the first; what is no socket is
// refused.
func TestBackendRequestsReplaced(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.ok(SetProtocolFeatures, U64(ProtocolConfig|ProtocolBackendReq).Marshal())
	b.handshake(g)
	b.ring(0)
	before := b.measure()
	old := b.backendReq()
	for range 100 {
		next := b.backendReq()
		old.closed()
		_ = old.conn.Close()
		old = next
	}
	b.refused(SetBackendReqFD, nil, newFD(t))
	b.refused(SetBackendReqFD, nil, g.fd(t))
	b.refused(SetBackendReqFD, nil)
	b.server.ConfigChanged()
	old.change(FlagVersion)
	b.close()
	old.closed()
	_ = old.conn.Close()
	atRest(t, before)
}

// A front-end that misbehaves on the channel loses it, and nothing else.
func TestBackendRequestsMisused(t *testing.T) {
	for name, misuse := range map[string]func(p *peer){
		"another request":    func(p *peer) { _ = p.send(3, ReplyFlags, U64(0).Marshal()) },
		"no reply":           func(p *peer) { _ = p.send(Request(BackendConfigChange), FlagVersion, U64(0).Marshal()) },
		"too long":           func(p *peer) { _ = p.send(Request(BackendConfigChange), ReplyFlags, make([]byte, 16)) },
		"descriptors":        func(p *peer) { _ = p.send(Request(BackendConfigChange), ReplyFlags, U64(0).Marshal(), newFD(p.t)) },
		"half":               func(p *peer) { _ = p.conn.Send(make([]byte, 7), nil); _ = p.conn.Close() },
		"closed":             func(p *peer) { _ = p.conn.Close() },
		"silence":            func(*peer) {},
		"noise, long before": nil,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, newStub(), func(o *Options) { o.SendTimeout = 100 * time.Millisecond })
			g := newGuest(t)
			b.ok(SetProtocolFeatures, U64(ProtocolConfig|ProtocolBackendReq|ProtocolReplyAck).Marshal())
			p := b.backendReq()
			if misuse == nil {
				if err := p.conn.Send(make([]byte, 100), nil); err != nil {
					t.Fatal(err)
				}
			}
			b.handshake(g)
			b.ring(0)
			b.server.ConfigChanged()
			p.change(FlagVersion | FlagNeedReply)
			if misuse != nil {
				misuse(p)
			}
			if name != "half" && name != "closed" {
				p.closed()
			}
			b.server.ConfigChanged()
			b.base(0) // the session goes on
			if name != "closed" && name != "half" && !strings.Contains(b.log.String(), "requests to the front-end end") {
				t.Errorf("the log does not say that the channel ended:\n%s", b.log)
			}
		})
	}
}

// V19: a front-end that does not read the channel holds up nobody.
func TestV19_BackendRequestsNotRead(t *testing.T) {
	b := newBench(t, newStub(), nil)
	g := newGuest(t)
	b.ok(SetProtocolFeatures, U64(ProtocolConfig|ProtocolBackendReq).Marshal())
	ours, theirs := socketPair(t)
	defer ours.Close()
	copied, err := theirs.Dup()
	if err != nil {
		t.Fatal(err)
	}
	filler := newPeer(t, copied)
	b.ok(SetBackendReqFD, nil, theirs)
	if err := filler.conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := filler.conn.Send(make([]byte, 1<<22), nil); err == nil {
		t.Fatal("the socket takes everything")
	}
	_ = filler.conn.Close()
	b.handshake(g)
	b.ring(0)
	b.server.ConfigChanged()
	b.base(0)
	if err := b.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b.number(GetFeatures)
}
