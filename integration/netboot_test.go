//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestNetboot has two firmwares boot from the boot directory of the user-mode
// network: iPXE takes its script by TFTP, then Linux by HTTP; OVMF takes a file
// by TFTP. Nobody else serves them, and the program that does has no privilege.
func TestNetboot(t *testing.T) {
	dir := t.TempDir()
	link := func(name, from string) {
		data, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	link("linux", image.Kernel)
	link("initrd", image.Initrd)
	script := "#!ipxe\nkernel http://10.0.2.2/linux " + GuestConfig{}.kernelLine() + "\ninitrd http://10.0.2.2/initrd\nboot\n"
	must(t, os.WriteFile(filepath.Join(dir, "boot.ipxe"), []byte(script), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "payload"), make([]byte, payloadBytes), 0o644))
	lab := startUnprivileged(t, []string{"--uplink", "user,boot=" + dir + ",boot-file=payload,boot-file=ipxe=boot.ipxe"},
		GuestConfig{Name: "ipxe", QEMU: machine.QEMU, Firmware: IPXE, Later: true},
		GuestConfig{Name: "ovmf", QEMU: machine.QEMU, Firmware: OVMF, Later: true})
	run(t, "IPXE", func(t *testing.T) {
		begin := time.Now()
		must(t, lab.Boot(within(t, 4*time.Minute), 0, nil))
		t.Logf("booted over the network in %v", time.Since(begin).Round(time.Second))
		must(t, lab.Guests[0].Close())
	})
	run(t, "OVMF", func(t *testing.T) {
		ctx := within(t, 4*time.Minute)
		must(t, lab.PowerOn(ctx, 1))
		must(t, lab.Guests[1].AwaitConsole(ctx, "NBP file downloaded successfully"))
		must(t, lab.Guests[1].Close())
	})
}
