package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"vhostnet/vhostuser/vutest"
)

// The sockets' permissions are what the flags say, whatever the umask.
func TestSocketPermissions(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	gid := os.Getgid()
	if os.Geteuid() == 0 {
		gid = 12345 // root may give files to any group
	}
	for _, c := range []struct {
		args string
		mode os.FileMode
		gid  int
	}{
		{"", 0o660, os.Getegid()},
		{"--socket-mode 0666", 0o666, os.Getegid()},
		{"--socket-mode 620 --socket-group " + strconv.Itoa(gid), 0o620, gid},
		{"--socket-group " + groupName(t), 0o660, os.Getgid()},
	} {
		dir := t.TempDir()
		p := serveIn(t, dir, programOptions{}, "a", strings.Fields(c.args)...)
		p.awaitLog("port is open")
		info, err := os.Lstat(filepath.Join(dir, "a"))
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t); info.Mode() != c.mode|os.ModeSocket || int(owner.Gid) != c.gid {
			t.Errorf("%q: the socket is %v of group %d, want %v of group %d", c.args, info.Mode(), owner.Gid, c.mode, c.gid)
		}
		p.end()
	}
}

func groupName(t *testing.T) string {
	t.Helper()
	g, err := user.LookupGroupId(strconv.Itoa(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	return g.Name
}

// refuse runs the program with what is at path, and checks that it refuses it
// with one line and leaves everything as it was.
func refuse(t *testing.T, path string, want ...string) {
	t.Helper()
	other := filepath.Join(t.TempDir(), "other")
	before, _ := os.Lstat(path)
	code, out, log := runHere(context.Background(), "run", "--port", "other="+other, "--port", "web="+path)
	if code != exitUsage || out != "" || strings.Count(log, "\n") != 1 || !hasAll(log, append(want, "--port web", path)...) {
		t.Errorf("%s: exit code %d, output %q, log %q", path, code, out, log)
	}
	if after, _ := os.Lstat(path); (before == nil) != (after == nil) || before != nil && !os.SameFile(before, after) {
		t.Errorf("%s is not what it was", path)
	}
	if _, err := os.Lstat(other); err == nil {
		t.Error("the socket of the other port is left")
	}
}

// What is in the way of a socket is told, and stays.
func TestPathsRefused(t *testing.T) {
	vutest.CheckLeaks(t)
	dir := t.TempDir()
	refuse(t, filepath.Join(dir, "missing", "web"), "directory must exist")
	refuse(t, dir, "not a socket")
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	refuse(t, file, "not a socket")
	refuse(t, filepath.Join(file, "web"))
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	refuse(t, link, "not a socket")
	live := filepath.Join(dir, "live")
	l, err := net.Listen("unix", live)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	refuse(t, live, "in use")
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

// A port whose socket another vhostnet serves is refused, and its front-end
// notices nothing.
func TestLiveSocketRefused(t *testing.T) {
	dir := t.TempDir()
	p := serveIn(t, dir, programOptions{}, "a b")
	a, b := connect(t, filepath.Join(dir, "a"), vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{})
	refuse(t, filepath.Join(dir, "a"), "in use")
	exchange(t, a, b, 10)
	p.end()
}

// inherit makes a file of a socket, for a program to inherit.
func inherit(t *testing.T, c interface{ File() (*os.File, error) }) *os.File {
	t.Helper()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// --fd with a socket that listens: one front-end after the other, until the
// end, which leaves the file to whoever made it.
func TestListeningFD(t *testing.T) {
	dir := t.TempDir()
	l := listen(t, filepath.Join(dir, "vm"))
	p := serveIn(t, dir, programOptions{files: []*os.File{inherit(t, l)}}, "b", "--fd", "3")
	p.awaitLog("port is open", "port=vm", "fd=3")
	b := connect(t, filepath.Join(dir, "b"), vutest.Options{})
	for range 3 {
		vm := connect(t, filepath.Join(dir, "vm"), vutest.Options{})
		exchange(t, vm, b, 10)
		if err := vm.Close(); err != nil {
			t.Fatal(err)
		}
	}
	p.end()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v are left, %v; want the inherited socket's file", left, err)
	}
}

// --fd with a socket that a front-end is connected to: the program serves it
// and ends with it.
func TestConnectedFD(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vm")
	l := listen(t, path)
	vm := vutest.Connect(t, path, vutest.Options{Kind: vutest.QEMU10})
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, programOptions{files: []*os.File{inherit(t, c)}}, "--fd", "3", "--workers", "1")
	_ = c.Close()
	startRings(t, vm)
	if err := vm.Send(0, frame('b', 'a')); err != nil {
		t.Fatal(err)
	}
	if err := vm.WaitSent(0); err != nil {
		t.Fatal(err)
	}
	p.alive()
	if err := vm.Close(); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(); code != exitDone {
		t.Errorf("exit code %d after the front-end has left", code)
	}
	p.awaitLog("front-end disconnected", "port=vm")
}

// Descriptors that are no such sockets are refused before anything starts.
func TestWrongFD(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	packets, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "packets"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = packets.Close() }()
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	for i, f := range []*os.File{null, inherit(t, packets), inherit(t, tcp)} {
		p := start(t, programOptions{files: []*os.File{f}}, "--fd", "3")
		if code := p.wait(); code != exitUsage || len(p.log.lines()) != 1 || !hasAll(p.log.String(), "--fd 3", "unix stream socket") {
			t.Errorf("file %d: exit code %d, log %q", i, code, p.log.String())
		}
	}
}

// --socket-path, as management software starts a back-end of its own for each
// VM. Commas are part of the path.
func TestSocketPath(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vm,mode=poll")
	p := start(t, programOptions{}, fmt.Sprintf("--socket-path=%s", path), "--workers=1")
	p.awaitSocket(path)
	vm := connect(t, path, vutest.Options{Kind: vutest.QEMU72})
	if err := vm.Send(0, frame('b', 'a')); err != nil {
		t.Fatal(err)
	}
	if err := vm.WaitSent(0); err != nil {
		t.Fatal(err)
	}
	p.end()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}
