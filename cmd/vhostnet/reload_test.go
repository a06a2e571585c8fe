package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vhostnet/vhostuser/vutest"
)

// reloader is a program that runs a file.
type reloader struct {
	*program
	dir, file string
}

// text is a file with ports on sockets of their names in the directory; each
// may be followed by its options, behind commas.
func (r *reloader) text(settings string, ports ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "workers = 1\n%s\n", settings)
	for _, p := range ports {
		name, options, _ := strings.Cut(p, ",")
		fmt.Fprintf(&b, "port %q {\n socket = %q\n %s\n}\n", name, filepath.Join(r.dir, name), strings.ReplaceAll(options, ",", "\n"))
	}
	return b.String()
}

func startReloader(t *testing.T, settings string, ports ...string) *reloader {
	t.Helper()
	r := &reloader{dir: t.TempDir()}
	r.file = writeFile(t, "v.hcl", r.text(settings, ports...))
	r.program = start(t, programOptions{}, "run", r.file)
	for _, p := range ports {
		name, _, _ := strings.Cut(p, ",")
		r.awaitSocket(filepath.Join(r.dir, name))
	}
	if strings.Contains(settings, "control") { // its socket is there before it listens
		r.awaitLog("INFO", "control socket is open")
	}
	return r
}

// reload writes a file, asks for it and waits for a line of the log with words.
func (r *reloader) reload(text string, words ...string) {
	r.t.Helper()
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	before := r.logged(words...)
	r.signal(syscall.SIGHUP)
	waitFor(r.t, "a line with "+strings.Join(words, ", "), func() bool {
		r.alive()
		return r.logged(words...) > before
	})
}

func (r *reloader) connect(name string) *vutest.FrontEnd {
	r.t.Helper()
	r.awaitSocket(filepath.Join(r.dir, name))
	return connect(r.t, filepath.Join(r.dir, name), vutest.Options{})
}

// A new file changes only what is not as it was.
func TestReload(t *testing.T) {
	const taken = "configuration is read anew"
	r := startReloader(t, "", "a", "b", "c")
	a, b := r.connect("a"), r.connect("b")
	exchange(t, a, b, 5)
	r.reload(r.text("", "a", "b", "d"), taken, "added=1", "removed=1", "replaced=0")
	exchangeAs(t, r.connect("d"), a, 'a', 'd', 5)
	exchange(t, a, b, 5)
	if _, err := os.Lstat(filepath.Join(r.dir, "c")); err == nil {
		t.Error("the socket of a port that is gone is left")
	}
	r.reload(r.text("", "d", "b", "a"), taken, "added=0", "removed=0", "replaced=0")
	exchange(t, a, b, 5)
	if n := r.logged("front-end disconnected"); n != 0 {
		t.Errorf("%d front-ends were disconnected, whose ports are as they were", n)
	}
	r.reload(r.text("", "a,inflight=true", "b", "d"), taken, "added=0", "removed=0", "replaced=1", "changed=0")
	a = r.connect("a")
	exchange(t, a, b, 5)
	r.reload(r.text("log_level = \"debug\"", "a", "b", "d"), taken, "replaced=1")
	r.connect("a")
	r.awaitLog("DEBUG", "queue state")
	r.end()
}

// What cannot be taken is refused with one line, and everything stays.
func TestReloadRefused(t *testing.T) {
	const refused = "is not taken"
	r := startReloader(t, "", "a", "b", "c")
	a, b := r.connect("a"), r.connect("b")
	for text, words := range map[string][]string{
		"port \"a\" {":                                                                 {":1:"},
		r.text("mtu = 3", "a"):                                                         {"2:1", "mtu"},
		r.text("placement = \"balance\"", "a"):                                         {"placement", "started again"},
		r.text("guest_port = 9", "a", "b", "c"):                                        {"guest-port", "started again"},
		r.text("socket_mode = \"0600\"", "a", "b", "c"):                                {"socket-mode", "started again"},
		r.text("stats = \"1s\"", "a", "b", "c"):                                        {"stats", "started again"},
		r.text("", "a,mtu=1400", "b", "c"):                                             {`port \"a\"`, "mtu"},
		r.text("", "a,pairs=1", "b", "c"):                                              {`port \"a\"`, "pairs"},
		r.text("", "a,frontend=\"libkrun\"", "b"):                                      {`port \"a\"`, "frontend"},
		r.text("", "a,mirror=\"x\"", "b", "c"):                                         {`port \"a\"`, "mirror=x"},
		r.text("", "a", "b", "no/such/directory"):                                      {"at most 63"},
		r.text("", "a", "b") + "port \"d\" {\n socket = \"fd:9\"\n}\n":                 {`port \"d\"`, "at the start only"},
		r.text("", "a", "b") + "port \"d\" {\n socket = \"/no/such/directory/d\"\n}\n": {`port \"d\"`, "/no/such/directory"},
	} {
		before := r.logged("not taken")
		r.reload(text, append([]string{"ERROR", refused, "file="}, words...)...)
		if n := r.logged("not taken"); n != before+1 {
			t.Errorf("%d lines about %q", n-before, text)
		}
	}
	if err := os.Remove(r.file); err != nil {
		t.Fatal(err)
	}
	r.signal(syscall.SIGHUP)
	r.awaitLog("ERROR", refused, "no such file")
	exchange(t, a, b, 5)
	exchangeAs(t, r.connect("c"), a, 'a', 'c', 5) // removed and added again, with the one that did not open
	if n := r.logged("front-end disconnected"); n != 0 {
		t.Errorf("%d front-ends were disconnected", n)
	}
	r.end()
}

// Without a file SIGHUP ends the program, as it ends others.
func TestHangupWithoutFile(t *testing.T) {
	p := serveIn(t, t.TempDir(), programOptions{}, "a")
	p.signal(syscall.SIGHUP)
	if code := p.wait(); code != -1 {
		t.Errorf("exit code %d after SIGHUP, want its end by the signal", code)
	}
}
