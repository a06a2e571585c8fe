package vhostuser

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"vhostnet/internal/sys"
	"vhostnet/virtio"
)

// port is a server on a path.
type port struct {
	t      testing.TB
	dev    *stub
	path   string
	server *Server
	log    *lines
	end    context.CancelFunc
	served chan error
}

func newPort(t testing.TB, path string, change func(*Options)) *port {
	t.Helper()
	p := &port{t: t, dev: newStub(), path: path, log: &lines{}, served: make(chan error, 1)}
	o := Options{Name: "test", Path: path, Budget: newBudget(t), Log: hclog.New(&hclog.LoggerOptions{Output: p.log})}
	if change != nil {
		change(&o)
	}
	var err error
	if p.server, err = NewServer(netStub{p.dev}, o); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, p.end = context.WithCancel(context.Background())
	go func() { p.served <- p.server.Serve(ctx) }()
	t.Cleanup(p.close)
	return p
}

func (p *port) close() {
	p.end()
	select {
	case err := <-p.served:
		if err != nil {
			p.t.Errorf("Serve: %v", err)
		}
		p.served <- nil
	case <-time.After(patience):
		p.t.Fatalf("Serve does not return\n%s", stacks())
	}
}

// dial connects a front-end to the path.
func (p *port) dial() *peer {
	p.t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: p.path, Net: "unix"})
	if err != nil {
		p.t.Fatal(err)
	}
	return dialled(p.t, c)
}

func dialled(t testing.TB, u *net.UnixConn) *peer {
	t.Helper()
	c, err := sys.NewConn(u)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return &peer{t: t, conn: c}
}

func tempSocket(t testing.TB) string { return filepath.Join(t.TempDir(), "port.sock") }

// A port outlives its front-ends, and everything of each is gone with it.
func TestPortOutlivesItsFrontEnds(t *testing.T) {
	p := newPort(t, tempSocket(t), nil)
	p.dial().conn.Close()
	g := newGuest(t)
	warm := p.dial()
	warm.number(GetFeatures)
	_ = warm.conn.Close()
	var base usage
	for i := range 20 {
		f := p.dial()
		f.ok(SetFeatures, U64(accepted).Marshal())
		f.ok(SetMemTable, MemTable{Regions: []MemRegion{g.whole()}}.Marshal(), g.fd(t))
		for r := range 4 {
			f.ok(SetVringErr, fdPayload(r), newFD(t))
			f.ok(SetVringNum, state(r, ringSize))
			f.ok(SetVringAddr, addr(r).Marshal())
			f.ok(SetVringCall, fdPayload(r), newFD(t))
			f.ok(SetVringKick, fdPayload(r), newFD(t))
			f.ok(SetVringEnable, state(r, 1))
		}
		now := f.measure()
		if i == 0 {
			base = now
		} else if now.fds > base.fds || now.mappings > base.mappings {
			t.Fatalf("front-end %d: %+v, the first one had %+v", i, now, base)
		}
		_ = f.conn.Close()
	}
	p.close()
	if got := p.server.Stats().Sessions; got != 22 {
		t.Errorf("%d sessions, want 22", got)
	}
	if bytes, regions := p.server.budget.Spent(); bytes != 0 || regions != 0 {
		t.Errorf("%d bytes in %d regions are still mapped", bytes, regions)
	}
}

func (p *peer) measure() usage {
	p.t.Helper()
	p.number(GetFeatures)
	return measure(p.t)
}

// V20: the second front-end of a port is refused, and the first one does not
// notice.
func TestV20_SecondFrontEnd(t *testing.T) {
	p := newPort(t, tempSocket(t), nil)
	first := p.dial()
	first.ok(SetVringEnable, state(0, 1))
	for range 50 {
		second := p.dial()
		second.closed()
		_ = second.conn.Close()
	}
	first.ok(SetVringEnable, state(1, 1))
	if got := p.server.Stats(); got.SecondFrontend != 50 || got.Sessions != 1 {
		t.Errorf("%+v, want 50 second front-ends and 1 session", got)
	}
	if got := strings.Count(p.log.String(), "second front-end"); got == 0 || got > 2*linesPerSecond {
		t.Errorf("%d lines about second front-ends", got)
	}
}

// A newcomer that comes when the first front-end has hung up waits for the end
// of its session, and is served.
func TestV82_Reconnect(t *testing.T) {
	p := newPort(t, tempSocket(t), nil)
	const rounds = 300
	for range rounds {
		f := p.dial()
		f.say(SetVringEnable, state(0, 1))
		_ = f.conn.Close() // and the next one comes at once
	}
	last := p.dial()
	last.number(GetFeatures)
	if got := p.server.Stats(); got.SecondFrontend != 0 || got.Sessions != rounds+1 {
		t.Errorf("%+v, want %d sessions and nobody refused", got, rounds+1)
	}
}

// The same while the first session is held up in the device.
func TestNewcomerWaitsForTheTeardown(t *testing.T) {
	p := newPort(t, tempSocket(t), nil)
	hold := p.dev.holdIn("disconnected")
	first := p.dial()
	first.number(GetFeatures)
	_ = first.conn.Close()
	<-hold.reached
	second := p.dial()
	second.say(GetFeatures, nil)
	close(hold.release)
	if _, err := second.reply(GetFeatures); err != nil {
		t.Fatalf("the newcomer is not served: %v", err)
	}
}

// V79: without descriptors nobody is accepted, and the port is none the worse
// when there are some again.
func TestV79_NoDescriptorsToAccept(t *testing.T) {
	p := newPort(t, tempSocket(t), nil)
	p.dial().conn.Close()
	last := p.dial()
	last.number(GetFeatures)
	_ = last.conn.Close()

	u, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	limit := old
	limit.Cur = 0 // no number is low enough
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	err = syscall.Connect(u, &syscall.SockaddrUnix{Name: p.path})
	for range 2000 {
		if strings.Contains(p.log.String(), "could not be accepted") {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if e := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(p.log.String(), "could not be accepted") {
		t.Error("the log does not say why nobody is accepted")
	}
	f := newPeer(t, sys.OwnFD(u))
	f.number(GetFeatures)
	_ = f.conn.Close()
}

func TestServeEndsWithALiveSession(t *testing.T) {
	path := tempSocket(t)
	before := measure(t)
	p := newPort(t, path, nil)
	f := p.dial()
	f.ok(SetVringEnable, state(0, 1))
	p.close()
	f.closed()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket file is still there: %v", err)
	}
	if got := p.dev.take(); strings.Join(got, " ") != "enable 0 true disconnected" {
		t.Errorf("device was told %q", got)
	}
	if err := p.server.Serve(context.Background()); err == nil {
		t.Error("a second Serve was accepted")
	}
	_ = f.conn.Close()
	atRest(t, before)
}

// At the end, too, the front-end sees the connection closed when nothing of its
// session is left, and not before.
func TestEndClosesLast(t *testing.T) {
	p := newPort(t, tempSocket(t), nil)
	f := p.dial()
	f.ok(SetVringEnable, state(0, 1))
	hold := p.dev.holdIn("disconnected")
	p.end()
	<-hold.reached
	if f.conn.PeerGone() {
		t.Error("the connection is closed while the device still has the rings")
	}
	close(hold.release)
	f.closed()
	p.close()
	if got := p.server.Stats(); got.Closed != 0 {
		t.Errorf("%+v: the end was taken for the front-end's fault", got)
	}
}

// A front-end that does not read its replies, or stops in the middle of a
// message, does not hold up the end.
func TestEndBesideStuckFrontEnds(t *testing.T) {
	for _, stuck := range []func(f *peer){
		func(f *peer) { // its replies fill the socket
			_ = f.conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			for err := error(nil); err == nil; {
				err = f.send(GetFeatures, FlagVersion, nil)
			}
		},
		func(f *peer) {
			if err := f.conn.Send(Message(SetFeatures, FlagVersion, U64(0).Marshal())[:HeaderLen+1], nil); err != nil {
				t.Fatal(err)
			}
		},
	} {
		p := newPort(t, tempSocket(t), func(o *Options) { o.SendTimeout, o.MessageTimeout = time.Hour, time.Hour })
		f := p.dial()
		f.number(GetFeatures)
		stuck(f)
		p.close()
	}
}

func TestCloseEndsServe(t *testing.T) {
	p := newPort(t, tempSocket(t), nil)
	f := p.dial()
	f.number(GetFeatures)
	p.server.Close()
	p.server.Close()
	f.closed()
	p.close()
}

func TestCloseWithoutServe(t *testing.T) {
	before := measure(t)
	path := tempSocket(t)
	s, err := NewServer(newStub(), Options{Path: path, Budget: newBudget(t)})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket file is still there: %v", err)
	}
	ours, theirs := socketPair(t)
	if s, err = NewServer(newStub(), Options{Conn: ours, Budget: newBudget(t)}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	_ = theirs.Close()
	atRest(t, before)
}

// With a connected socket Serve ends when the front-end leaves.
func TestConnectedSocketEndsServe(t *testing.T) {
	b := newBench(t, newStub(), nil)
	b.number(GetFeatures)
	_ = b.conn.Close()
	b.wait()
	if got := b.server.Stats(); got.Closed != 0 || got.Sessions != 1 || got.Messages != 1 {
		t.Errorf("%+v, want one session that its front-end ended", got)
	}
}

func TestOptionsRefused(t *testing.T) {
	good := Options{Name: "web", Path: tempSocket(t), Budget: newBudget(t)}
	before := measure(t)
	tests := []struct {
		part   string
		change func(*stub, *Options)
	}{
		{"0 ways", func(_ *stub, o *Options) { o.Path = "" }},
		{"2 ways", func(_ *stub, o *Options) { o.Conn = lonelySocket(t) }},
		{"0 rings", func(d *stub, _ *Options) { d.rings = 0 }},
		{"257 rings", func(d *stub, _ *Options) { d.rings = 257 }},
		{"budget", func(_ *stub, o *Options) { o.Budget = nil }},
		{"permission", func(_ *stub, o *Options) { o.Mode = os.ModeSetuid | 0o660 }},
		{"connects to its front-end", func(_ *stub, o *Options) { o.Dial, o.Mode = true, 0o600 }},
		{"connects to its front-end", func(_ *stub, o *Options) { o.Dial, o.Group = true, "0" }},
		{"at most 107", func(_ *stub, o *Options) { o.Dial, o.Path = true, strings.Repeat("x", 120) }},
		{"missing behind @", func(_ *stub, o *Options) { o.Path = "@" }},
		{"no such user", func(_ *stub, o *Options) { o.Owner = "no such user" }},
		{"negative", func(_ *stub, o *Options) { o.SendTimeout = -1 }},
		{"socket", func(_ *stub, o *Options) { o.Path, o.Conn = "", newFD(t) }},
		{"socket", func(_ *stub, o *Options) { o.Path, o.Listener = "", newFD(t) }},
	}
	for _, test := range tests {
		d, o := newStub(), good
		test.change(d, &o)
		s, err := NewServer(d, o)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.part) {
			t.Errorf("error %v, want one with %q", err, test.part)
		}
	}
	atRest(t, before)
}

// lonelySocket is one end of a connection whose other end is closed.
func lonelySocket(t testing.TB) *sys.FD {
	t.Helper()
	a, b := socketPair(t)
	_ = b.Close()
	return a
}

func TestStatsCount(t *testing.T) {
	b := newBench(t, newStub(), nil)
	b.number(GetFeatures)
	b.ok(SetOwner, nil)
	b.refused(99, nil)
	b.say(SetFeatures, U64(virtio.RingPacked).Marshal())
	b.closed()
	b.wait()
	if got, want := b.server.Stats(), (Stats{Sessions: 1, Messages: 4, Refused: 2, Closed: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
