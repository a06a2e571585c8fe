//go:build integration

package integration

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInstall: make install puts everything below DESTDIR, with the places
// written into it; systemd, man and QEMU's convention take what is theirs, and a
// second run leaves a configuration as it is.
func TestInstall(t *testing.T) {
	dest := t.TempDir()
	makeInstall(t, dest)
	var got []string
	err := filepath.WalkDir(dest, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			got = append(got, strings.TrimPrefix(path, dest))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"/usr/bin/vhostnet", "/usr/share/man/man1/vhostnet.1", "/usr/share/man/man1/vhostnet-run.1", "/usr/share/man/man1/vhostnet-check.1",
		"/usr/share/bash-completion/completions/vhostnet", "/usr/share/zsh/site-functions/_vhostnet", "/usr/share/fish/vendor_completions.d/vhostnet.fish",
		"/usr/lib/systemd/system/vhostnet.service", "/usr/share/qemu/vhost-user/50-vhostnet.json", "/etc/vhostnet/vhostnet.hcl",
		"/usr/share/doc/vhostnet/configuration.md", "/usr/share/doc/vhostnet/vhostnet.hcl",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing", want)
		}
	}
	t.Run("descriptor", func(t *testing.T) { checkDescriptor(t, dest) })
	t.Run("manual", func(t *testing.T) { checkManual(t, dest) })
	t.Run("unit", func(t *testing.T) { checkUnit(t, dest) })

	etc := filepath.Join(dest, "etc", "vhostnet", "vhostnet.hcl")
	own := []byte("port \"mine\" { socket = \"/run/vhostnet/mine\" }\n")
	if err := os.WriteFile(etc, own, 0o600); err != nil {
		t.Fatal(err)
	}
	makeInstall(t, dest)
	if b, err := os.ReadFile(etc); err != nil || !bytes.Equal(b, own) {
		t.Errorf("the configuration that was there is now %q, %v", b, err)
	}
}

func makeInstall(t *testing.T, dest string) {
	t.Helper()
	cmd := exec.Command("make", "install", "DESTDIR="+dest, "PREFIX=/usr")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// checkDescriptor reads QEMU's back-end descriptor as management software does,
// and asks the program what it is.
func checkDescriptor(t *testing.T, dest string) {
	b, err := os.ReadFile(filepath.Join(dest, "usr/share/qemu/vhost-user/50-vhostnet.json"))
	if err != nil {
		t.Fatal(err)
	}
	var descriptor, program struct{ Description, Type, Binary string }
	if err := json.Unmarshal(b, &descriptor); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(dest, descriptor.Binary), "--print-capabilities").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &program); err != nil {
		t.Fatal(err)
	}
	if descriptor.Binary != "/usr/bin/vhostnet" || descriptor.Type != program.Type || descriptor.Type != "net" || descriptor.Description == "" {
		t.Errorf("the descriptor says %+v, the program %+v", descriptor, program)
	}
}

// checkManual formats the pages: no complaint, and the options are in it line by
// line.
func checkManual(t *testing.T, dest string) {
	pages, err := filepath.Glob(filepath.Join(dest, "usr/share/man/man1/*.1"))
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	if _, err := exec.LookPath("groff"); err != nil {
		t.Fatal("there is no groff to format the manual; scripts/setup.sh test installs it: ", err)
	}
	for _, page := range pages {
		cmd := exec.Command("groff", "-man", "-Tutf8", "-ww", "-P-cbou", page)
		var complaints bytes.Buffer
		cmd.Stderr = &complaints
		out, err := cmd.Output()
		if err != nil || complaints.Len() > 0 {
			t.Errorf("%s: %v: %s", page, err, complaints.String())
		}
		if strings.HasSuffix(page, "vhostnet-run.1") && !strings.Contains(string(out), "  mtu=BYTES      longest packet") {
			t.Errorf("%s:\n%s", page, out)
		}
	}
}

// checkUnit lets systemd judge the unit: that it is right, and how much of the
// system it leaves the program.
func checkUnit(t *testing.T, dest string) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Fatal("there is no systemd to judge the unit; scripts/setup.sh test installs it: ", err)
	}
	unit := filepath.Join(dest, "usr/lib/systemd/system/vhostnet.service")
	text, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "@") && strings.Contains(string(text), "DIR@") {
		t.Errorf("a place is not filled in:\n%s", text)
	}
	if !strings.Contains(string(text), " --state-dir %t/") {
		t.Errorf("packed rings do not survive a kill:\n%s", text)
	}
	// The program is not at /usr/bin here, and verify looks for it.
	local := filepath.Join(t.TempDir(), "vhostnet.service")
	if err := os.WriteFile(local, bytes.ReplaceAll(text, []byte("=/usr/bin/vhostnet"), []byte("="+filepath.Join(dest, "usr/bin/vhostnet"))), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(analyze, "verify", "--man=no", local).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v: %s", err, out)
	}
	// 2.0 of 10 is "OK" in its words.
	if out, err := exec.Command(analyze, "security", "--offline=yes", "--threshold=20", local).CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v: %s", err, out)
	}
}
