//go:build integration

package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The example of another device gives a guest entropy: Linux's virtio_rng takes
// it for /dev/hwrng, and again after it was unloaded and loaded. QEMU listens,
// and the device connects. (QEMU 10.0 does not survive the device's restart.)
func TestExampleRNG(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "vhostnet-rng-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "rng")
	if err := Build(ctx, "examples/rng", program); err != nil {
		t.Fatal(err)
	}
	socket, log := filepath.Join(dir, "rng.sock"), filepath.Join(dir, "rng.log")
	device := startRNG(t, program, socket, log)
	defer func() { device.kill() }()

	lab, err := StartLab(ctx, LabConfig{Dir: dir, Binary: binary, Image: image, Guests: []GuestConfig{{
		Name: "a", QEMU: machine.QEMU,
		Arguments: []string{
			"-chardev", "socket,id=rng,server=on,path=" + socket,
			"-device", "vhost-user-rng-pci,chardev=rng",
		},
	}}})
	defer func() {
		if t.Failed() {
			lab.Report(os.Stderr)
			tail(os.Stderr, log)
		}
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	guest := lab.Guests[0]
	if _, err := guest.Run(ctx, "modprobe", "virtio_rng"); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	read := func() {
		t.Helper()
		source, err := guest.Run(ctx, "cat", "/sys/class/misc/hw_random/rng_current")
		if err != nil || !strings.HasPrefix(source, "virtio_rng") {
			t.Fatalf("/dev/hwrng is %q, %v", source, err)
		}
		out, err := guest.Shell(ctx, "dd if=/dev/hwrng bs=4096 count=16 iflag=fullblock of=/tmp/random 2>/dev/null; wc -c </tmp/random; sha256sum </tmp/random")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the guest read: %q", out)
		if !strings.HasPrefix(out, "65536") || seen[out] {
			t.Errorf("the guest read %q, want 65536 bytes and others than before", out)
		}
		seen[out] = true
	}
	read()
	read()
	if _, err := guest.Shell(ctx, "rmmod virtio_rng && modprobe virtio_rng"); err != nil {
		t.Fatal(err)
	}
	read()
}

// startRNG starts the device, which waits for its virtual machine.
func startRNG(t *testing.T, program, socket, log string) *process {
	t.Helper()
	device, err := start("rng", log, program, "--socket-path", socket, "--connect")
	if err != nil {
		t.Fatal(err)
	}
	return device
}
