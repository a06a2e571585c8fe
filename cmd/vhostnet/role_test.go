package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vhostnet/vhostuser/vutest"
)

// awaitConnect is a front-end that listens at path, its rings running once the
// program has connected.
func awaitConnect(t *testing.T, path string) *vutest.FrontEnd {
	t.Helper()
	f, err := vutest.Listen(path, vutest.Options{Kind: vutest.QEMU10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	startRings(t, f)
	return f
}

// role=connect: the front-end makes the socket. It drops the connection, and it
// is ended and comes back, with frames passing each time; what the log says of
// it is one line for each change.
func TestConnectRole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "vm")
	p := serveIn(t, dir, programOptions{}, "b", "--port", "vm="+path+",role=connect")
	p.awaitLog("port is open", "port=vm", "role=connect")
	p.awaitLog("waiting for a front-end to listen", "port=vm", "no such file")
	b := connect(t, filepath.Join(dir, "b"), vutest.Options{})
	for range 2 {
		vm := awaitConnect(t, path)
		exchange(t, vm, b, 10)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if _, err := vm.Reconnect(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		exchange(t, vm, b, 10)
		if err := vm.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.logged("waiting for a front-end"); n < 1 || n > 3 {
		t.Errorf("%d lines about waiting, want one for each time that nobody listened", n)
	}
	p.end()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v are left, %v", left, err)
	}
}

// Systemd's sockets go to the ports of their names: one that the command line
// has with another path, one that only the socket names, and by the name of
// its unit.
func TestPassedSockets(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	files := []*os.File{inherit(t, listen(t, path("a"))), inherit(t, listen(t, path("b"))), inherit(t, listen(t, path("c")))}
	p := serveIn(t, dir, programOptions{files: files, names: "a:b:c.socket"}, "d", "--port", "a="+path("unused")+",pairs=2")
	for name := range strings.FieldsSeq("a b c") {
		p.awaitLog("port is open", "port="+name, "fd=")
	}
	a := connect(t, path("a"), vutest.Options{Pairs: 2})
	exchange(t, a, connect(t, path("b"), vutest.Options{}), 10)
	exchange(t, a, connect(t, path("c"), vutest.Options{}), 10)
	exchange(t, a, connect(t, path("d"), vutest.Options{}), 10)
	if _, err := os.Lstat(path("unused")); err == nil {
		t.Error("a socket was made beside the one that was passed")
	}
	p.end()
	for name := range strings.FieldsSeq("a b c") {
		if _, err := os.Lstat(path(name)); err != nil {
			t.Errorf("a socket that systemd made was removed: %v", err)
		}
	}
}

// Sockets that are passed in a way that cannot be meant.
func TestPassedSocketsRefused(t *testing.T) {
	for _, c := range []struct {
		names, args string
		want        []string
	}{
		{"a:a", "run", []string{"passed socket a", "two of the name"}},
		{"a:/", "run", []string{`passed socket "/"`, "FileDescriptorName="}},
		{"a:b", "run --port a=/nowhere,role=connect", []string{"--port a", "passed under this name"}},
		{"a:b", "run --port b=fd:3", []string{"--port b", "passed under this name"}},
		{"vm:b", "--fd 3", []string{"--port vm", "passed under this name"}},
	} {
		dir := t.TempDir()
		files := []*os.File{inherit(t, listen(t, filepath.Join(dir, "1"))), inherit(t, listen(t, filepath.Join(dir, "2")))}
		p := start(t, programOptions{files: files, names: c.names}, strings.Fields(c.args)...)
		if code := p.wait(); code != exitUsage || len(p.log.lines()) != 1 || !hasAll(p.log.String(), c.want...) {
			t.Errorf("%s with %s: exit code %d, log %q", c.args, c.names, code, p.log.String())
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	p := start(t, programOptions{files: []*os.File{null}, names: "a"}, "run")
	if code := p.wait(); code != exitUsage || !hasAll(p.log.String(), "passed socket a", "unix stream socket") {
		t.Errorf("a passed file: exit code %d, log %q", code, p.log.String())
	}
}

// What another process's supervisor passed is not taken: the number of the
// process in LISTEN_PID says whose it is.
func TestOthersSocketsLeftAlone(t *testing.T) {
	t.Setenv("LISTEN_PID", strconv.Itoa(os.Getppid()))
	t.Setenv("LISTEN_FDS", "1")
	t.Setenv("LISTEN_FDNAMES", "a")
	if list, err := passedSockets(); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
	if os.Getenv("LISTEN_FDS") != "" {
		t.Error("the environment still has the sockets, for children to take")
	}
}

// An abstract socket, with the permissions of a file.
func TestAbstractSocket(t *testing.T) {
	name := fmt.Sprintf("@vhostnet-test-%d", os.Getpid())
	dir := t.TempDir()
	p := serveIn(t, dir, programOptions{}, "b", "--port", "a="+name+",socket-mode=600")
	p.awaitLog("port is open", "port=a")
	exchange(t, connect(t, name, vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{}), 10)
	if os.Geteuid() == 0 {
		c, err := dialAs(name, 65534)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		p.awaitLog("could not be accepted", "user 65534", "mode 0600")
	}
	p.end()
}

// dialAs connects as another user.
func dialAs(path string, uid int) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result)
	go func() {
		// The thread is locked and never unlocked: it ends with the goroutine,
		// and its identity with it.
		runtime.LockOSThread()
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			done <- result{err: errno}
			return
		}
		c, err := net.DialTimeout("unix", path, patience)
		done <- result{c, err}
	}()
	r := <-done
	return r.c, r.err
}

// Each port may say who owns its socket; the flags are for the others.
func TestSocketAccessByPort(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may give files away")
	}
	dir := t.TempDir()
	p := start(t, programOptions{}, "run", "--port", "b="+filepath.Join(dir, "b"), "--socket-mode", "600", "--socket-owner", "1001",
		"--port", "a="+filepath.Join(dir, "a")+",socket-mode=620,socket-group=1002")
	p.awaitLog("port is open", "port=a")
	for name, want := range map[string][3]uint32{"a": {0o620, 1001, 1002}, "b": {0o600, 1001, uint32(os.Getegid())}} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if got := [3]uint32{uint32(info.Mode().Perm()), st.Uid, st.Gid}; got != want {
			t.Errorf("%s: mode, owner and group are %o, want %o", name, got, want)
		}
	}
	p.end()
}

// A socket file that a killed vhostnet left is replaced.
func TestStaleSocketReplaced(t *testing.T) {
	dir := t.TempDir()
	p := serveIn(t, dir, programOptions{}, "a b")
	p.awaitLog("port is open", "port=b")
	_ = p.cmd.Process.Kill()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatal("the killed program does not end")
	}
	if _, err := os.Lstat(filepath.Join(dir, "a")); err != nil {
		t.Fatalf("no stale socket to test with: %v", err)
	}
	p = serveIn(t, dir, programOptions{}, "a b")
	p.awaitLog("port is open", "port=b")
	exchange(t, connect(t, filepath.Join(dir, "a"), vutest.Options{}), connect(t, filepath.Join(dir, "b"), vutest.Options{}), 10)
	p.end()
}
