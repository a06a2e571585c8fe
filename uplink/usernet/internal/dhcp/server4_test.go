package dhcp

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func config() Config {
	return Config{
		Domain: "internal",
		IPv4: &IPv4{
			Server: netip.MustParseAddr("10.0.2.2"), Prefix: netip.MustParsePrefix("10.0.2.0/24"),
			First: netip.MustParseAddr("10.0.2.15"), Last: netip.MustParseAddr("10.0.2.254"),
			Router: netip.MustParseAddr("10.0.2.2"), DNS: []netip.Addr{netip.MustParseAddr("10.0.2.3")},
			NTP: []netip.Addr{netip.MustParseAddr("10.0.2.4")}, MTU: 1500,
		},
		IPv6: &IPv6{
			MAC: [6]byte{2, 0, 0, 0, 0, 1}, Prefix: netip.MustParsePrefix("fd00::/64"),
			First: netip.MustParseAddr("fd00::1000"), Last: netip.MustParseAddr("fd00::10ff"),
			DNS: []netip.Addr{netip.MustParseAddr("fd00::3")}, NTP: []netip.Addr{netip.MustParseAddr("fd00::4")},
		},
	}
}

// lab is a server, its log and a clock.
type lab struct {
	*Server
	t   testing.TB
	log lines
	now time.Time
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newLab(t testing.TB, change func(*Config)) *lab {
	t.Helper()
	l := &lab{t: t, now: start}
	cfg := config()
	cfg.Log = hclog.New(&hclog.LoggerOptions{Output: &l.log})
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.Server = s
	return l
}

func (l *lab) logged(text string) int { return strings.Count(l.log.String(), text) }

// vm is a client behind a port.
func vm(port string, n byte) Client { return Client{Port: port, MAC: [6]byte{0x52, 0x54, 0, 0, 0, n}} }

func (l *lab) discover(c Client, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	l.t.Helper()
	m, err := dhcpv4.NewDiscovery(c.MAC[:], mods...)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.send(c, m)
}

// send answers with what the server says to m, nil for nothing.
func (l *lab) send(c Client, m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	l.t.Helper()
	l.now = l.now.Add(time.Second)
	reply, ok := l.Answer4(l.now, c, m.ToBytes())
	if !ok {
		return nil
	}
	r, err := dhcpv4.FromBytes(reply.Payload)
	if err != nil {
		l.t.Fatal(err)
	}
	if r.OpCode != dhcpv4.OpcodeBootReply || r.TransactionID != m.TransactionID || !bytes.Equal(r.ClientHWAddr, m.ClientHWAddr) {
		l.t.Fatalf("an answer to something else: %s", r.Summary())
	}
	if reply.To.Port() != 68 {
		l.t.Errorf("to port %d", reply.To.Port())
	}
	return r
}

func (l *lab) take(c Client, offer *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	l.t.Helper()
	m, err := dhcpv4.NewRequestFromOffer(offer)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.send(c, m)
}

// lease is what c gets by asking for any address, invalid for none.
func (l *lab) lease(c Client) netip.Addr {
	l.t.Helper()
	offer := l.discover(c)
	if offer == nil {
		return netip.Addr{}
	}
	ack := l.take(c, offer)
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck || !ack.YourIPAddr.Equal(offer.YourIPAddr) {
		l.t.Fatalf("offered %v, then answered %v", offer, ack)
	}
	return addr4(ack.YourIPAddr.To4())
}

// request asks for an address that the client has (renew) or had (reboot).
func (l *lab) request(c Client, a netip.Addr, renew bool) *dhcpv4.DHCPv4 {
	l.t.Helper()
	mods := []dhcpv4.Modifier{dhcpv4.WithHwAddr(c.MAC[:]), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)}
	if renew {
		mods = append(mods, dhcpv4.WithClientIP(a.AsSlice()))
	} else {
		mods = append(mods, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice())))
	}
	m, err := dhcpv4.New(mods...)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.send(c, m)
}

func TestOfferAndAck(t *testing.T) {
	l := newLab(t, nil)
	offer := l.discover(vm("web", 1), dhcpv4.WithRequestedOptions(dhcpv4.OptionInterfaceMTU, dhcpv4.OptionHostName,
		dhcpv4.OptionNTPServers, dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionBroadcastAddress))
	if offer == nil || offer.MessageType() != dhcpv4.MessageTypeOffer {
		t.Fatalf("%v", offer)
	}
	ack := l.take(vm("web", 1), offer)
	for name, pair := range map[string][2]any{
		"type":      {ack.MessageType(), dhcpv4.MessageTypeAck},
		"address":   {ack.YourIPAddr.String(), offer.YourIPAddr.String()},
		"server":    {ack.ServerIdentifier().String(), "10.0.2.2"},
		"mask":      {net.IP(ack.SubnetMask()).String(), "255.255.255.0"},
		"router":    {fmt.Sprint(ack.Router()), "[10.0.2.2]"},
		"DNS":       {fmt.Sprint(ack.DNS()), "[10.0.2.3]"},
		"domain":    {ack.DomainName(), "internal"},
		"lease":     {ack.IPAddressLeaseTime(0), time.Hour},
		"T1":        {ack.IPAddressRenewalTime(0), 30 * time.Minute},
		"T2":        {ack.IPAddressRebindingTime(0), 52*time.Minute + 30*time.Second},
		"MTU":       {string(offer.Options.Get(dhcpv4.OptionInterfaceMTU)), "\x05\xdc"},
		"hostname":  {offer.HostName(), "web"},
		"NTP":       {fmt.Sprint(offer.NTPServers()), "[10.0.2.4]"},
		"search":    {fmt.Sprint(offer.DomainSearch()), "[internal]"},
		"broadcast": {offer.BroadcastAddress().String(), "10.0.2.255"},
		"not asked": {ack.Options.Has(dhcpv4.OptionInterfaceMTU), false},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %v, want %v", name, pair[0], pair[1])
		}
	}
	if got := l.Addresses(l.now, "web"); len(got) != 1 || got[0].String() != ack.YourIPAddr.String() {
		t.Errorf("the port has %v", got)
	}
	if c, ok := l.Holder(l.now, addr4(ack.YourIPAddr.To4())); !ok || c != vm("web", 1) {
		t.Errorf("the address is %v's", c)
	}
	l.now = l.now.Add(time.Hour)
	if got := l.Leases(l.now); len(got) != 0 {
		t.Errorf("after its time a lease lasts: %v", got)
	}
}

// A client gets the address that it had: after a reboot, with another
// identifier, after its lease has ended, and from a server that knows nothing.
func TestSameAddressAgain(t *testing.T) {
	l := newLab(t, nil)
	c := vm("web", 1)
	first := l.lease(c)
	l.lease(vm("db", 2))
	offer := l.discover(c, dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte{255, 1, 2, 3})))
	if got := addr4(offer.YourIPAddr.To4()); got != first {
		t.Errorf("with another identifier %v, want %v", got, first)
	}
	if id := offer.Options.Get(dhcpv4.OptionClientIdentifier); !bytes.Equal(id, []byte{255, 1, 2, 3}) {
		t.Errorf("identifier %x in the answer", id)
	}
	l.now = l.now.Add(48 * time.Hour)
	if got := l.lease(c); got != first {
		t.Errorf("after two days %v, want %v", got, first)
	}
	for _, renew := range []bool{true, false} {
		if ack := l.request(c, first, renew); ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
			t.Errorf("asked for again, renew %v: %v", renew, ack)
		}
		fresh := newLab(t, nil)
		if ack := fresh.request(c, first, renew); ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
			t.Errorf("of a server that knows nothing, renew %v: %v", renew, ack)
		}
	}
}

func TestRequestsOfWhatIsNotTheirs(t *testing.T) {
	l := newLab(t, nil)
	hers := l.lease(vm("web", 1))
	for name, a := range map[string]netip.Addr{
		"another's":      hers,
		"of elsewhere":   netip.MustParseAddr("192.168.1.9"),
		"the server's":   netip.MustParseAddr("10.0.2.2"),
		"not given out":  netip.MustParseAddr("10.0.2.5"),
		"of the network": netip.MustParseAddr("10.0.2.255"),
	} {
		for _, renew := range []bool{true, false} {
			if r := l.request(vm("db", 2), a, renew); r == nil || r.MessageType() != dhcpv4.MessageTypeNak || !r.YourIPAddr.IsUnspecified() {
				t.Errorf("%s: %v", name, r)
			}
		}
	}
	if n := len(l.v4.byAddress); n != 1 {
		t.Errorf("%d leases after refusals, want 1", n)
	}
}

func TestReleaseAndDecline(t *testing.T) {
	l := newLab(t, func(c *Config) { c.IPv4.Last = c.IPv4.First }) // one address
	first := l.lease(vm("web", 1))
	give := func(kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) {
		m, err := dhcpv4.New(append(mods, dhcpv4.WithHwAddr(net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}), dhcpv4.WithMessageType(kind),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IP{10, 0, 2, 2})))...)
		if err != nil {
			t.Fatal(err)
		}
		if r := l.send(vm("web", 1), m); r != nil {
			t.Errorf("%s is answered by %v", kind, r)
		}
	}
	if l.discover(vm("db", 2)) != nil {
		t.Fatal("an offer of a full pool")
	}
	give(dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(net.IP{10, 0, 2, 99})) // not the client's
	if l.discover(vm("db", 2)) != nil {
		t.Error("what another did not release was offered")
	}
	give(dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(first.AsSlice()))
	if got := l.lease(vm("db", 2)); got != first {
		t.Errorf("after a release %v, want %v", got, first)
	}
	l.now = l.now.Add(2 * time.Hour)
	if got := l.lease(vm("web", 1)); got != first {
		t.Fatalf("after its end %v, want %v", got, first)
	}
	give(dhcpv4.MessageTypeDecline, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(first.AsSlice())))
	if l.discover(vm("web", 1)) != nil || l.discover(vm("db", 2)) != nil {
		t.Error("a declined address was offered")
	}
	l.now = l.now.Add(declineTime)
	if got := l.lease(vm("db", 2)); got != first {
		t.Errorf("after a while %v, want %v", got, first)
	}
	if r, d := l.Counters.Releases.Value(), l.Counters.Declines.Value(); r != 1 || d != 1 {
		t.Errorf("%d releases, %d declines; want 1 each", r, d)
	}
}

// A full pool is counted for each, told once, and keeps nobody from renewing.
func TestFullPool(t *testing.T) {
	l := newLab(t, func(c *Config) { c.IPv4.Last = netip.MustParseAddr("10.0.2.17") })
	var held []netip.Addr
	for i := range byte(3) {
		held = append(held, l.lease(vm(fmt.Sprint("vm", i), i)))
	}
	for i := range byte(5) {
		if l.discover(vm("late", 100+i)) != nil {
			t.Error("an offer of a full pool")
		}
	}
	if ack := l.request(vm("vm0", 0), held[0], true); ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("a renewal meanwhile: %v", ack)
	}
	if n := l.Counters.Full.Value(); n != 5 || l.logged("no address is left") != 1 {
		t.Errorf("%d counted, want 5; log:\n%s", n, l.log.String())
	}
	l.now = l.now.Add(time.Hour)
	if !l.lease(vm("late", 100)).IsValid() || l.logged("addresses are free again") != 1 {
		t.Errorf("after an hour there is none; log:\n%s", l.log.String())
	}
}

// One guest invents MACs: it gets its share, the others get theirs.
func TestShareOfOneGuest(t *testing.T) {
	l := newLab(t, func(c *Config) { c.PerGuest = 4 })
	got := 0
	for i := range byte(100) {
		if l.lease(vm("evil", i)).IsValid() {
			got++
		}
	}
	if got != 4 || l.Counters.OverShare.Value() != 96 || l.logged("more addresses than one may have") != 1 {
		t.Errorf("it has %d addresses, %d refused; log:\n%s", got, l.Counters.OverShare.Value(), l.log.String())
	}
	if !l.lease(vm("web", 200)).IsValid() {
		t.Error("another got none")
	}
	// Declined ones are a part of the share.
	l = newLab(t, func(c *Config) { c.PerGuest = 4 })
	for i := range byte(20) {
		a := l.lease(vm("evil", i))
		if !a.IsValid() {
			continue
		}
		m, _ := dhcpv4.New(dhcpv4.WithHwAddr(net.HardwareAddr{0x52, 0x54, 0, 0, 0, i}), dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline),
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice())))
		l.send(vm("evil", i), m)
	}
	if n := l.Counters.Declines.Value(); n != 4 {
		t.Errorf("%d addresses were put out of use by one guest, want 4", n)
	}
	// What has ended is the guest's own to use again.
	l.now = l.now.Add(time.Hour)
	if !l.lease(vm("evil", 50)).IsValid() || len(l.v4.byGuest["evil"]) != 4 {
		t.Errorf("%d leases, want 4", len(l.v4.byGuest["evil"]))
	}
}

func TestTooOften(t *testing.T) {
	l := newLab(t, nil)
	m, err := dhcpv4.NewDiscovery(net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1})
	if err != nil {
		t.Fatal(err)
	}
	answered := 0
	for range 1000 {
		if _, ok := l.Answer4(start, vm("evil", 1), m.ToBytes()); ok {
			answered++
		}
	}
	if n := l.Counters.TooOften.Value(); answered != messagesAtOnce || n != 1000-messagesAtOnce {
		t.Errorf("%d answered, %d not looked at", answered, n)
	}
	if !l.lease(vm("web", 1)).IsValid() {
		t.Error("another got none")
	}
}

func TestReservations(t *testing.T) {
	byMAC, byPort := netip.MustParseAddr("10.0.2.5"), netip.MustParseAddr("10.0.2.20")
	l := newLab(t, func(c *Config) {
		c.IPv4.Last = netip.MustParseAddr("10.0.2.21")
		c.Reservations = []Reservation{
			{MAC: vm("", 1).MAC, IPv4: byMAC, Hostname: "alice"},
			{Port: "db", IPv4: byPort},
		}
	})
	if got := l.lease(vm("web", 1)); got != byMAC {
		t.Errorf("by MAC %v, want %v", got, byMAC)
	}
	if got := l.discover(vm("web", 1), dhcpv4.WithRequestedOptions(dhcpv4.OptionHostName)).HostName(); got != "alice" {
		t.Errorf("hostname %q", got)
	}
	for i := range byte(6) { // all but the reserved one
		if got := l.lease(vm(fmt.Sprint("vm", i), 10+i)); got == byPort || !got.IsValid() {
			t.Errorf("to anybody %v", got)
		}
	}
	if l.discover(vm("late", 99)) != nil {
		t.Error("a reserved address was offered to anybody")
	}
	if got := l.lease(vm("db", 2)); got != byPort {
		t.Errorf("by port %v, want %v", got, byPort)
	}
	if r := l.request(vm("late", 99), byMAC, false); r.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("a reserved address was given to who asked for it: %v", r)
	}
}

// What somebody uses without a lease is not given to others.
func TestTakenAddresses(t *testing.T) {
	taken := netip.MustParseAddr("10.0.2.15")
	l := newLab(t, func(c *Config) {
		c.IPv4.Last = netip.MustParseAddr("10.0.2.16")
		c.Taken = func(a netip.Addr, port string) bool { return a == taken && port != "static" }
	})
	for i := range byte(3) {
		if a := l.lease(vm(fmt.Sprint("vm", i), i)); a == taken || a.IsValid() != (i == 0) {
			t.Errorf("client %d got %v", i, a)
		}
	}
	if r := l.request(vm("web", 9), taken, false); r.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("%v", r)
	}
	if r := l.request(vm("static", 9), taken, false); r.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("to who uses it: %v", r)
	}
}

// A VM that migrates takes its address along, one that borrows a MAC does not.
func TestLeaseFollows(t *testing.T) {
	attached := map[string]bool{"old": true, "new": true}
	l := newLab(t, func(c *Config) { c.Attached = func(port string) bool { return attached[port] } })
	a := l.lease(vm("old", 1))
	if r := l.request(vm("new", 1), a, true); r.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("while the first is there: %v", r)
	}
	attached["old"] = false
	if r := l.request(vm("new", 1), a, true); r.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("after it has left: %v", r)
	}
	if c, _ := l.Holder(l.now, a); c.Port != "new" || len(l.Addresses(l.now, "old")) != 0 {
		t.Errorf("the lease is %v's", c)
	}
}

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
