package main

import (
	"net"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// systemd is told when the sockets are there, when the configuration is read
// anew, and when the program ends.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	told := func(n int) (list []string) {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		for range n {
			b := make([]byte, 100)
			n, err := conn.Read(b)
			if err != nil {
				t.Fatalf("after %q: %v", list, err)
			}
			list = append(list, string(b[:n]))
		}
		return list
	}
	r := startReloader(t, "", "a")
	list := told(1)
	r.signal(syscall.SIGHUP)
	list = append(list, told(2)...)
	r.end()
	list = slices.Concat(list, told(1))
	if diff := cmp.Diff([]string{"READY=1", "RELOADING=1", "READY=1", "STOPPING=1"}, list); diff != "" {
		t.Error(diff)
	}
}
