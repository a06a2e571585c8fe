package integration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// Firmware is what a guest starts with. Each but Linux has a virtio-net driver
// of its own, which takes a lease and loads what comes next.
type Firmware int

// The kinds of firmware.
const (
	Linux Firmware = iota // QEMU loads the image's kernel, and its driver is the only one
	IPXE                  // the boot ROM of QEMU's virtio-net devices, under SeaBIOS
	OVMF                  // UEFI, edk2's driver
	UBoot                 // Das U-Boot for QEMU's x86 machines
)

// Files of Debian's packages ipxe-qemu, ovmf and u-boot-qemu.
const (
	ipxeROM   = "/usr/lib/ipxe/qemu/pxe-virtio.rom"
	ipxeEFI   = "/usr/lib/ipxe/snponly.efi" // an EFI program that uses the firmware's driver
	ovmfCode  = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfState = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	ubootROM  = "/usr/lib/u-boot/qemu-x86/u-boot.rom"
)

// machine is what the firmware wants of the machine.
func (f Firmware) machine() string {
	if f == IPXE {
		return ",graphics=off" // SeaBIOS then talks on the serial port
	}
	return ""
}

// nic is what the firmware wants of the NIC.
func (f Firmware) nic() string {
	switch f {
	case IPXE:
		return "bus=" + nicBus + ",bootindex=1,romfile=" + ipxeROM
	case OVMF:
		return "bus=" + nicBus + ",bootindex=1,romfile="
	case UBoot:
		// It does not look behind a PCI Express port.
		return "bus=pcie.0,disable-legacy=on,romfile="
	default:
		return "bus=" + nicBus + ",romfile="
	}
}

// bootOptions are QEMU's for what the guest starts with.
func (g *Guest) bootOptions() ([]string, error) {
	c := g.cfg
	switch c.Firmware {
	case IPXE:
		return nil, nil
	case OVMF:
		state, err := os.ReadFile(ovmfState)
		if err == nil {
			err = os.WriteFile(g.path("ovmf.fd"), state, 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("integration: OVMF: %w: %w", err, errSetup)
		}
		return []string{
			"-drive", "if=pflash,format=raw,readonly=on,file=" + ovmfCode,
			"-drive", "if=pflash,format=raw,file=" + g.path("ovmf.fd"),
		}, nil
	case UBoot:
		return []string{"-bios", ubootROM}, nil
	default:
		return []string{"-kernel", c.Image.Kernel, "-initrd", c.Image.Initrd, "-append", c.kernelLine()}, nil
	}
}

// AwaitConsole waits until the guest has printed a text on its console since it
// was powered on.
func (g *Guest) AwaitConsole(ctx context.Context, text string) error {
	return poll(ctx, fmt.Sprintf("%q on %s's console", text, g.cfg.Name), func() (bool, error) {
		if err := g.proc.alive(); err != nil {
			return false, err
		}
		out, err := os.ReadFile(g.path("console.log"))
		if err != nil {
			return false, err
		}
		return strings.Contains(string(out[min(g.consoleBefore, int64(len(out))):]), text), nil
	})
}

// keys are the names of QEMU's keys that are not the characters themselves.
var keys = map[rune]string{' ': "spc", '\n': "ret", '.': "dot", ';': "semicolon", ':': "shift-semicolon", '-': "minus", '_': "shift-minus"}

// Type types on the guest's keyboard, slowly.
func (g *Guest) Type(ctx context.Context, text string) error {
	return g.monitor(ctx, func(m *monitor) error {
		for _, r := range text {
			key, ok := keys[r]
			if !ok {
				key = string(r)
			}
			if err := m.human(ctx, "sendkey "+key+" 20"); err != nil {
				return err
			}
			select {
			case <-time.After(60 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
}
