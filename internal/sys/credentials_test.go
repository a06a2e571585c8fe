package sys

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// The kernel's answer about ourselves is what we know of ourselves.
func TestCredentialsOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := CredentialsOf(c)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if got.UID != os.Geteuid() || got.GID != os.Getegid() || !slices.Equal(got.Groups, groups) {
		t.Errorf("%+v, want user %d, group %d, groups %v", got, os.Geteuid(), os.Getegid(), groups)
	}
	if !got.In(os.Getegid()) || got.In(1<<30) || len(groups) > 0 && !got.In(groups[0]) {
		t.Errorf("%+v: membership is wrong", got)
	}
	_ = c.Close()
	if got, err := CredentialsOf(c); err == nil {
		t.Errorf("a closed socket has a peer: %+v", got)
	}
}
