package vhostuser

import (
	"context"
	"fmt"
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

// Trap 7.26: a socket left by a crash is replaced, a live one is not.
func TestTrap7_26_StaleAndLiveSockets(t *testing.T) {
	path := tempSocket(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_, err = NewServer(newStub(), Options{Path: path, Budget: newBudget(t)})
	if err == nil || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), path) {
		t.Fatalf("a live socket: error %v", err)
	}
	_ = l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatalf("no stale socket to test with: %v", err)
	}
	p := newPort(t, path, nil)
	p.dial().number(GetFeatures)

	// Our own end leaves a socket alone that has taken our place.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other := newPort(t, path, nil)
	p.close()
	other.dial().number(GetFeatures)
}

func TestPathsRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	datagram := filepath.Join(dir, "datagram")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: datagram, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := measure(t)
	tests := []struct{ path, part string }{
		{file, "not a socket"},
		{dir, "not a socket"},
		{datagram, "listens"},
		{filepath.Join(dir, "missing", "port.sock"), "directory"},
		{filepath.Join(dir, strings.Repeat("x", 120)), "at most 107"},
	}
	for _, test := range tests {
		_, err := NewServer(newStub(), Options{Path: test.path, Budget: newBudget(t)})
		if err == nil || !strings.Contains(err.Error(), test.part) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one line with %q", test.path, err, test.part)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
	atRest(t, before)
}

func TestSocketModeAndGroup(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for _, test := range []struct {
		mode, want os.FileMode
	}{{0, 0o660}, {0o600, 0o600}, {0o666, 0o666}} {
		path := tempSocket(t)
		p := newPort(t, path, func(o *Options) {
			o.Mode = test.mode
			o.Group = fmt.Sprint(os.Getgid())
		})
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != test.want {
			t.Errorf("mode %#o gives a socket of mode %#o, want %#o", test.mode, got, test.want)
		}
		p.close()
	}
	if os.Getuid() == 0 {
		path := tempSocket(t)
		newPort(t, path, func(o *Options) { o.Group = "12345" })
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Gid; got != 12345 {
			t.Errorf("socket belongs to group %d", got)
		}
	}
	_, err := NewServer(newStub(), Options{Path: tempSocket(t), Group: "no such group", Budget: newBudget(t)})
	if err == nil || !strings.Contains(err.Error(), "no such group") {
		t.Errorf("unknown group: error %v", err)
	}
}

// The socket is never open to others, not even between bind and chmod.
func TestSocketIsBornClosed(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := tempSocket(t)
	config := net.ListenConfig{Control: ownerOnly}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("socket is born with mode %#o, want 0600", got)
	}
}

func TestInheritedListener(t *testing.T) {
	path := tempSocket(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	n, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	_ = l.Close()
	p := newPort(t, path, func(o *Options) { o.Path, o.Listener = "", sys.OwnFD(n) })
	p.dial().number(GetFeatures)
	p.close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("a socket that somebody else bound was removed: %v", err)
	}
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
		{"2 ways", func(_ *stub, o *Options) { o.Conn, _ = pairFD(t) }},
		{"0 rings", func(d *stub, _ *Options) { d.rings = 0 }},
		{"257 rings", func(d *stub, _ *Options) { d.rings = 257 }},
		{"budget", func(_ *stub, o *Options) { o.Budget = nil }},
		{"permission", func(_ *stub, o *Options) { o.Mode = os.ModeSetuid | 0o660 }},
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

// pairFD is one end of a connection whose other end is closed.
func pairFD(t testing.TB) (fd, none *sys.FD) {
	t.Helper()
	a, b := socketPair(t)
	_ = b.Close()
	return a, nil
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

func TestLogLimit(t *testing.T) {
	out := &lines{}
	l := newLimitedLog(hclog.New(&hclog.LoggerOptions{Output: out, Level: hclog.Info, DisableTime: true}))
	now := time.Unix(1000, 0)
	l.now = func() time.Time { return now }
	for i := range 25 {
		l.write(hclog.Warn, "line", "n", i)
		l.write(hclog.Debug, "not asked for")
	}
	if got := strings.Count(out.String(), "\n"); got != linesPerSecond {
		t.Fatalf("%d lines in the first second, want %d", got, linesPerSecond)
	}
	now = now.Add(time.Second)
	l.write(hclog.Warn, "later")
	if got := out.String(); !strings.Contains(got, "lines_suppressed=15") {
		t.Fatalf("the next line does not say what is missing:\n%s", got)
	}
}
