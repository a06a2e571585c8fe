package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vhostnet/internal/sys"
)

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

// A socket for its owner alone is his from the beginning, in the place of a
// stale one.
func TestListenOwner(t *testing.T) {
	for _, path := range []string{"", "@name"} {
		if _, _, err := ListenOwner(path); err == nil {
			t.Errorf("listening at %q", path)
		}
	}
	path := filepath.Join(t.TempDir(), "socket")
	for range 2 {
		l, remove, err := ListenOwner(path)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%v, %v; want a socket of mode 0600", info, err)
		}
		if _, _, err := ListenOwner(path); err == nil {
			t.Error("two listen at one path")
		}
		_ = l.Close() // leaves the file
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
		defer remove()
	}
}

// A socket beside a port's has the permissions that are asked for.
func TestListenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	for _, bad := range []struct{ path, owner string }{{"", ""}, {"@name", ""}, {path, "no such user"}} {
		if _, _, err := ListenFile(bad.path, 0o660, bad.owner, ""); err == nil {
			t.Errorf("listening at %q for %q", bad.path, bad.owner)
		}
	}
	l, remove, err := ListenFile(path, 0o620, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != os.ModeSocket|0o620 {
		t.Errorf("%v, %v; want a socket of mode 0620", info, err)
	}
	_ = l.Close()
	remove()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
}
