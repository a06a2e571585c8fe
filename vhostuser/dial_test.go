package vhostuser

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"vhostnet/internal/sys"
	"vhostnet/virtio"
)

// monitor is a front-end that listens.
type monitor struct {
	t testing.TB
	l *net.UnixListener
}

func listenAt(t testing.TB, path string) *monitor {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return &monitor{t, l}
}

// take waits for the back-end to connect.
func (m *monitor) take() *peer {
	m.t.Helper()
	if err := m.l.SetDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	u, err := m.l.AcceptUnix()
	if err != nil {
		m.t.Fatal(err)
	}
	return dialled(m.t, u)
}

func dials(o *Options) { o.Dial, o.DialPause = true, 20*time.Millisecond }

// await waits until ok, for as long as a test may wait.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// The front-end listens, comes late, leaves, and is killed and started again;
// the port finds it each time and its log has one line for each change.
func TestDialSurvivesTheFrontEnd(t *testing.T) {
	for _, path := range []string{tempSocket(t), "@vhostnet-test-" + t.Name()} {
		p := newPort(t, path, dials)
		await(t, "three attempts", func() bool { return p.server.Stats().Unreached >= 3 })
		if n := strings.Count(p.log.String(), "waiting for a front-end"); n != 1 {
			t.Errorf("%d lines about waiting after three attempts, want 1:\n%s", n, p.log)
		}
		for range 3 {
			m := listenAt(t, path)
			f := m.take()
			f.ok(SetFeatures, U64(accepted).Marshal())
			f.ok(SetVringEnable, state(0, 1))
			_ = f.conn.Close() // the connection ends, the front-end listens on
			f = m.take()
			f.number(GetFeatures)
			_ = m.l.Close() // the process ends
			_ = f.conn.Close()
			before := p.server.Stats().Unreached
			await(t, "an attempt in vain", func() bool { return p.server.Stats().Unreached > before })
		}
		p.close()
		if got := p.server.Stats(); got.Sessions != 6 || got.Closed != 0 {
			t.Errorf("%+v, want 6 sessions that their front-ends ended", got)
		}
		if path[0] != '@' {
			if _, err := os.Lstat(path); !os.IsNotExist(err) {
				t.Errorf("a file is left at %s: %v", path, err)
			}
		}
	}
}

// A socket file that nobody listens at is the front-end's: it is waited for,
// and left alone.
func TestDialLeavesTheFileAlone(t *testing.T) {
	path := tempSocket(t)
	m := listenAt(t, path)
	m.l.SetUnlinkOnClose(false)
	_ = m.l.Close()
	before, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	p := newPort(t, path, dials)
	await(t, "an attempt", func() bool { return p.server.Stats().Unreached > 0 })
	if !strings.Contains(p.log.String(), syscall.ECONNREFUSED.Error()) {
		t.Errorf("the log does not say what is the matter:\n%s", p.log)
	}
	p.close()
	if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the front-end's file is another one or gone: %v", err)
	}
}

// Close and the end of the context end the waiting and the serving.
func TestDialEnds(t *testing.T) {
	before := measure(t)
	path := tempSocket(t)
	p := newPort(t, path, dials)
	await(t, "an attempt", func() bool { return p.server.Stats().Unreached > 0 })
	p.server.Close()
	p.close()
	m := listenAt(t, path)
	p = newPort(t, path, dials)
	f := m.take()
	f.ok(SetVringEnable, state(0, 1))
	p.close()
	f.closed()
	_ = f.conn.Close()
	_ = m.l.Close()
	atRest(t, before)
}

func TestBackoff(t *testing.T) {
	b := backoff{longest: time.Second}
	sum := time.Duration(0)
	for i := range 20 {
		d := b.next()
		if d < firstPause || d > b.longest || i == 0 && d != firstPause {
			t.Errorf("pause %d is %v", i, d)
		}
		sum += d
	}
	if last := b.next(); last != b.longest || sum < 10*b.longest {
		t.Errorf("20 pauses of %v in all, the next one %v", sum, last)
	}
}

// An abstract socket asks of whoever connects what a file's permissions would.
func TestAbstractSocket(t *testing.T) {
	name := "@vhostnet-test-" + t.Name()
	p := newPort(t, name, nil)
	p.dial().number(GetFeatures)
	if _, err := NewServer(newStub(), Options{Path: name, Budget: newBudget(t)}); err == nil {
		t.Error("a second server was bound to the name")
	}
	p.close()
	p = newPort(t, name, nil) // it is free again
	p.dial().ok(SetFeatures, U64(virtio.Version1|virtio.ProtocolFeatures).Marshal())
}

// Who may connect: owner, group and others, by the first that applies.
func TestAbstractSocketAdmits(t *testing.T) {
	for _, c := range []struct {
		a        access
		uid, gid int
		groups   []int
		ok       bool
	}{
		{access{0o660, 1000, 100}, 1000, 7, nil, true},
		{access{0o060, 1000, 100}, 1000, 100, nil, false},
		{access{0o660, 1000, 100}, 1001, 100, nil, true},
		{access{0o660, 1000, 100}, 1001, 7, []int{5, 100}, true},
		{access{0o600, 1000, 100}, 1001, 100, nil, false},
		{access{0o660, 1000, 100}, 1001, 7, []int{5}, false},
		{access{0o662, 1000, 100}, 1001, 7, nil, true},
		{access{0o440, 1000, 100}, 1000, 100, nil, false},
		{access{0, 1000, 100}, 0, 0, nil, true},
		{access{0o200, -1, -1}, os.Geteuid(), 7, nil, true},
	} {
		err := c.a.judge(sys.Credentials{UID: c.uid, GID: c.gid, Groups: c.groups})
		if (err == nil) != c.ok {
			t.Errorf("%+v: user %d, group %d, groups %v: %v, want ok %v", c.a, c.uid, c.gid, c.groups, err, c.ok)
		}
	}
}
