package dhcp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/iana"
)

// Firmware is what a client boots with, as far as it needs files of its own.
type Firmware string

// The kinds of firmware. OtherFirmware is each that is not named, and of the
// named ones each that has no file of its own.
const (
	OtherFirmware Firmware = ""
	BIOS          Firmware = "bios"
	UEFIx86       Firmware = "uefi-ia32"
	UEFIx64       Firmware = "uefi-x64"
	UEFIARM64     Firmware = "uefi-arm64"
	HTTPx64       Firmware = "http-x64" // UEFI that boots by HTTP; its file is a URL
	HTTPARM64     Firmware = "http-arm64"
	IPXE          Firmware = "ipxe" // whatever it runs on
)

var firmwares = []Firmware{OtherFirmware, BIOS, UEFIx86, UEFIx64, UEFIARM64, HTTPx64, HTTPARM64, IPXE}

// Boot is what is told to clients that boot over the network.
type Boot struct {
	NextServer netip.Addr          // of TFTP (DHCPv4); invalid: the server itself
	Files      map[Firmware]string // names on that server, or URLs; empty: nothing is told
}

func (b Boot) validate() error {
	for firmware, file := range b.Files {
		if !slices.Contains(firmwares, firmware) {
			return fmt.Errorf("dhcp: firmware %q; want one of %q", firmware, firmwares[1:])
		}
		if file == "" || len(file) > 255 || strings.ContainsAny(file, "\x00\n") {
			return fmt.Errorf("dhcp: boot file %q of firmware %q: want 1 to 255 bytes in one line", file, firmware)
		}
		if firmware.http() && !isURL(file) {
			return fmt.Errorf("dhcp: boot file %q of firmware %q: want a URL of http or https", file, firmware)
		}
	}
	if b.NextServer.IsValid() && !b.NextServer.Is4() {
		return fmt.Errorf("dhcp: next server %v: want an IPv4 address", b.NextServer)
	}
	return nil
}

func (f Firmware) http() bool { return f == HTTPx64 || f == HTTPARM64 }

func isURL(file string) bool {
	return strings.HasPrefix(file, "http://") || strings.HasPrefix(file, "https://")
}

// file is what firmware f boots; empty: nothing.
func (b Boot) file(f Firmware) string {
	if file, ok := b.Files[f]; ok {
		return file
	}
	file := b.Files[OtherFirmware]
	if f.http() && !isURL(file) {
		return ""
	}
	return file
}

// firmware names what speaks of itself by the option of architectures (93 in
// RFC 4578, 61 in RFC 5970). A client without it, and one that is told apart by
// nothing else, is OtherFirmware.
func firmware(archs []iana.Arch, ipxe bool) Firmware {
	if ipxe {
		return IPXE
	}
	for _, a := range archs {
		switch a {
		case iana.INTEL_X86PC:
			return BIOS
		case iana.EFI_IA32:
			return UEFIx86
		case iana.EFI_X86_64, iana.EFI_BC: // firmware of x64 calls itself either
			return UEFIx64
		case iana.EFI_ARM64:
			return UEFIARM64
		case iana.EFI_X86_64_HTTP, iana.EFI_BC_HTTP:
			return HTTPx64
		case iana.EFI_ARM64_HTTP:
			return HTTPARM64
		default:
		}
	}
	return OtherFirmware
}
