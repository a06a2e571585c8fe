package conform

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"vhostnet/vhostuser"
	"vhostnet/vhostuser/vutest"
)

// backEnd is one that behaves as it is told, on each connection.
func backEnd(t *testing.T, behave func(c *net.UnixConn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			behave(c)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return path
}

// impatience makes scenarios of a back-end that does not answer short.
const impatience = 5 * time.Millisecond

// Names are words that say which trap they are, once each, and every scenario
// says what is asked.
func TestScenarios(t *testing.T) {
	seen := map[string]bool{}
	name := regexp.MustCompile(`^[a-z0-9]+([.-][a-z0-9]+)+$`)
	for _, s := range Scenarios() {
		if !name.MatchString(s.Name) || seen[s.Name] || s.About == "" || strings.Contains(s.About, "\n") {
			t.Errorf("scenario %q: %q", s.Name, s.About)
		}
		seen[s.Name] = true
	}
	if len(seen) < 60 {
		t.Errorf("%d scenarios", len(seen))
	}
}

// Back-ends that are silent, leave at once, talk nonsense or say yes to
// everything: the scenarios end, those that ask something of them fail with a
// sentence, and nothing of ours is left.
func TestBadBackEnds(t *testing.T) {
	vutest.CheckLeaks(t)
	for name, behave := range map[string]func(c *net.UnixConn){
		"silent":  func(c *net.UnixConn) { go func() { _, _ = io.Copy(io.Discard, c); _ = c.Close() }() },
		"leaving": func(c *net.UnixConn) { _ = c.Close() },
		"babbling": func(c *net.UnixConn) {
			go func() {
				_, _ = c.Write([]byte(strings.Repeat("nonsense", 1000)))
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}()
		},
		"obliging": func(c *net.UnixConn) { go oblige(c) },
	} {
		path := backEnd(t, behave)
		list, err := Run(context.Background(), Options{Path: path, Timeout: impatience}, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		passed := 0
		for _, out := range list {
			if out.Result == Pass {
				passed++
			}
			if (out.Result == Pass) != (out.Detail == "") {
				t.Errorf("%s: %s is %s, detail %q", name, out.Name, out.Result, out.Detail)
			}
		}
		if len(list) != len(Scenarios()) || Failed(list) == 0 || passed > 3 {
			t.Errorf("%s: %d outcomes, %d failed, %d passed", name, len(list), Failed(list), passed)
		}
	}
}

// oblige answers each request with a number, 0, whatever it is.
func oblige(c *net.UnixConn) {
	defer func() { _ = c.Close() }()
	for {
		head := make([]byte, vhostuser.HeaderLen)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		h, err := vhostuser.ParseHeader(head)
		if err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(h.Size)); err != nil {
			return
		}
		if _, err := c.Write(vhostuser.Message(h.Request, vhostuser.ReplyFlags, vhostuser.U64(0).Marshal())); err != nil {
			return
		}
	}
}

func TestRunRefuses(t *testing.T) {
	ctx := context.Background()
	path := backEnd(t, func(c *net.UnixConn) { _ = c.Close() })
	for name, o := range map[string]Options{
		"no path":          {},
		"nobody":           {Path: filepath.Join(t.TempDir(), "nobody")},
		"no peer":          {Path: path, Peer: filepath.Join(t.TempDir(), "nobody")},
		"negative timeout": {Path: path, Timeout: -1},
		"unknown scenario": {Path: path, Only: []string{"no-such-thing"}},
	} {
		if list, err := Run(ctx, o, nil); err == nil || len(list) != 0 {
			t.Errorf("%s: %d outcomes, %v", name, len(list), err)
		}
	}
}

// The end of the caller's context ends the run; progress and choice are as
// asked.
func TestRunEnds(t *testing.T) {
	path := backEnd(t, func(c *net.UnixConn) { _ = c.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	only := []string{"trap-7.38-reply-flags", "config-space", "trap-7.1-enable-early"}
	list, err := Run(ctx, Options{Path: path, Only: only, Timeout: impatience}, func(done, all int, out Outcome) {
		if all != len(only) || out.Name != only[done-1] {
			t.Errorf("%d of %d: %s", done, all, out.Name)
		}
		if done == 2 {
			cancel()
		}
	})
	if err == nil || len(list) != 2 {
		t.Errorf("%d outcomes after the second one ended the run, %v", len(list), err)
	}
}
