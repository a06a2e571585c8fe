package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

var linkLocal = netip.MustParseAddr("fe80::2")

// send6 answers with what the server says to m, nil for nothing.
func (l *lab) send6(c Client, m *dhcpv6.Message) *dhcpv6.Message {
	l.t.Helper()
	l.now = l.now.Add(time.Second)
	reply, ok := l.Answer6(l.now, c, linkLocal, m.ToBytes())
	if !ok {
		return nil
	}
	r, err := dhcpv6.MessageFromBytes(reply.Payload)
	if err != nil {
		l.t.Fatal(err)
	}
	if r.TransactionID != m.TransactionID || reply.To != netip.AddrPortFrom(linkLocal, 546) || r.GetOneOption(dhcpv6.OptionServerID) == nil {
		l.t.Fatalf("to %v: %s", reply.To, r.Summary())
	}
	return r
}

func (l *lab) solicit(c Client, mods ...dhcpv6.Modifier) *dhcpv6.Message {
	l.t.Helper()
	m, err := dhcpv6.NewSolicit(c.MAC[:], mods...)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.send6(c, m)
}

// lease6 is what c gets by asking for any address, invalid for none.
func (l *lab) lease6(c Client) netip.Addr {
	l.t.Helper()
	adv := l.solicit(c)
	if adv == nil || adv.MessageType != dhcpv6.MessageTypeAdvertise {
		l.t.Fatalf("%v", adv)
	}
	if adv.Options.OneIANA().Options.OneAddress() == nil {
		return netip.Addr{}
	}
	m, err := dhcpv6.NewRequestFromAdvertise(adv)
	if err != nil {
		l.t.Fatal(err)
	}
	return address6(l.send6(c, m))
}

func address6(m *dhcpv6.Message) netip.Addr {
	if m == nil || m.Options.OneIANA() == nil || m.Options.OneIANA().Options.OneAddress() == nil {
		return netip.Addr{}
	}
	return addr6(m.Options.OneIANA().Options.OneAddress().IPv6Addr)
}

func TestSolicitAndRequest(t *testing.T) {
	l := newLab(t, nil)
	c := vm("web", 1)
	adv := l.solicit(c, dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList, dhcpv6.OptionNTPServer))
	ia := adv.Options.OneIANA()
	a := ia.Options.OneAddress()
	for name, pair := range map[string][2]any{
		"T1":     {ia.T1, 30 * time.Minute},
		"T2":     {ia.T2, 48 * time.Minute},
		"valid":  {a.ValidLifetime, time.Hour},
		"DNS":    {fmt.Sprint(adv.Options.DNS()), "[fd00::3]"},
		"search": {fmt.Sprint(adv.Options.DomainSearchList()), "[internal]"},
		"NTP":    {fmt.Sprint(adv.Options.NTPServers()), "[fd00::4]"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %v, want %v", name, pair[0], pair[1])
		}
	}
	first := l.lease6(c)
	if first != addr6(a.IPv6Addr) || !l.cfg.IPv6.Prefix.Contains(first) {
		t.Errorf("offered %v, given %v", a.IPv6Addr, first)
	}
	// Renewed, rebound and confirmed, by a server that knows it and by one that does not.
	for name, s := range map[string]*lab{"known": l, "new": newLab(t, nil)} {
		for _, kind := range []dhcpv6.MessageType{dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind} {
			r := s.ask6about(c, kind, first)
			if address6(r) != first || r.Options.OneIANA().Options.OneAddress().ValidLifetime != time.Hour {
				t.Errorf("%s %s: %v", name, kind, r)
			}
		}
		if r := s.ask6about(c, dhcpv6.MessageTypeConfirm, first); r.Options.Status().StatusCode != iana.StatusSuccess {
			t.Errorf("%s: %v", name, r)
		}
	}
	if r := l.ask6about(c, dhcpv6.MessageTypeConfirm, netip.MustParseAddr("2001:db8::1")); r.Options.Status().StatusCode != iana.StatusNotOnLink {
		t.Errorf("of elsewhere: %v", r)
	}
	// What a client no longer has is taken back.
	r := l.ask6about(c, dhcpv6.MessageTypeRenew, netip.MustParseAddr("fd00::1001"))
	all := r.Options.OneIANA().Options.Addresses()
	if len(all) != 2 || addr6(all[0].IPv6Addr) != first || all[1].ValidLifetime != 0 {
		t.Errorf("renewal of another address: %v", r)
	}
}

// ask6about sends a message about an address, for this server where the kind
// of message names one.
func (l *lab) ask6about(c Client, kind dhcpv6.MessageType, a netip.Addr) *dhcpv6.Message {
	l.t.Helper()
	m, err := dhcpv6.NewSolicit(c.MAC[:], dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: net.IP(a.AsSlice())}))
	if err != nil {
		l.t.Fatal(err)
	}
	m.MessageType = kind
	switch kind {
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		dhcpv6.WithServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: l.cfg.IPv6.MAC[:]})(m)
	default:
	}
	return l.send6(c, m)
}

func TestRapidCommit(t *testing.T) {
	l := newLab(t, nil)
	r := l.solicit(vm("web", 1), dhcpv6.WithRapidCommit)
	if r.MessageType != dhcpv6.MessageTypeReply || r.GetOneOption(dhcpv6.OptionRapidCommit) == nil || len(l.Leases(l.now)) != 1 {
		t.Errorf("%v", r)
	}
}

func TestRelease6AndDecline6(t *testing.T) {
	l := newLab(t, func(c *Config) { c.IPv6.Last = c.IPv6.First })
	a := l.lease6(vm("web", 1))
	if l.lease6(vm("db", 2)).IsValid() {
		t.Fatal("two have one address")
	}
	if n := l.Counters.Full.Value(); n != 1 || l.logged("no address is left") != 1 {
		t.Errorf("%d counted; log:\n%s", n, l.log.String())
	}
	if r := l.ask6about(vm("web", 1), dhcpv6.MessageTypeRelease, a); r.Options.Status().StatusCode != iana.StatusSuccess {
		t.Errorf("%v", r)
	}
	if got := l.lease6(vm("db", 2)); got != a {
		t.Errorf("after a release %v, want %v", got, a)
	}
	l.ask6about(vm("db", 2), dhcpv6.MessageTypeDecline, a)
	if l.lease6(vm("db", 2)).IsValid() {
		t.Error("a declined address was given")
	}
}

func TestRefusedMessages6(t *testing.T) {
	l := newLab(t, nil)
	c := vm("web", 1)
	other := dhcpv6.WithServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{9, 9, 9, 9, 9, 9}})
	without := func(code dhcpv6.OptionCode) dhcpv6.Modifier {
		return func(d dhcpv6.DHCPv6) { d.(*dhcpv6.Message).Options.Del(code) }
	}
	kind := func(k dhcpv6.MessageType) dhcpv6.Modifier {
		return func(d dhcpv6.DHCPv6) { d.(*dhcpv6.Message).MessageType = k }
	}
	for name, mods := range map[string][]dhcpv6.Modifier{
		"no client":               {without(dhcpv6.OptionClientID)},
		"a server in a solicit":   {other},
		"no server in a request":  {kind(dhcpv6.MessageTypeRequest)},
		"another server":          {kind(dhcpv6.MessageTypeRequest), other},
		"an answer":               {kind(dhcpv6.MessageTypeReply), other},
		"nothing to be confirmed": {kind(dhcpv6.MessageTypeConfirm)},
		"nothing to be rebound":   {kind(dhcpv6.MessageTypeRebind), without(dhcpv6.OptionIANA)},
	} {
		if r := l.solicit(c, mods...); r != nil {
			t.Errorf("%s is answered by %v", name, r)
		}
	}
	m, err := dhcpv6.NewSolicit(c.MAC[:])
	if err != nil {
		t.Fatal(err)
	}
	relayed, err := dhcpv6.EncapsulateRelay(m, dhcpv6.MessageTypeRelayForward, net.ParseIP("fd00::9"), net.ParseIP("fe80::9"))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := l.Answer6(l.now, c, linkLocal, relayed.ToBytes()); ok || l.Counters.Relayed.Value() != 1 {
		t.Error("a relay is answered")
	}
	if _, ok := l.Answer6(l.now, c, linkLocal, []byte{1}); ok {
		t.Error("one byte is answered")
	}
	if f, m := l.Counters.Foreign.Value(), l.Counters.Malformed.Value(); f != 1 || m != 6 {
		t.Errorf("%d foreign, %d malformed; want 1 and 6", f, m)
	}
	if len(l.v6.byAddress) != 0 {
		t.Error("refused messages leave leases")
	}
}

func TestInformationRequest(t *testing.T) {
	l := newLab(t, func(c *Config) {
		c.IPv6.Boot.Files = map[Firmware]string{
			OtherFirmware: "tftp://[fd00::2]/other", BIOS: "/file", HTTPx64: "http://[fd00::2]/boot.efi", IPXE: "http://[fd00::2]/script",
		}
	})
	ask := func(mods ...dhcpv6.Modifier) *dhcpv6.Message {
		m, err := dhcpv6.NewMessage(append(mods, dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionBootfileURL))...)
		if err != nil {
			t.Fatal(err)
		}
		m.MessageType = dhcpv6.MessageTypeInformationRequest
		return l.send6(vm("web", 1), m)
	}
	r := ask()
	if len(r.Options.DNS()) != 1 || r.Options.InformationRefreshTime(0) != refresh || r.Options.BootFileURL() != "tftp://[fd00::2]/other" {
		t.Errorf("%v", r)
	}
	class := dhcpv6.WithOption(&dhcpv6.OptVendorClass{EnterpriseNumber: 343, Data: [][]byte{[]byte("HTTPClient:Arch:00016:UNDI:003001")}})
	r = ask(dhcpv6.WithArchType(iana.EFI_X86_64_HTTP), class)
	if r.Options.BootFileURL() != "http://[fd00::2]/boot.efi" || string(r.Options.VendorClass(343)[0]) != "HTTPClient" {
		t.Errorf("%v", r)
	}
	for server, want := range map[netip.Addr]string{netip.MustParseAddr("fd00::1"): "tftp://[fd00::1]/file", {}: ""} {
		l.cfg.IPv6.BootServer = server
		if r = ask(dhcpv6.WithArchType(iana.INTEL_X86PC)); r.Options.BootFileURL() != want {
			t.Errorf("of server %v: %q, want %q", server, r.Options.BootFileURL(), want)
		}
	}
	if r = ask(dhcpv6.WithUserClass([]byte("iPXE"))); r.Options.BootFileURL() != "http://[fd00::2]/script" {
		t.Errorf("%v", r)
	}
	if len(l.v6.byAddress) != 0 {
		t.Error("information leaves leases")
	}
}

// A second identity association gets nothing: a client has one address.
func TestSecondAssociation(t *testing.T) {
	l := newLab(t, nil)
	second := func(d dhcpv6.DHCPv6) { d.AddOption(&dhcpv6.OptIANA{IaId: [4]byte{9, 9, 9, 9}}) }
	r := l.solicit(vm("web", 1), dhcpv6.WithRapidCommit, second)
	all := r.Options.IANA()
	if len(all) != 2 || all[1].IaId != [4]byte{9, 9, 9, 9} || all[1].Options.Status().StatusCode != iana.StatusNoAddrsAvail || all[1].Options.OneAddress() != nil {
		t.Errorf("%v", r)
	}
}
