package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

func TestRefusedMessages(t *testing.T) {
	l := newLab(t, nil)
	c := vm("web", 1)
	for name, mod := range map[string]dhcpv4.Modifier{
		"relay":         dhcpv4.WithRelay(net.IP{10, 0, 2, 9}),
		"hops":          func(d *dhcpv4.DHCPv4) { d.HopCount = 1 },
		"option 82":     dhcpv4.WithGeneric(dhcpv4.OptionRelayAgentInformation, []byte{1, 1, 1}),
		"another MAC":   dhcpv4.WithHwAddr(net.HardwareAddr{2, 3, 4, 5, 6, 7}),
		"other server":  dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IP{10, 0, 2, 9})),
		"a reply":       func(d *dhcpv4.DHCPv4) { d.OpCode = dhcpv4.OpcodeBootReply },
		"long MAC":      dhcpv4.WithHwAddr(net.HardwareAddr{2, 3, 4, 5, 6, 7, 8}),
		"BOOTP":         dhcpv4.WithoutOption(dhcpv4.OptionDHCPMessageType),
		"an offer":      dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer),
		"nothing asked": dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
	} {
		if r := l.discover(c, mod); r != nil {
			t.Errorf("%s is answered by %v", name, r)
		}
	}
	if _, ok := l.Answer4(l.now, c, []byte{1, 1, 6}); ok {
		t.Error("three bytes are answered")
	}
	if r, f, m := l.Counters.Relayed.Value(), l.Counters.Foreign.Value(), l.Counters.Malformed.Value(); r != 3 || f != 2 || m != 6 {
		t.Errorf("%d relayed, %d foreign, %d malformed; want 3, 2, 6", r, f, m)
	}
	if len(l.v4.byAddress) != 0 {
		t.Error("refused messages leave leases")
	}
}

func TestInform(t *testing.T) {
	l := newLab(t, nil)
	m, err := dhcpv4.NewInform(net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}, net.IP{10, 0, 2, 77})
	if err != nil {
		t.Fatal(err)
	}
	r := l.send(vm("web", 1), m)
	if r == nil || !r.YourIPAddr.IsUnspecified() || r.Options.Has(dhcpv4.OptionIPAddressLeaseTime) || len(r.DNS()) != 1 {
		t.Errorf("%v", r)
	}
}

func TestDestinations(t *testing.T) {
	l := newLab(t, nil)
	c := vm("web", 1)
	a := l.lease(c)
	for want, mods := range map[string][]dhcpv4.Modifier{
		a.String() + ":68":   {dhcpv4.WithBroadcast(false)},
		"255.255.255.255:68": {dhcpv4.WithBroadcast(true)},
		"10.0.2.77:68":       {dhcpv4.WithBroadcast(true), dhcpv4.WithClientIP(net.IP{10, 0, 2, 77})},
	} {
		m, err := dhcpv4.NewDiscovery(c.MAC[:], mods...)
		if err != nil {
			t.Fatal(err)
		}
		if reply, ok := l.Answer4(l.now, c, m.ToBytes()); !ok || reply.To.String() != want {
			t.Errorf("to %v, want %s", reply.To, want)
		}
	}
}

func TestBootFiles(t *testing.T) {
	l := newLab(t, func(c *Config) {
		c.IPv4.Boot = Boot{NextServer: netip.MustParseAddr("10.0.2.9"), Files: map[Firmware]string{
			OtherFirmware: "other", BIOS: "undionly.kpxe", UEFIx64: "snponly.efi",
			HTTPx64: "http://10.0.2.2/boot.efi", IPXE: "http://10.0.2.2/" + strings.Repeat("i", 150),
		}}
	})
	arch := func(a iana.Arch, class string) []dhcpv4.Modifier {
		return []dhcpv4.Modifier{
			dhcpv4.WithOption(dhcpv4.OptClientArch(a)), dhcpv4.WithOption(dhcpv4.OptClassIdentifier(class)),
			dhcpv4.WithRequestedOptions(dhcpv4.OptionBootfileName, dhcpv4.OptionTFTPServerName),
		}
	}
	for _, c := range []struct {
		name, file, class string
		mods              []dhcpv4.Modifier
	}{
		{"no architecture", "other", "", nil},
		{"BIOS", "undionly.kpxe", "", arch(iana.INTEL_X86PC, "PXEClient:Arch:00000:UNDI:002001")},
		{"UEFI", "snponly.efi", "", arch(iana.EFI_X86_64, "PXEClient:Arch:00007")},
		{"UEFI, byte code", "snponly.efi", "", arch(iana.EFI_BC, "PXEClient:Arch:00009")},
		{"UEFI of arm64", "other", "", arch(iana.EFI_ARM64, "PXEClient:Arch:00011")},
		{"HTTP", "http://10.0.2.2/boot.efi", "HTTPClient", arch(iana.EFI_X86_64_HTTP, "HTTPClient:Arch:00016")},
		{"HTTP of arm64", "", "", arch(iana.EFI_ARM64_HTTP, "HTTPClient:Arch:00019")},
		{"iPXE", "http://10.0.2.2/" + strings.Repeat("i", 150), "", append(arch(iana.INTEL_X86PC, "PXEClient:Arch:00000"), dhcpv4.WithUserClass("iPXE", false))},
	} {
		offer := l.discover(vm("web", 1), c.mods...)
		short := c.file
		if len(short) > 127 {
			short = ""
		}
		if offer.BootFileName != short || offer.ClassIdentifier() != c.class {
			t.Errorf("%s: file %q, class %q", c.name, offer.BootFileName, offer.ClassIdentifier())
		}
		if c.mods != nil && offer.BootFileNameOption() != c.file {
			t.Errorf("%s: option %q, want %q", c.name, offer.BootFileNameOption(), c.file)
		}
		if next := offer.ServerIPAddr.String(); c.file != "" && next != "10.0.2.9" || c.file == "" && next != "0.0.0.0" {
			t.Errorf("%s: next server %s", c.name, next)
		}
	}
}

// An answer is never longer than its client takes.
func TestLengthOfAnswers(t *testing.T) {
	l := newLab(t, func(c *Config) {
		for i := range 12 {
			c.Search = append(c.Search, fmt.Sprintf("%s%d.example", strings.Repeat("s", 40), i))
		}
		c.IPv4.Boot.Files = map[Firmware]string{OtherFirmware: strings.Repeat("f", 250)}
	})
	all := dhcpv4.WithRequestedOptions(dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionBootfileName, dhcpv4.OptionTFTPServerName,
		dhcpv4.OptionNTPServers, dhcpv4.OptionInterfaceMTU, dhcpv4.OptionHostName)
	for _, c := range []struct {
		option uint16
		most   int
		search bool
	}{{0, 548, false}, {100, 548, false}, {1500, 1472, true}, {65535, 1472, true}} {
		mods := []dhcpv4.Modifier{all}
		if c.option != 0 {
			mods = append(mods, dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(c.option)))
		}
		m, err := dhcpv4.NewDiscovery(net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}, mods...)
		if err != nil {
			t.Fatal(err)
		}
		reply, ok := l.Answer4(l.now, vm("web", 1), m.ToBytes())
		r, err := dhcpv4.FromBytes(reply.Payload)
		if !ok || err != nil || len(reply.Payload) > c.most {
			t.Errorf("client takes %d: %d bytes, want at most %d", c.option, len(reply.Payload), c.most)
			continue
		}
		if len(r.Router()) != 1 || len(r.DNS()) != 1 || r.BootFileNameOption() == "" || (r.DomainSearch() != nil) != c.search {
			t.Errorf("client takes %d: %s", c.option, r.Summary())
		}
	}
}
