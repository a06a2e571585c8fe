package dhcp

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

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
		c.Taken = func(a netip.Addr, by Client) bool { return a == taken && by.Port != "static" }
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
	l := newLab(t, func(c *Config) { c.Moved = func(c Client, _ string) bool { return !attached[c.Port] } })
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
