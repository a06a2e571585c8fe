package dhcp

import (
	"bytes"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/insomniacslk/dhcp/dhcpv4"
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
