package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vhostnet/vhostuser/vutest"
)

// runVMs starts the program with --vm and its sockets in a directory of the
// test's.
func runVMs(t *testing.T, args ...string) (p *program, dir string) {
	t.Helper()
	runtime := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	return start(t, programOptions{}, append([]string{"run", "--workers", "1"}, args...)...), filepath.Join(runtime, "vhostnet")
}

// The sockets are in a directory that others cannot enter, and what is printed
// of each VM names its socket and its address, by which the switch knows it.
func TestVMs(t *testing.T) {
	p, dir := runVMs(t, "--vm", "web", "--vm", "db,mac=52:54:00:00:00:62", "-o", "json")
	p.awaitLog("port is open", "port=db")
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	waitFor(t, "the recipes", func() bool { return len(p.out.lines()) == 1 })
	var got struct {
		VMs []recipe `json:"vms"`
	}
	if err := json.Unmarshal([]byte(p.out.lines()[0]), &got); err != nil || len(got.VMs) != 2 {
		t.Fatalf("%v: %s", err, p.out.String())
	}
	for i, name := range []string{"web", "db"} {
		r := got.VMs[i]
		p.awaitLog("port is open", "port="+name)
		if r.VM != name || r.Socket != filepath.Join(dir, name+".sock") || i == 1 && r.MAC != "52:54:00:00:00:62" || p.logged("port="+name, "mac="+r.MAC) != 1 {
			t.Errorf("%+v", r)
		}
		for _, text := range []string{r.QEMU, r.CloudHypervisor, r.Libvirt} {
			if !hasAll(text, r.Socket, r.MAC) || !strings.Contains(text, "share") {
				t.Errorf("recipe of %s:\n%s", name, text)
			}
		}
	}
	web, db := connect(t, got.VMs[0].Socket, vutest.Options{}), connect(t, got.VMs[1].Socket, vutest.Options{})
	exchange(t, web, db, 3)
	p.end()
}

// The line that is printed for QEMU starts one that is attached.
func TestQEMULine(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("there is no QEMU: ", err)
	}
	p, _ := runVMs(t, "--vm", "web", "--vm", "db")
	waitFor(t, "the recipes", func() bool { return strings.Count(p.out.String(), "</interface>") == 2 })
	_, line, _ := strings.Cut(p.out.String(), "# VM db: QEMU")
	_, line, _ = strings.Cut(line, "\n")
	line, _, _ = strings.Cut(line, "\n\n")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	qemu := exec.CommandContext(ctx, "/bin/sh", "-c", "exec "+line+" -S -display none -serial none -monitor stdio")
	var said text
	qemu.Stdout, qemu.Stderr = &said, &said
	monitor, err := qemu.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	p.awaitLog("front-end connected", "port=db")
	if _, err := monitor.Write([]byte("quit\n")); err != nil {
		t.Fatal(err)
	}
	if err := qemu.Wait(); err != nil {
		t.Errorf("%v: %s", err, said.String())
	}
	p.end()
}

// A directory that is somebody else's to write to is not used; nor is there one
// without a place for it.
func TestRuntimeDir(t *testing.T) {
	runtime := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	dir := filepath.Join(runtime, "vhostnet")
	for what, prepare := range map[string]func() error{
		"open to others": func() error { return os.Mkdir(dir, 0o700|os.ModeDir) },
		"a link":         func() error { return os.Symlink(runtime, dir) },
		"a file":         func() error { return os.WriteFile(dir, nil, 0o600) },
	} {
		if err := prepare(); err != nil {
			t.Fatal(err)
		}
		if what == "open to others" {
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		code, out, log := runHere(ended(), "run", "--vm", "web")
		if code != exitUsage || out != "" || !hasAll(log, dir, "others can write to it") {
			t.Errorf("%s: exit code %d, output %q, log %q", what, code, out, log)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(runtime, "nowhere"))
	if code, _, log := runHere(ended(), "run", "--vm", "web"); code != exitUsage || !hasAll(log, "sockets of --vm", "no such file") {
		t.Errorf("exit code %d, log %q", code, log)
	}
}

// VMs of --vm have a way out without anything else being said: the gateway of
// the user-mode network, which is this host, answers them.
func TestVMsHaveUplink(t *testing.T) {
	p, dir := runVMs(t, "--vm", "web")
	p.awaitLog("INFO", "uplink is open", "port=internet", "uplink=user")
	p.awaitSocket(filepath.Join(dir, "web.sock"))
	askFor(t, connect(t, filepath.Join(dir, "web.sock"), vutest.Options{}), [4]byte{10, 0, 2, 15}, [4]byte{10, 0, 2, 2})
	p.end()

	p, dir = runVMs(t, "--vm", "web", "--uplink", "none")
	p.awaitSocket(filepath.Join(dir, "web.sock"))
	p.end()
	if p.logged("uplink is open") != 0 {
		t.Error("there is an uplink, and none was wanted")
	}
}
