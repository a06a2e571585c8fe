//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNetboot has firmwares boot Linux from the boot directory of the user-mode
// network. iPXE takes its script by TFTP, then kernel and image by HTTP; OVMF
// takes iPXE first, by TFTP (PXE) or by HTTP. Nobody else serves them, and the
// program that does has no privilege.
func TestNetboot(t *testing.T) {
	dir := sharedDir(t)
	link := func(name, from string) {
		data, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	link("linux", image.Kernel)
	link("initrd", image.Initrd)
	script := "#!ipxe\nkernel http://10.0.2.2/linux initrd=initrd " + GuestConfig{}.kernelLine() + "\ninitrd http://10.0.2.2/initrd\nboot\n"
	must(t, os.WriteFile(filepath.Join(dir, "boot.ipxe"), []byte(script), 0o644))
	link("loader.efi", ipxeEFI)
	withoutPXE := []string{"-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n", "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"}
	for _, way := range []struct {
		name      string
		firmware  Firmware
		arguments []string
		file      string // of DHCP
		says      string // on the console
	}{
		{"IPXE", IPXE, nil, "bios=boot.ipxe", "tftp://10.0.2.2/boot.ipxe... ok"},
		{"OVMF", OVMF, nil, "uefi-x64=loader.efi", "NBP file downloaded successfully"},
		{"OVMFHTTP", OVMF, withoutPXE, "http-x64=http://10.0.2.2/loader.efi", ">>Start HTTP Boot over IPv4"},
	} {
		run(t, way.name, func(t *testing.T) {
			lab := startUnprivileged(t, []string{"--uplink", "user,boot=" + dir + ",boot-file=ipxe=boot.ipxe,boot-file=" + way.file},
				GuestConfig{Name: "g", QEMU: machine.QEMU, Firmware: way.firmware, Arguments: way.arguments, Later: true})
			begin := time.Now()
			must(t, lab.Boot(within(t, 4*time.Minute), 0, nil))
			out, err := os.ReadFile(lab.Guests[0].path("console.log"))
			must(t, err)
			if !strings.Contains(string(out), way.says) {
				t.Errorf("it booted, but not as it should have: no %q in\n%s", way.says, out)
			}
			t.Logf("booted over the network in %v", time.Since(begin).Round(time.Second))
		})
	}
}
