package ndp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

var (
	gatewayMAC = [6]byte{0x02, 0, 0, 0, 0, 1}
	guestMAC   = [6]byte{0x52, 0x54, 0, 0, 0, 2}
	otherMAC   = [6]byte{0x52, 0x54, 0, 0, 0, 3}
	start      = time.Unix(1_000_000, 0)
)

func config() Config {
	return Config{
		MAC: gatewayMAC,
		Addresses: []netip.Addr{
			netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fe80::1"),
		},
		Router: &Router{
			Prefix: netip.MustParsePrefix("fd00::/64"), Autonomous: true, Managed: true, MTU: 1500,
			DNS: []netip.Addr{netip.MustParseAddr("fd00::1")}, Search: []string{"internal"},
		},
	}
}

func newGateway(t testing.TB, change func(*Config)) *Gateway {
	t.Helper()
	cfg := config()
	if change != nil {
		change(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// wire is the bytes of hexadecimal digits with spaces and line comments.
func wire(t testing.TB, text string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "//")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// asGuest makes frames as a guest does: with the code of a Gateway that has the
// guest's addresses.
func asGuest(t testing.TB, mac [6]byte, addresses ...string) *Gateway {
	t.Helper()
	return newGateway(t, func(c *Config) {
		c.MAC, c.Router, c.Addresses = mac, nil, nil
		for _, a := range addresses {
			c.Addresses = append(c.Addresses, netip.MustParseAddr(a))
		}
	})
}

func TestARP(t *testing.T) {
	const request = `
		ffffffffffff 525400000002 0806 // to everybody
		0001 0800 06 04 0001           // Ethernet, IPv4, request
		525400000002 0a00020f          // sender 10.0.2.15
		000000000000 0a000202          // who has 10.0.2.2?
		000000000000000000000000000000000000 // padding to 60
	`
	const reply = `
		525400000002 020000000001 0806
		0001 0800 06 04 0002
		020000000001 0a000202
		525400000002 0a00020f
	`
	g := newGateway(t, nil)
	got, mine := g.Answer("web", wire(t, request), nil)
	if want := wire(t, reply); !mine || !bytes.Equal(got, want) {
		t.Errorf("mine %v\n%x, want\n%x", mine, got, want)
	}
	if mac, ok := g.Lookup(netip.MustParseAddr("10.0.2.15")); !ok || mac != guestMAC {
		t.Errorf("the asker is at %x %v", mac, ok)
	}
	for name, change := range map[string]func(b []byte){
		"for another":        func(b []byte) { b[41] = 9 },
		"a reply":            func(b []byte) { b[21] = 2 },
		"forged sender":      func(b []byte) { b[27] = 9 },
		"group as a sender":  func(b []byte) { b[6], b[22] = 1, 1 },
		"of another network": func(b []byte) { b[15] = 6 },
	} {
		b := wire(t, request)
		change(b)
		if got, mine := g.Answer("web", b, nil); len(got) != 0 || !mine {
			t.Errorf("%s: answered %x, mine %v", name, got, mine)
		}
	}
	if a, m := g.Counters.ARP.Value(), g.Counters.Malformed.Value(); a != 1 || m != 3 {
		t.Errorf("%d answered, %d malformed; want 1 and 3", a, m)
	}
}

// A guest that looks whether the gateway's address is free learns that it is
// not, and one that claims it is not believed.
func TestARPClaims(t *testing.T) {
	g := newGateway(t, nil)
	const probe = `
		ffffffffffff 525400000002 0806 0001 0800 06 04 0001
		525400000002 00000000 000000000000 0a000202`
	if got, _ := g.Answer("web", wire(t, probe), nil); len(got) != 42 {
		t.Errorf("a probe is answered by %x", got)
	}
	claim := wire(t, probe)
	copy(claim[28:], []byte{10, 0, 2, 2})
	if got, _ := g.Answer("web", claim, nil); len(got) != 42 || g.Counters.Forged.Value() != 1 {
		t.Errorf("a claim is answered by %x and counted %d times", got, g.Counters.Forged.Value())
	}
	if mac, ok := g.Lookup(netip.MustParseAddr("10.0.2.2")); ok {
		t.Errorf("the gateway's own address is at %x", mac)
	}
}

func TestRouterSolicitation(t *testing.T) {
	const solicitation = `
		333300000002 525400000002 86dd
		60000000 0010 3a ff                     // 16 bytes of ICMPv6, hop limit 255
		fe80000000000000505400fffe000002
		ff020000000000000000000000000002
		85 00 a2ab 00000000                     // router solicitation
		01 01 525400000002                      // from this MAC
	`
	const advertisement = `
		525400000002 020000000001 86dd          // to who asked
		60000000 0070 3a ff
		fe800000000000000000000000000001
		ff020000000000000000000000000001
		86 00 e1dd 40 80 0708 00000000 00000000 // hop limit 64, managed, 1800 s
		01 01 020000000001                      // the router's MAC
		03 04 40 c0 00278d00 00093a80 00000000  // prefix: on link, autonomous, 30 and 7 days
		fd000000000000000000000000000000
		19 03 0000 00000708                     // resolver
		fd000000000000000000000000000001
		1f 03 0000 00000708                     // search list: "internal"
		08 696e7465726e616c 00 000000000000
		05 01 0000 000005dc                     // MTU
	`
	g := newGateway(t, nil)
	got, mine := g.Answer("web", fixSum(wire(t, solicitation)), nil)
	if want := fixSum(wire(t, advertisement)); !mine || !bytes.Equal(got, want) {
		t.Errorf("mine %v\n%x, want\n%x", mine, got, want)
	}
	if _, ok := parse(got); !ok {
		t.Error("what was said is malformed by the rules for what is heard")
	}
	silent := newGateway(t, func(c *Config) { c.Router = nil })
	if got, mine := silent.Answer("web", fixSum(wire(t, solicitation)), nil); len(got) != 0 || !mine {
		t.Errorf("a gateway that is no router answers %x, mine %v", got, mine)
	}
}

// fixSum computes the checksum of an ICMPv6 frame.
func fixSum(frame []byte) []byte {
	ip := header.IPv6(frame[header.EthernetMinimumSize:])
	body := ip[header.IPv6MinimumSize:][:ip.PayloadLength()]
	body[2], body[3] = 0, 0
	x := ^sum(netip.AddrFrom16(ip.SourceAddress().As16()), netip.AddrFrom16(ip.DestinationAddress().As16()), body)
	body[2], body[3] = byte(x>>8), byte(x)
	return frame
}

func TestNeighbourSolicitation(t *testing.T) {
	g, guest := newGateway(t, nil), asGuest(t, guestMAC, "fe80::2", "fd00::2")
	for _, own := range []string{"fe80::1", "fd00::1"} {
		question := guest.Ask(netip.MustParseAddr(own), nil)
		answer, mine := g.Answer("web", question, nil)
		m, ok := parse(answer)
		if !mine || !ok || [6]byte(answer[:6]) != guestMAC || m.dst != netip.MustParseAddr("fe80::2") {
			t.Fatalf("%s: %x", own, answer)
		}
		na := header.NDPNeighborAdvert(m.body[header.ICMPv6HeaderSize:])
		if !na.RouterFlag() || !na.SolicitedFlag() || !na.OverrideFlag() || m.src != netip.MustParseAddr(own) {
			t.Errorf("%s: flags %x from %v", own, m.body[4], m.src)
		}
		if guest.Answer("gateway", answer, nil); !found(guest, own, gatewayMAC) {
			t.Errorf("the guest did not learn %s", own)
		}
	}
	if !found(g, "fe80::2", guestMAC) {
		t.Error("the gateway did not learn who asked")
	}
	if answer, mine := g.Answer("web", guest.Ask(netip.MustParseAddr("fd00::9"), nil), nil); len(answer) != 0 || !mine {
		t.Errorf("for a neighbour: %x, mine %v", answer, mine)
	}
	// Duplicate address detection: the source is unspecified.
	probe := guest.icmp(nil, [6]byte{0x33, 0x33, 0xff, 0, 0, 1}, netip.IPv6Unspecified(), netip.MustParseAddr("ff02::1:ff00:1"),
		append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, netip.MustParseAddr("fd00::1").AsSlice()...))
	answer, _ := g.Answer("web", probe, nil)
	m, ok := parse(answer)
	if !ok || m.dst != allNodes || header.NDPNeighborAdvert(m.body[4:]).SolicitedFlag() {
		t.Errorf("a probe is answered by %x", answer)
	}
}

func found(g *Gateway, a string, mac [6]byte) bool {
	got, ok := g.Lookup(netip.MustParseAddr(a))
	return ok && got == mac
}

func TestMalformedDiscovery(t *testing.T) {
	g, guest := newGateway(t, nil), asGuest(t, guestMAC, "fe80::2")
	good := guest.Ask(netip.MustParseAddr("fe80::1"), nil)
	for i, c := range []struct {
		name   string
		change func(b []byte) []byte
	}{
		{"a hop", func(b []byte) []byte { b[21] = 254; return b }},
		{"a code", func(b []byte) []byte { b[55] = 1; return fixSum(b) }},
		{"a wrong checksum", func(b []byte) []byte { b[56]++; return b }},
		{"cut short", func(b []byte) []byte { return b[:len(b)-1] }},
		{"an option of length 0", func(b []byte) []byte { b[79] = 0; return fixSum(b) }},
		{"an option beyond the end", func(b []byte) []byte { b[79] = 2; return fixSum(b) }},
		{"another's MAC", func(b []byte) []byte { b[85]++; return fixSum(b) }},
		{"a group as a target", func(b []byte) []byte { b[62] = 0xff; return fixSum(b) }},
		{"a group as a source", func(b []byte) []byte { b[22] = 0xff; return fixSum(b) }},
		{"a probe with a MAC", func(b []byte) []byte { clear(b[22:38]); return fixSum(b) }},
	} {
		if reply, mine := g.Answer("web", c.change(bytes.Clone(good)), nil); len(reply) != 0 || !mine {
			t.Errorf("%s: answered %x, mine %v", c.name, reply, mine)
		}
		if n := g.Counters.Malformed.Value(); n != uint64(i+1) {
			t.Fatalf("%s: %d counted, want %d", c.name, n, i+1)
		}
	}
	if _, ok := g.Lookup(netip.MustParseAddr("fe80::2")); ok {
		t.Error("something was learned of a malformed message")
	}
}

// Frames of other protocols are left to others.
func TestNotMine(t *testing.T) {
	g := newGateway(t, nil)
	echo := fixSum(asGuest(t, guestMAC, "fe80::2").icmp(nil, gatewayMAC, netip.MustParseAddr("fe80::2"), netip.MustParseAddr("fe80::1"), []byte{128, 0, 0, 0, 0, 1, 0, 1}))
	for _, frame := range [][]byte{nil, make([]byte, 13), make([]byte, 60), echo, echo[:54]} {
		if _, mine := g.Answer("web", frame, nil); mine {
			t.Errorf("%x is taken", frame)
		}
	}
	ours := []byte{131, 134, 137, 143}
	for _, kind := range ours {
		echo[54] = kind
		if reply, mine := g.Answer("web", echo, nil); !mine || len(reply) != 0 {
			t.Errorf("type %d: mine %v, answered %x", kind, mine, reply)
		}
	}
}

// A guest that claims one address after another forgets its own, and one that
// is given to another is not its to claim.
func TestShares(t *testing.T) {
	given := netip.MustParseAddr("10.0.2.99")
	g := newGateway(t, func(c *Config) {
		c.PerGuest, c.Neighbours = 4, 6
		c.Holder = func(a netip.Addr) ([6]byte, bool) { return otherMAC, a == given }
	})
	claim := func(guest string, mac [6]byte, a string) {
		g.Answer(guest, asGuest(t, mac, a).Ask(netip.MustParseAddr("10.0.2.2"), nil), nil)
	}
	claim("db", otherMAC, "10.0.2.20")
	for i := range 10 {
		claim("web", guestMAC, fmt.Sprintf("10.0.2.%d", 100+i))
	}
	if !found(g, "10.0.2.20", otherMAC) || !found(g, "10.0.2.109", guestMAC) || found(g, "10.0.2.105", guestMAC) {
		t.Error("want the other's address, and the last four of who claimed ten")
	}
	if n := g.Counters.ManyClaimed.Value(); n != 6 {
		t.Errorf("%d forgotten, want 6", n)
	}
	claim("web", guestMAC, given.String())
	if claim("db", otherMAC, given.String()); !found(g, given.String(), otherMAC) || g.Counters.Forged.Value() != 1 {
		t.Errorf("a given address: %d claims refused", g.Counters.Forged.Value())
	}
	claim("third", guestMAC, "10.0.2.200")
	if n := g.Counters.TableFull.Value(); n != 1 {
		t.Errorf("%d claims found no place, want 1", n)
	}
	// An address moves with its guest to another port.
	claim("db", otherMAC, "10.0.2.109")
	if !found(g, "10.0.2.109", otherMAC) {
		t.Error("an address did not move")
	}
	for _, guest := range []string{"web", "db"} {
		g.Forget(guest)
	}
	if len(g.table.byAddress) != 0 || len(g.table.byGuest) != 0 {
		t.Errorf("%d addresses of %d guests are left", len(g.table.byAddress), len(g.table.byGuest))
	}
}

func TestAdvertise(t *testing.T) {
	g := newGateway(t, nil)
	now, seen := start, 0
	for range 50 {
		frame, due := g.Advertise(now, nil)
		if !due || !bytes.Equal(frame, g.advert) {
			t.Fatalf("after %d: due %v, %x", seen, due, frame)
		}
		seen++
		if _, again := g.Advertise(now, nil); again {
			t.Fatal("two at the same moment")
		}
		next, ok := g.Next()
		wait := next.Sub(now)
		most := 10 * time.Minute
		if seen < 3 {
			most = 16 * time.Second
		}
		if !ok || wait < 3*time.Second || wait > most {
			t.Fatalf("the next after %d is due in %v", seen, wait)
		}
		now = next
	}
	bye := g.Farewell(nil)
	m, ok := parse(bye)
	if !ok || header.NDPRouterAdvert(m.body[4:]).RouterLifetime() != 0 || len(bye) != len(g.advert) {
		t.Errorf("farewell %x", bye)
	}
	silent := newGateway(t, func(c *Config) { c.Router = nil })
	if _, ok := silent.Next(); ok || len(silent.Farewell(nil)) != 0 {
		t.Error("a gateway that is no router has something to advertise")
	}
	if _, due := silent.Advertise(start, nil); due {
		t.Error("a gateway that is no router advertises")
	}
}

func TestNewRefuses(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"unicast address":          func(c *Config) { c.MAC[0] = 1 },
		"at least one":             func(c *Config) { c.Addresses = nil },
		"without zone":             func(c *Config) { c.Addresses[2] = netip.MustParseAddr("fe80::1%eth0") },
		"none of fe80::/10":        func(c *Config) { c.Addresses = c.Addresses[:2] },
		"both are 0":               func(c *Config) { c.PerGuest = -1 },
		"without an IPv6 address":  func(c *Config) { c.Addresses = c.Addresses[:1] },
		"without host bits":        func(c *Config) { c.Router.Prefix = netip.MustParsePrefix("fd00::1/64") },
		"64 bits only":             func(c *Config) { c.Router.Prefix = netip.MustParsePrefix("fd00::/56") },
		"1280 to 65535":            func(c *Config) { c.Router.MTU = 576 },
		"want 4s to 30m":           func(c *Config) { c.Router.Interval = time.Second },
		"advertised resolver 10.0": func(c *Config) { c.Router.DNS = c.Addresses[:1] },
	} {
		cfg := config()
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// FuzzAnswer: whatever a guest sends, what is said is well formed and goes to
// nobody else.
func FuzzAnswer(f *testing.F) {
	guest := asGuest(f, guestMAC, "fe80::2", "10.0.2.15")
	for _, a := range []string{"fe80::1", "fd00::1", "10.0.2.2"} {
		f.Add(guest.Ask(netip.MustParseAddr(a), nil))
	}
	f.Add(guest.icmp(nil, gatewayMAC, netip.MustParseAddr("fe80::2"), netip.MustParseAddr("ff02::2"), []byte{133, 0, 0, 0, 0, 0, 0, 0}))
	g := newGateway(f, nil)
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := bytes.Clone(frame)
		if len(frame) >= 58 { // most inputs would stop at the checksum
			if ip := header.IPv6(frame[14:]); ip.IsValid(len(ip)) && ip.PayloadLength() >= 4 {
				fixSum(frame)
				before = bytes.Clone(frame)
			}
		}
		reply, mine := g.Answer("web", frame, nil)
		switch {
		case !bytes.Equal(frame, before):
			t.Fatal("the frame was changed")
		case len(reply) == 0:
			return
		case !mine || !bytes.Equal(reply[:6], frame[6:12]) || [6]byte(reply[6:12]) != gatewayMAC:
			t.Fatalf("mine %v, %x", mine, reply)
		}
		if header.Ethernet(reply).Type() == header.IPv6ProtocolNumber {
			if _, ok := parse(reply); !ok {
				t.Fatalf("malformed: %x", reply)
			}
		}
	})
}
