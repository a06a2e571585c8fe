package dhcp

import (
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
)

// FuzzAnswer4: whatever a guest sends, answers are well formed, and no more
// leases exist than a guest may have.
func FuzzAnswer4(f *testing.F) {
	c := vm("web", 1)
	for _, kind := range []dhcpv4.MessageType{1, 3, 4, 7, 8} {
		m, err := dhcpv4.NewDiscovery(c.MAC[:], dhcpv4.WithMessageType(kind), dhcpv4.WithUserClass("iPXE", true),
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IP{10, 0, 2, 15})), dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1400)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m.ToBytes())
	}
	l := newLab(f, func(c *Config) { c.PerGuest, c.IPv4.Boot.Files = 2, map[Firmware]string{OtherFirmware: "boot"} })
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) > 34 && payload[2] == 6 { // most inputs would stop at the MAC
			copy(payload[28:], c.MAC[:])
		}
		l.now = l.now.Add(offerTime)
		reply, ok := l.Answer4(l.now, c, payload)
		if len(l.v4.byGuest["web"]) > 2 || len(l.v4.byAddress) != len(l.v4.byGuest["web"]) {
			t.Fatalf("%d leases, %d of the guest", len(l.v4.byAddress), len(l.v4.byGuest["web"]))
		}
		if !ok {
			return
		}
		if m, err := dhcpv4.FromBytes(reply.Payload); err != nil || len(reply.Payload) > maxMessage4 || !reply.To.Addr().Is4() {
			t.Fatalf("%v %v to %v", m, err, reply.To)
		}
	})
}

// FuzzAnswer6 is the same for DHCPv6.
func FuzzAnswer6(f *testing.F) {
	c := vm("web", 1)
	for _, kind := range []dhcpv6.MessageType{1, 3, 4, 5, 6, 8, 9, 11} {
		m, err := dhcpv6.NewSolicit(c.MAC[:], dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP("fd00::1000")}), dhcpv6.WithUserClass([]byte("iPXE")))
		if err != nil {
			f.Fatal(err)
		}
		m.MessageType = kind
		f.Add(m.ToBytes())
	}
	l := newLab(f, func(c *Config) {
		c.PerGuest, c.IPv6.Boot.Files = 2, map[Firmware]string{OtherFirmware: "http://[fd00::2]/boot"}
	})
	f.Fuzz(func(t *testing.T, payload []byte) {
		l.now = l.now.Add(offerTime)
		reply, ok := l.Answer6(l.now, c, netip.MustParseAddr("fe80::2"), payload)
		if len(l.v6.byGuest["web"]) > 2 || len(l.v6.byAddress) != len(l.v6.byGuest["web"]) {
			t.Fatalf("%d leases, %d of the guest", len(l.v6.byAddress), len(l.v6.byGuest["web"]))
		}
		if !ok {
			return
		}
		if m, err := dhcpv6.MessageFromBytes(reply.Payload); err != nil {
			t.Fatalf("%v %v", m, err)
		}
	})
}
