package sys

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Only a socket at which nobody listens makes room; everything else stays as it
// is, and is told apart.
func TestClearStale(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	socket := func(name string) *net.UnixListener {
		t.Helper()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: in(name), Net: "unix"})
		must(err)
		l.SetUnlinkOnClose(false)
		return l
	}
	must(os.WriteFile(in("file"), []byte("precious"), 0o600))
	must(os.Mkdir(in("directory"), 0o700))
	must(socket("stale").Close())
	must(os.Symlink(in("stale"), in("link")))
	must(unix.Mkfifo(in("fifo"), 0o600))
	live := socket("live")
	defer live.Close()
	full, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	defer unix.Close(full)
	must(unix.Bind(full, &unix.SockaddrUnix{Name: in("full")}))
	must(unix.Listen(full, 0))
	waits, err := net.Dial("unix", in("full")) // its queue has room for one
	must(err)
	defer waits.Close()

	for name, words := range map[string]string{
		"file": "not a socket", "directory": "not a socket", "link": "not a socket", "fifo": "not a socket",
		"live": "in use", "full": "in use", "file/below": "not a directory",
	} {
		if err := ClearStale(in(name)); err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), in(name)) {
			t.Errorf("%s: %v, want %q", name, err, words)
		}
		if _, err := os.Lstat(in(name)); err != nil && name != "file/below" {
			t.Errorf("%s is removed", name)
		}
	}
	for _, path := range []string{in("stale"), in("stale"), in("nothing"), "@name", ""} {
		if err := ClearStale(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := os.Lstat(in("stale")); err == nil {
		t.Error("a stale socket stays")
	}
}

// A socket's file is removed, and not what has taken its place.
func TestSocketFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	if _, err := SocketFileAt(path); err == nil {
		t.Error("a file that is not there")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	f, err := SocketFileAt(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.Remove()
	if _, err := os.Lstat(path); err != nil {
		t.Error("another file is removed")
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	f.Remove()
	f.Remove()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the file stays")
	}
	if f, err := SocketFileAt("@name"); err != nil || f != (SocketFile{}) {
		t.Errorf("%v, %v of a socket without a file", f, err)
	}
	SocketFile{}.Remove()
}
