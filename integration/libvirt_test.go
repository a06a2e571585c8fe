//go:build integration

package integration

import (
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLibvirt has two domains on one switch, with QEMU as the user that libvirt
// gives it: one connects to its port's socket, which only its group can, at the
// other vhostnet connects to a socket that QEMU makes. Both outlive a vhostnet
// that is killed.
func TestLibvirt(t *testing.T) {
	dir := publicDir(t)
	must(t, giveToLibvirt(dir))
	for name, from := range map[string]string{"kernel": image.Kernel, "initrd": image.Initrd} {
		data, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	backend := &Backend{Binary: binary, Log: filepath.Join(dir, "vhostnet.log"), Args: []string{"--socket-group", "kvm"}, Ports: []Port{
		{Name: "client", Socket: filepath.Join(dir, "client.sock")},
		{Name: "server", Socket: filepath.Join(dir, "server.sock"), Role: "connect"},
	}}
	lab := &Lab{Backend: backend}
	t.Cleanup(func() {
		backend.Close()
		if t.Failed() {
			lab.Report(t.Output())
		}
	})
	must(t, backend.Start(within(t, time.Minute)))
	l, err := StartLibvirt(within(t, time.Minute), dir)
	must(t, err)
	t.Cleanup(l.Close)
	for i, source := range []string{clientSource, serverSource} {
		port := backend.Ports[i]
		g, err := l.Boot(within(t, 2*time.Minute), GuestConfig{Name: port.Name, Number: i + 1, Dir: dir, Socket: port.Socket, Image: image}, source)
		must(t, err)
		lab.Guests = append(lab.Guests, g)
	}
	runsAsLibvirtUser(t)
	testPing(t, lab)
	transferBothWays(t, lab, 20*megabyte)
	testBackendKilled(t, lab, 50*megabyte, 1)
}

// publicDir is a directory that every user can reach.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vhostnet-libvirt-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	return dir
}

// runsAsLibvirtUser fails t unless the QEMUs of both domains have the user that
// libvirt gives them.
func runsAsLibvirtUser(t *testing.T) {
	t.Helper()
	who, err := user.Lookup(libvirtUser)
	must(t, err)
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	found := 0
	for _, command := range commands {
		text, err := os.ReadFile(command)
		if err != nil || !strings.Contains(string(text), "guest=client,") && !strings.Contains(string(text), "guest=server,") {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(command), "status"))
		must(t, err)
		if !strings.Contains(string(status), "\nUid:\t"+who.Uid+"\t"+who.Uid+"\t") {
			t.Errorf("a QEMU does not run as %s: %s", libvirtUser, status)
		}
		found++
	}
	if found != 2 {
		t.Errorf("%d QEMUs run, want 2", found)
	}
}
